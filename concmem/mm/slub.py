"""
The slab allocator of a machine: what its parts share, the general case, and what is wrong with a free.

An object's life is watched by `Page.owners` in every mode: an allocation that is handed an object
which somebody has, or a free of one that nobody has, raises at once; the free changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    BadFree,
    DoubleFree,
    KernelBug,
    ObjectHandedOutTwice,
)
from concmem.mm import gfp as gfp_flags
from concmem.mm.gfp import check_gfp, show_gfp_flags
from concmem.mm.kmem_cache_cpu import TID_STEP
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.log import KernelLog
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.node import PgData
    from concmem.mm.page import Page
    from concmem.mm.slub_alloc import SlubAlloc
    from concmem.mm.slub_free import SlubFree
    from concmem.runtime.api import Runtime


class Slub:
    """What the fast paths of all caches lead to."""

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        mem_map: MemMap,
        nodes: Sequence[PgData],
        log: KernelLog,
        alloc: SlubAlloc,
        free: SlubFree,
    ) -> None:
        self.rt = rt
        self.memory = memory
        self.mem_map = mem_map
        self.alloc = alloc
        self.free = free
        self._nodes = nodes
        self._log = log

    # -- allocate

    def alloc_general(self, s: KmemCache, gfp: int, node: int | None) -> int | None:
        """Whatever the fast path does not do: see `slub_fast_path.make_alloc`."""
        s.check_alive()
        self.check_slab_gfp(s, gfp)
        if node is not None:
            self.check_node(node)
        address = self._alloc_from_freelist(s, node) or self.alloc.slab_alloc(s, gfp, node)
        if not address:
            self.out_of_memory(s, gfp, node)
            return None
        self.hand_out(s, address)
        if gfp & gfp_flags.ZERO:
            self.memory.fill(address, s.object_size)
        return address

    def _alloc_from_freelist(self, s: KmemCache, node: int | None) -> int:
        """The fast path for a given node; 0: not from this CPU's free list."""
        c = s.cpu_slab.this()
        pair = c.freelist_tid
        while True:
            tid = pair.second
            address = pair.first
            if not address or (node is not None and node != c.node):
                return 0
            following = s.get_freepointer(c.words, address)
            if pair.try_cmpxchg(address, tid, following, tid + TID_STEP):
                return address
            c.count("cmpxchg_double_cpu_fail")

    def hand_out(self, s: KmemCache, address: int) -> None:
        """Write down that somebody has the object at *address* now."""
        index = s.freepointer_index(address)
        slab = self.mem_map.slabs.get(address >> PAGE_SHIFT)
        if slab is None:
            raise s.freepointer_corrupt(address)
        owners = slab.owners
        if owners.setdefault(address, index) is not index:
            raise self.handed_out_twice(s, address)

    @staticmethod
    def check_slab_gfp(s: KmemCache, gfp: int) -> None:
        """Raise `BadArgument` unless objects of *s* can be had with *gfp*."""
        check_gfp(gfp)
        if s.ctor is not None and gfp & gfp_flags.ZERO:
            raise BadArgument(f"gfp: __GFP_ZERO would undo what the constructor of {s.name} did")

    def check_node(self, node: object) -> None:
        """Raise `BadArgument` unless *node* is one of the machine's."""
        if isinstance(node, bool) or not isinstance(node, int):
            raise BadArgumentType(f"node: expected a node number, got {node!r}")
        if not 0 <= node < len(self._nodes):
            raise BadArgument(f"node: there is no node {node}, only 0 to {len(self._nodes) - 1}")

    def out_of_memory(self, s: KmemCache, gfp: int, node: int | None) -> None:
        """``slab_out_of_memory``."""
        if gfp & gfp_flags.NOWARN:
            return
        self._log.printk(
            f"SLUB: Unable to allocate memory on CPU {self.rt.smp_processor_id()} on node "
            f"{-1 if node is None else node}, gfp={gfp:#x}({show_gfp_flags(gfp)})\n"
            f"  cache: {s.name}, object size: {s.object_size}, buffer size: {s.size}, default "
            f"order: {s.order}, min order: {s.min_order}"
        )

    # -- free

    def free_general(self, s: KmemCache, address: int) -> None:
        """An object that is not of this CPU's slab, or something wrong."""
        if address.__class__ is not int:
            raise BadArgumentType(f"address: expected an address, got {address!r}")
        slab = self.mem_map.slabs.get(address >> PAGE_SHIFT)
        # One step, so of two CPUs that free the same object one finds nothing.
        if slab is None or slab.slab_cache is not s or slab.owners.pop(address, None) is None:
            raise self.bad_free(s, slab, address)
        self.free.slab_free(s, slab, address, address, 1)

    def free_owned(self, s: KmemCache, address: int) -> None:
        """An object that nobody has, after an interrupt has changed this CPU's slab."""
        s.cpu_slab.this().count("cmpxchg_double_cpu_fail")
        self.free_objects(s, self.mem_map.slabs[address >> PAGE_SHIFT], address, address, 1)

    def free_objects(self, s: KmemCache, slab: Page, head: int, tail: int, nr: int) -> None:
        """Put linked objects that nobody has on this CPU's free list, or else on the slab's."""
        c = s.cpu_slab.this()
        pair = c.freelist_tid
        while True:
            tid = pair.second
            if c.page is not slab:
                self.free.slab_free(s, slab, head, tail, nr)
                return
            freelist = pair.first
            s.set_freepointer(c.words, tail, freelist)
            if pair.try_cmpxchg(freelist, tid, head, tid + TID_STEP):
                c.count("free_fastpath", nr)
                c.nr_slow_changes += 1
                return
            c.count("cmpxchg_double_cpu_fail")

    # -- what was wrong

    def handed_out_twice(self, s: KmemCache, address: int) -> KernelBug:
        slab = self.mem_map.slabs.get(address >> PAGE_SHIFT)
        if slab is None or slab.slab_cache is not s or (address - slab.s_mem) % s.size:
            return s.freepointer_corrupt(address)
        return ObjectHandedOutTwice(
            f"{s.name}: object {address:#x} was on the free list of cpu"
            f"{self.rt.smp_processor_id()}, but somebody has it and has not freed it"
        )

    def bad_free(self, s: KmemCache, slab: Page | None, address: int) -> KernelBug:
        """See `describe_bad_free`."""
        return describe_bad_free(self.rt, s, slab, address)


def describe_bad_free(rt: Runtime, s: KmemCache, slab: Page | None, address: int) -> KernelBug:
    """What is wrong with freeing *address*, which is in *slab*, to *s*."""
    where = f"{s.name}: cpu{rt.smp_processor_id()} frees {address:#x}"
    # Read once: with a slab that somebody else gives back just now, everything is possible.
    owner = None if slab is None else slab.slab_cache
    if slab is None or owner is None:
        gone = "the cache has been destroyed" if not s.refcount else "or it is free already"
        return BadFree(f"address: {where}, which is in no slab: it is no object, {gone}")
    if owner is not s:
        return BadFree(f"address: {where}, an object of cache {owner.name}")
    index, offset = divmod(address - slab.s_mem, s.size)
    if not 0 <= index < slab.objects:
        return BadFree(f"address: {where}, which is in a slab, but in no object")
    if offset:
        return BadFree(
            f"address: {where}, which is {offset} bytes inside of the object at "
            f"{address - offset:#x}"
        )
    return DoubleFree(f"address: {where}, but this object is free already")
