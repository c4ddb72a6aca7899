"""
What ``cache.alloc`` and ``cache.free`` of a debug cache lead to, and many objects at once.

There is no fast path: all is done under list_lock (:mod:`~concmem.mm.debug.slub_debug_alloc`,
:mod:`~concmem.mm.debug.slub_debug_free`). A cache gets these functions when it is made, so others do not pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

from concmem.errors import BadArgumentType, ConcmemError, DoubleFree, KernelBug
from concmem.mm import gfp as gfp_flags
from concmem.mm.debug.slub_debug_free import Chain
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmem_cache import Functions
from concmem.mm.slub import describe_bad_free
from concmem.mm.slub_bulk import check_addresses, check_nr
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.debug.slub_debug_alloc import SlubDebugAlloc
    from concmem.mm.debug.slub_debug_free import SlubDebugFree
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.page import Page
    from concmem.mm.slub import Slub
    from concmem.mm.slub_fast_path import Alloc, Free


class SlubDebug:
    """Debug caches of a machine, seen from their users."""

    def __init__(
        self, slub: Slub, alloc: SlubDebugAlloc, free: SlubDebugFree, check: SlubCheck
    ) -> None:
        self._slub = slub
        self._alloc = alloc
        self._free = free
        self._reporter = check.reporter
        self._slabs = slub.mem_map.slabs

    def functions(self, s: KmemCache, offset: int) -> Functions:
        """Those of a debug cache, whose per-CPU structures are at *offset*."""
        return Functions(self._make_alloc(s, offset), self._make_free(s), self)

    # -- one object

    def _make_alloc(self, s: KmemCache, offset: int) -> Alloc:
        rt = self._slub.rt
        area, cond_resched = rt.area, rt.cond_resched
        slab_alloc, prepare, finish = self._alloc.slab_alloc, self._prepare, self._finish

        def alloc(
            gfp: int = GFP_KERNEL, node: int | None = None, orig_size: int | None = None
        ) -> int | None:
            """As ``cache.alloc`` of any cache; *orig_size*: what kmalloc was asked for."""
            here = area()
            if here[0]:
                cond_resched()
            if gfp.__class__ is not int or gfp & ~0xFFFCFF or node is not None or not s.refcount:
                prepare(s, gfp, node)
            address = slab_alloc(s, here[offset], gfp, node, orig_size)
            if not address or gfp & gfp_flags.ZERO:
                return finish(s, gfp, node, address, orig_size)
            return address

        return alloc

    def _prepare(self, s: KmemCache, gfp: int, node: int | None) -> None:
        """Raise `BadArgument` unless objects of *s* can be had so."""
        s.check_alive()
        self._slub.check_slab_gfp(s, gfp)
        if node is not None:
            self._slub.check_node(node)

    def _finish(
        self, s: KmemCache, gfp: int, node: int | None, address: int, orig_size: int | None
    ) -> int | None:
        """What is not done for each allocation: clear the object, or say that there is no memory."""
        if not address:
            self._slub.out_of_memory(s, gfp, node)
            return None
        self._slub.memory.fill(address, orig_size or s.object_size)
        return address

    def _make_free(self, s: KmemCache) -> Free:
        slab_of = self._slabs.get
        free_to_partial_list, no_object_of = self._free.free_to_partial_list, self._no_object_of

        def free(address: int) -> None:
            """As ``cache.free`` of any cache; an object that is corrupted stays in use."""
            slab = slab_of(address >> PAGE_SHIFT) if address.__class__ is int else None
            if slab is None or slab.slab_cache is not s:
                raise no_object_of(s, slab, address)
            free_to_partial_list(s, slab, Chain(address, address, 1))

        return free

    def _no_object_of(self, s: KmemCache, slab: Page | None, address: int) -> ConcmemError:
        """Report that *address* is in no slab of *s* (``virt_to_cache``, ``cache_from_obj``)."""
        if address.__class__ is not int:
            return BadArgumentType(f"address: expected an address, got {address!r}")
        self._slub.rt.smp_processor_id()  # on no CPU: NotACpu
        if s.layout is not None and s.layout.checks:
            self._reporter.wrong_cache(s, slab, address)
        return describe_bad_free(self._slub.rt, s, slab, address)

    # -- many objects

    def alloc_bulk(self, s: KmemCache, nr: int, gfp: int) -> list[int]:
        """See `KmemCache.alloc_bulk`."""
        self._slub.check_slab_gfp(s, gfp)
        check_nr(nr)
        s.check_alive()
        self._slub.rt.cond_resched()
        c = s.cpu_slab.this()
        addresses: list[int] = []
        try:
            while len(addresses) < nr:
                address = self._alloc.slab_alloc(s, c, gfp, None)
                if not address:
                    break
                addresses.append(address)
        except BaseException:  # of a constructor, say: nobody would know of what there is so far
            with suppress(KernelBug):  # which would hide what was wrong first
                self.free_bulk(s, addresses)
            raise
        if len(addresses) < nr:
            self.free_bulk(s, addresses)
            return []
        if gfp & gfp_flags.ZERO:
            for address in addresses:
                self._slub.memory.fill(address, s.object_size)
        return addresses

    def free_bulk(self, s: KmemCache, addresses: Sequence[int]) -> None:
        """
        See `KmemCache.free_bulk`.

        Objects that somebody else frees at the same time are found out one slab at a time, though.
        """
        s.check_alive()
        self._slub.rt.smp_processor_id()
        left = check_addresses(addresses)
        slabs = [self._owned_slab(s, address) for address in left]
        if len(set(left)) < len(left):
            twice = next(each for each in left if left.count(each) > 1)
            raise DoubleFree(f"addresses: {s.name}: {twice:#x} is in the list more than once")
        while left:
            slab = slabs[0]
            nr = next((i for i, each in enumerate(slabs) if each is not slab), len(slabs))
            self._free_chain(s, slab, left[:nr])
            del left[:nr], slabs[:nr]

    def _owned_slab(self, s: KmemCache, address: int) -> Page:
        """The slab of an object that somebody has, or else `BadFree`; nothing was freed yet."""
        slab = self._slabs.get(address >> PAGE_SHIFT)
        if slab is None or slab.slab_cache is not s:
            raise self._no_object_of(s, slab, address)
        if address not in slab.owners:
            raise self._free.bad_free(s, slab, address)
        return slab

    def _free_chain(self, s: KmemCache, slab: Page, addresses: list[int]) -> None:
        words = self._free.this_cpu(s).words
        for address, following in pairwise(addresses):
            s.set_freepointer(words, address, following)
        self._free.free_to_partial_list(s, slab, Chain(addresses[0], addresses[-1], len(addresses)))
