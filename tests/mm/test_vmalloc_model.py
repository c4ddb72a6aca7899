"""vmalloc against a naive model: a dict of address to bytes, and ranges that must not overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from concmem.errors import BadArgument, DoubleFree
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.vmap_space import VmapSpace

from .helpers import PAGE, alloc, free_all, nr_buddy_pages, nr_managed, on_cpu

START = 0xFFFF_C900_0000_0000
SIZE = 2 << 20
CPUS = st.sampled_from([0, 1])


class EarlySpace(VmapSpace):
    """Purges often enough for a short test."""

    def lazy_max_pages(self) -> int:
        return 40


class Mapping:
    """One live mapping of the model; *shared* pages belong to the test, not to the mapping."""

    def __init__(self, kind: str, pages: int, shared: list[int], stamp: bytes | None) -> None:
        self.kind = kind
        self.pages = pages
        self.shared = shared
        self.stamp = stamp


class VmallocModel(RuleBasedStateMachine):
    """All kinds of mappings on two CPUs, in 2 MiB of addresses."""

    def __init__(self) -> None:
        super().__init__()
        classes: dict[type, type] = {VmapSpace: EarlySpace}
        self.m = Machine(cpus=2, memory="16M", vmalloc_size=SIZE, classes=classes)
        self.live: dict[int, Mapping] = {}
        self.gone: set[int] = set()
        self.stamps = 0
        self.steps = 0
        self.shared: list[Page] = [alloc(self.m) for _ in range(80)]
        self.contents = [b"\0" * 8] * 80
        for page in self.shared:
            self.m.memory.fill(self.m.page_address(page), PAGE)

    def _stamp(self) -> bytes:
        self.stamps += 1
        return self.stamps.to_bytes(8, "little")

    def _add(self, address: int, mapping: Mapping, guard: int) -> None:
        """Page aligned, inside the range, and with its guard page apart from all others."""
        end = address + (mapping.pages + guard) * PAGE
        assert address % PAGE == 0
        assert START <= address < end <= START + SIZE
        for other, each in self.live.items():
            other_end = other + (each.pages + (each.kind in ("vmalloc", "vmap"))) * PAGE
            assert end <= other or other_end <= address
        self.live[address] = mapping

    @rule(pages=st.integers(1, 40), cpu=CPUS, zero=st.booleans())
    def vmalloc(self, pages: int, cpu: int, zero: bool) -> None:
        fn = self.m.vzalloc if zero else self.m.vmalloc
        address = on_cpu(self.m, fn, pages * PAGE - 5, cpu=cpu)
        if address is None:
            assert self._most_free() < (pages + 1) * PAGE
            return
        mapping = Mapping("vmalloc", pages, [], self._stamp())
        self._add(address, mapping, guard=1)
        if zero:
            assert not any(self.m.memory.read(address, pages * PAGE))
        for page in range(pages):
            self.m.memory.write(address + page * PAGE + 4000, mapping.stamp or b"")

    def _most_free(self) -> int:
        """The largest hole, blocks and all else that is busy taken out; nothing is lazy now."""
        space = self.m.vm_areas.space
        busy = sorted((va.va_start, va.va_end) for node in space.nodes for va in node.busy)
        edges = [(START, START), *busy, (START + SIZE, START + SIZE)]
        return max(after[0] - before[1] for before, after in pairwise(edges))

    @rule(
        data=st.lists(st.integers(0, 79), min_size=1, max_size=12),
        cpu=CPUS,
        kind=st.sampled_from(["vmap", "ram", "ram"]),
        large=st.integers(0, 9),
    )
    def map_pages(self, data: list[int], cpu: int, kind: str, large: int) -> None:
        if large == 0:
            data = [(data[0] + i) % 80 for i in range(70)]
        fn = self.m.vmap if kind == "vmap" else self.m.vm_map_ram
        address = on_cpu(self.m, fn, [self.shared[i] for i in data], cpu=cpu)
        if address is None:
            return
        self._add(address, Mapping(kind, len(data), data, None), guard=kind == "vmap")
        number = data[-1]
        self.contents[number] = self._stamp()
        self.m.memory.write(address + (len(data) - 1) * PAGE, self.contents[number])

    def _check(self, address: int, mapping: Mapping) -> None:
        for page in range(mapping.pages):
            at = address + page * PAGE
            if mapping.stamp is not None:
                assert self.m.memory.read(at + 4000, 8) == mapping.stamp
            else:
                assert self.m.memory.read(at, 8) == self.contents[mapping.shared[page]]

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 1000), cpu=CPUS, handler=st.booleans())
    def free(self, index: int, cpu: int, handler: bool) -> None:
        address = sorted(self.live)[index % len(self.live)]
        mapping = self.live.pop(address)
        self._check(address, mapping)
        if mapping.kind == "ram":
            on_cpu(self.m, self.m.vm_unmap_ram, address, mapping.pages, cpu=cpu)
        elif mapping.kind == "vmap":
            on_cpu(self.m, self.m.vunmap, address, cpu=cpu)
        elif handler:
            self.m.call_on(cpu, lambda: self.m.vfree(address))
        else:
            on_cpu(self.m, self.m.vfree, address, cpu=cpu)
        self.m.workqueue.drain()
        self.gone.add(address)
        for at in (address, address + mapping.pages * PAGE - 1):
            try:
                self.m.memory.read(at, 1)
            except BadArgument:
                continue
            raise AssertionError(f"{at:#x} is still mapped")

    @precondition(lambda self: self.gone - set(self.live))
    @rule(index=st.integers(0, 1000), cpu=CPUS)
    def free_twice(self, index: int, cpu: int) -> None:
        gone = sorted(self.gone - set(self.live))
        address = gone[index % len(gone)]
        space = self.m.vm_areas.space
        if space.find_vmap_area(address) is not None:
            return  # somebody else's addresses by now
        try:
            on_cpu(self.m, self.m.vfree, address, cpu=cpu)
        except DoubleFree:
            return
        raise AssertionError("a second free was not noticed")

    @rule(cpu=CPUS)
    def vm_unmap_aliases(self, cpu: int) -> None:
        on_cpu(self.m, self.m.vm_unmap_aliases, cpu=cpu)
        assert self.m.vm_areas.space.vmap_lazy_nr.value == 0
        entries = self.m.vm_areas.page_table.entries(START, START + SIZE)
        assert all(entry >= 0 for _, entry in entries)

    @invariant()
    def verify(self) -> None:
        self.steps += 1
        assert self.m.vm_areas.space.vmap_lazy_nr.value <= 40 + 128
        if self.steps % 3 == 0:
            self.m.verify()

    def teardown(self) -> None:
        try:
            for address, mapping in self.live.items():
                self._check(address, mapping)
                if mapping.kind == "ram":
                    on_cpu(self.m, self.m.vm_unmap_ram, address, mapping.pages)
                else:
                    undo = self.m.vunmap if mapping.kind == "vmap" else self.m.vfree
                    on_cpu(self.m, undo, address)
            space = self.m.vm_areas.space
            on_cpu(self.m, space.reclaim_and_purge_vmap_areas)
            self.m.verify()
            assert [(va.va_start, va.va_end) for va in space.free] == [(START, START + SIZE)]
            free_all(self.m, self.shared)
            self.m.drain_all_pages()
            self.m.verify()
            assert nr_buddy_pages(self.m) == nr_managed(self.m)
        finally:
            self.m.close()


TestVmallocModel: Any = VmallocModel.TestCase
TestVmallocModel.settings = settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
