"""
Random operations on one cache against a naive model: live objects, and the slabs that they imply.

After a flush the model knows more than that no rule is broken: which slab is on which list follows from
the live objects alone.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, THISNODE, ZERO
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU

from .helpers import on_cpu
from .slab_helpers import nr_live, picture

BASE = 0xFFFF_8880_0000_0000
MAGIC = b"\xc7" * 8


class SlubModel(RuleBasedStateMachine):
    """Subclasses say what machine and what cache."""

    CPUS = 2
    MACHINE: dict[str, Any] = {}
    CTOR = False
    FLAGS = 0

    @initialize(size=st.sampled_from([500, 1300, 3000, 6000, 9000, 30000]))
    def boot(self, size: int) -> None:
        self.m = Machine(cpus=self.CPUS, memory="32M", slab_merge=False, **self.MACHINE)
        ctor = (lambda address: self.m.memory.write(address, MAGIC)) if self.CTOR else None
        self.s: KmemCache = on_cpu(
            self.m, lambda: self.m.kmem_cache_create("model", size, flags=self.FLAGS, ctor=ctor)
        )
        self.live: list[int] = []
        self.colours: dict[int, int] = {}
        self.stamps = 0
        self.contents: dict[int, bytes] = {}

    def teardown(self) -> None:
        if not hasattr(self, "m"):
            return
        try:
            s = self.s
            on_cpu(self.m, s.free_bulk, self.live)
            self.m.verify()
            on_cpu(self.m, s.destroy)
            self.m.verify()
            assert not self.m.mem_map.slabs
        finally:
            self.m.close()

    # -- what the model knows

    def base_of(self, address: int) -> int:
        """Slabs are naturally aligned blocks, and memory is never short here."""
        return address & -(4096 << self.s.order)

    def slabs(self) -> dict[int, list[int]]:
        """Live objects by slab."""
        slabs = defaultdict(list)
        for address in self.live:
            slabs[self.base_of(address)].append(address)
        return slabs

    def got(self, address: int | None) -> None:
        """An object was handed out: it is new, in bounds, and where an object may be."""
        s = self.s
        assert address is not None
        assert address % s.align == 0
        base = self.base_of(address)
        assert base >= BASE
        assert address + s.size <= base + (4096 << s.order)
        neighbours = self.slabs()[base]
        assert all(abs(address - other) >= s.size for other in neighbours)
        # All objects of a slab are whole steps from its colour.
        colour = (address - base) % s.size
        if neighbours:
            assert (neighbours[0] - base) % s.size == colour
        if s.colour > 1:
            assert colour % s.colour_off == 0
            assert colour < s.colour * s.colour_off
        else:
            assert colour == 0
        if self.CTOR:
            assert self.m.memory.read(address, 8) == MAGIC
        else:
            self.stamps += 1
            self.contents[address] = self.stamps.to_bytes(4, "little") * (s.object_size // 4)
            self.m.memory.write(address, self.contents[address])
        self.live.append(address)

    def give(self, which: int) -> int:
        """An object to be freed: it is still as it was left."""
        address = self.live.pop(which % len(self.live))
        if not self.CTOR:
            stamp = self.contents.pop(address)
            assert self.m.memory.read(address, len(stamp)) == stamp
        return address

    def check(self, flushed: bool = False) -> None:
        s = self.s
        self.m.verify()
        slabs = self.slabs()
        assert sum(n.nr_slabs for n in s.node) >= len(slabs)
        assert all(n.nr_free_slabs <= s.min_partial for n in s.node)
        if not flushed:
            return
        assert nr_live(s) == len(self.live)
        seen = picture(self.m, s)
        assert set(seen.cpu) == {None}
        assert all(not partial for partial in seen.cpu_partial)
        pfn = {base: (base - BASE) // 4096 for base in slabs}
        full = {pfn[b] for b, objects in slabs.items() if len(objects) == s.objs_per_slab}
        assert {p for pfns in seen.full for p in pfns} == full
        assert {p for pfns in seen.partial for p in pfns} == set(pfn.values()) - full
        assert not {p for pfns in seen.free for p in pfns} & set(pfn.values())

    # -- operations

    cpus = st.integers(0, 7)

    @rule(cpu=cpus, zero=st.booleans())
    def alloc(self, cpu: int, zero: bool) -> None:
        gfp = GFP_KERNEL | (ZERO if zero and not self.CTOR else 0)
        address = on_cpu(self.m, self.s.alloc, gfp, cpu=cpu % self.CPUS)
        if gfp & ZERO:
            assert address is not None
            assert not any(self.m.memory.read(address, self.s.object_size))
        self.got(address)
        self.check()

    @rule(cpu=cpus, node=st.integers(0, 1), force=st.booleans())
    def alloc_node(self, cpu: int, node: int, force: bool) -> None:
        node %= len(self.m.nodes)
        gfp = GFP_KERNEL | (THISNODE if force else 0)
        address = on_cpu(self.m, self.s.alloc, gfp, node, cpu=cpu % self.CPUS)
        self.got(address)
        assert address is not None
        assert self.m.virt_to_page(address).zone.zone_pgdat.node_id == node
        self.check()

    @rule(cpu=cpus, nr=st.integers(1, 30))
    def alloc_bulk(self, cpu: int, nr: int) -> None:
        addresses = on_cpu(self.m, self.s.alloc_bulk, nr, cpu=cpu % self.CPUS)
        assert len(addresses) == nr
        for address in addresses:
            self.got(address)
        self.check()

    @precondition(lambda self: self.live)
    @rule(cpu=cpus, which=st.integers(0, 1000), nr=st.integers(1, 6))
    def free(self, cpu: int, which: int, nr: int) -> None:
        for _ in range(min(nr, len(self.live))):
            address = self.give(which)
            before = self.m.memory.read(address, self.s.object_size)
            on_cpu(self.m, self.s.free, address, cpu=cpu % self.CPUS)
            if self.CTOR or self.FLAGS & SLAB_TYPESAFE_BY_RCU:
                # The free pointer is outside: a reader still finds what was there.
                assert self.m.memory.read(address, self.s.object_size) == before
        self.check()

    @precondition(lambda self: self.live)
    @rule(cpu=cpus, whiches=st.lists(st.integers(0, 1000), max_size=30))
    def free_bulk(self, cpu: int, whiches: list[int]) -> None:
        addresses = [self.give(which) for which in whiches[: len(self.live)]]
        on_cpu(self.m, self.s.free_bulk, addresses, cpu=cpu % self.CPUS)
        self.check()

    @precondition(lambda self: self.live)
    @rule(cpu=cpus, share=st.integers(1, 4))
    def free_slabs(self, cpu: int, share: int) -> None:
        """Whole slabs, so that some become empty."""
        for base in sorted(self.slabs())[::share]:
            mine = [a for a in self.live if self.base_of(a) == base]
            addresses = [self.give(self.live.index(address)) for address in mine]
            on_cpu(self.m, self.s.free_bulk, addresses, cpu=cpu % self.CPUS)
        self.check()

    @rule(cpu=cpus)
    def flush_all(self, cpu: int) -> None:
        on_cpu(self.m, self.s.flush_all, cpu=cpu % self.CPUS)
        self.check(flushed=True)

    @rule(cpu=cpus)
    def shrink(self, cpu: int) -> None:
        left = on_cpu(self.m, self.s.shrink, cpu=cpu % self.CPUS)
        self.check(flushed=True)
        slabs = self.slabs()
        assert left == sum(len(objects) < self.s.objs_per_slab for objects in slabs.values())
        assert sum(n.nr_slabs for n in self.s.node) == len(slabs)
        counts = {(base - BASE) // 4096: len(objects) for base, objects in slabs.items()}
        for pfns in picture(self.m, self.s).partial:
            # The fullest first; those with many free objects stay where they were.
            inuse = [counts[p] for p in pfns if self.s.objs_per_slab - counts[p] <= 32]
            assert inuse == sorted(inuse, reverse=True)


class Nodes(SlubModel):
    CPUS = 4
    MACHINE = {"nodes": 2}


class Ctor(SlubModel):
    CTOR = True


class Rcu(SlubModel):
    FLAGS = SLAB_TYPESAFE_BY_RCU


class Hardened(SlubModel):
    MACHINE = {"freelist_hardened": True, "freelist_random": True}


class HardenedCtorNodes(SlubModel):
    CPUS = 3
    CTOR = True
    MACHINE = {"freelist_hardened": True, "freelist_random": True, "nodes": 2}


class Jitter(SlubModel):
    MACHINE = {"runtime": "jitter"}


@pytest.mark.parametrize(
    "model", [SlubModel, Nodes, Ctor, Rcu, Hardened, HardenedCtorNodes, Jitter]
)
def test_model(model: type[SlubModel]) -> None:
    """Whatever is done with a cache, its objects are those of the model, and so are its lists."""
    case = model.TestCase
    case.settings = settings(
        max_examples=10, stateful_step_count=25, deadline=None, derandomize=True
    )
    getattr(case(), "runTest")()  # noqa: B009
