"""The page allocator against a naive model: a byte for each page, and a dict of live blocks."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from concmem.machine import Machine
from concmem.mm.page import Page

from .helpers import free_runs, nr_buddy_pages, nr_managed, on_cpu

GFP_KERNEL = 0xCC0
GFP_ATOMIC = 0x820
MOVABLE = 0x08
RECLAIMABLE = 0x10
DMA = 0x01
ZERO = 0x100
COMP = 0x40000
NOWARN = 0x2000

GFPS = (
    GFP_KERNEL,
    GFP_KERNEL | MOVABLE,
    GFP_KERNEL | RECLAIMABLE,
    GFP_ATOMIC,
    GFP_KERNEL | DMA,
    GFP_KERNEL | ZERO,
    GFP_KERNEL | COMP | MOVABLE,
    GFP_ATOMIC | ZERO | DMA,
)
NR_PAGES = (24 << 20) // 4096
DMA_END = (16 << 20) // 4096
CPUS = st.sampled_from([0, 1])


class Block:
    """A live block of the model."""

    def __init__(self, page: Page, order: int, stamp: bytes) -> None:
        self.page = page
        self.order = order
        self.stamp = stamp
        self.refs = 1
        self.locked = False


class PageAllocatorModel(RuleBasedStateMachine):
    """Alloc and free on two CPUs, with 24 MiB: zone DMA and 8 MiB of zone DMA32."""

    def __init__(self) -> None:
        super().__init__()
        self.m = Machine(cpus=2, memory=NR_PAGES * 4096)
        self.used = bytearray(NR_PAGES)
        self.used[0] = 1  # the page that x86 keeps for itself
        self.live: dict[int, Block] = {}
        self.steps = 0
        self.allocations = 0
        self.at_boot = nr_buddy_pages(self.m)

    def _address(self, pfn: int) -> int:
        return 0xFFFF_8880_0000_0000 + pfn * 4096

    @rule(
        order=st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        gfp=st.sampled_from(GFPS),
        cpu=CPUS,
    )
    def alloc(self, order: int, gfp: int, cpu: int) -> None:
        page = on_cpu(self.m, self.m.alloc_pages, order, gfp | NOWARN, cpu=cpu)
        if page is None:
            self._check_refusal(order, gfp)
            return
        pfn, nr = page.pfn, 1 << order
        assert pfn % nr == 0
        assert pfn > 0
        assert pfn + nr <= NR_PAGES
        assert not gfp & DMA or pfn + nr <= DMA_END
        assert not any(self.used[pfn : pfn + nr])
        assert page.ref_count() == 1
        if gfp & ZERO:
            assert not any(self.m.memory.read(self._address(pfn), nr * 4096))
        self.used[pfn : pfn + nr] = b"\1" * nr
        self.allocations += 1
        block = self.live[pfn] = Block(page, order, self.allocations.to_bytes(8, "little"))
        for tail in range(pfn, pfn + nr):
            self.m.memory.write(self._address(tail), block.stamp)
            self.m.memory.write(self._address(tail) + 4088, block.stamp)

    def _check_refusal(self, order: int, gfp: int) -> None:
        """
        ``None`` must be justified in every zone that the flags allow.

        GFP_KERNEL drains page sets before it gives up, so that all free pages are in the buddy
        system, where free buddies are merged: an aligned free run *is* a free block. GFP_ATOMIC
        does not drain, so only pages that the buddy system has count. A zone may then refuse when
        it has no run, or when taking it would go below the mark.
        """
        nr = 1 << order
        blocking = gfp & 0x400
        free = bytearray(1 - used for used in self.used) if blocking else free_runs(self.m)
        for zone in self.m.zones:
            if gfp & DMA and zone.name != "DMA":
                continue
            start, end = zone.zone_start_pfn, zone.zone_start_pfn + zone.spanned_pages
            has_run = any(
                free.find(b"\0", pfn, pfn + nr) < 0 for pfn in range(start, end - nr + 1, nr)
            )
            mark = zone.watermark.min
            if not blocking:
                mark -= mark // 2
                mark -= mark // 4
            reserve = zone.lowmem_reserve[0 if gfp & DMA else 2]
            too_few = sum(free[start:end]) - (nr - 1) <= mark + zone.watermark_boost + reserve
            assert too_few or not has_run, (zone, order, hex(gfp))

    def _pick(self, index: int) -> Block:
        return self.live[sorted(self.live)[index % len(self.live)]]

    def _check_bytes(self, block: Block) -> None:
        pfn = block.page.pfn
        for tail in range(pfn, pfn + (1 << block.order)):
            assert self.m.memory.read(self._address(tail), 8) == block.stamp
            assert self.m.memory.read(self._address(tail) + 4088, 8) == block.stamp

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def free(self, index: int, cpu: int) -> None:
        block = self._pick(index)
        self._check_bytes(block)
        if block.locked and block.refs == 1:
            on_cpu(self.m, self.m.unlock_page, block.page, cpu=cpu)
            block.locked = False
        on_cpu(self.m, self.m.free_pages, block.page, block.order, cpu=cpu)
        self._drop(block)

    def _drop(self, block: Block) -> None:
        block.refs -= 1
        assert block.page.ref_count() == block.refs
        if not block.refs:
            pfn, nr = block.page.pfn, 1 << block.order
            self.used[pfn : pfn + nr] = bytes(nr)
            del self.live[pfn]

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def get_page(self, index: int, cpu: int) -> None:
        block = self._pick(index)
        on_cpu(self.m, self.m.get_page, block.page, cpu=cpu)
        block.refs += 1

    @precondition(lambda self: any(b.refs > 1 for b in self.live.values()))
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def put_page(self, index: int, cpu: int) -> None:
        shared = [self.live[pfn] for pfn in sorted(self.live) if self.live[pfn].refs > 1]
        block = shared[index % len(shared)]
        on_cpu(self.m, self.m.put_page, block.page, cpu=cpu)
        self._drop(block)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def toggle_lock(self, index: int, cpu: int) -> None:
        block = self._pick(index)
        assert on_cpu(self.m, self.m.trylock_page, block.page, cpu=cpu) is not block.locked
        if block.locked:
            on_cpu(self.m, self.m.unlock_page, block.page, cpu=cpu)
        block.locked = not block.locked

    @rule()
    def drain(self) -> None:
        self.m.drain_all_pages()
        assert free_runs(self.m) == bytearray(1 - used for used in self.used)

    @invariant()
    def verify(self) -> None:
        self.steps += 1
        if self.steps % 5 == 0:
            self.m.verify()

    def teardown(self) -> None:
        try:
            for block in list(self.live.values()):
                self._check_bytes(block)
                if block.locked:
                    on_cpu(self.m, self.m.unlock_page, block.page)
                for _ in range(block.refs):
                    on_cpu(self.m, self.m.put_page, block.page)
            self.m.drain_all_pages()
            self.m.verify()
            assert nr_buddy_pages(self.m) == self.at_boot == nr_managed(self.m)
            assert not any(area.nr_free for area in self.m.zones[1].free_area[:10]), (
                "zone DMA32 is 8 MiB, so merged it is two blocks of the largest order"
            )
        finally:
            self.m.close()


TestPageAllocatorModel: Any = PageAllocatorModel.TestCase
TestPageAllocatorModel.settings = settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
