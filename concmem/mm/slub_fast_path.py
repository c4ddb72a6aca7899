"""
The fast paths of a cache: one object from, or to, the free list of this CPU's own slab. No lock.

Written out and bound for each cache, as closures: a call here would cost more than the work, and on a
free-threaded interpreter every use of an object that other CPUs use too is a contended reference
count. So these start from this CPU's own structure in its area, and touch its own objects only.

Allocation: read the tid *first*, then the free list and the slab, then the pointer to the next object,
which may be nonsense by then if the object is another's already; the compare-exchange tells, since
everything that could make it nonsense bumps the tid. Freeing likewise: the tid, then whether the object
is of this CPU's slab, then the free list.

The slab is seen through the table of its owners (`Page.owners`), which `KmemCacheCpu.owners` is as long as
it is this CPU's: a free of anything that is not in it is no case for the fast path, whatever it is.
The table keeps for each object the index of its free pointer in memory, which both sides need.

Follows ``__slab_alloc_node`` and ``do_slab_free`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from concmem.errors import BadArgumentType
from concmem.mm.gfp import GFP_KERNEL

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.slub import Slub

# 256 is TID_STEP. Each CPU has a `fp_base` of its own: on a free-threaded interpreter a large int that
# all CPUs use would be one more contended reference count.


class Alloc(Protocol):
    """The type of ``cache.alloc``."""

    def __call__(self, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None: ...


class Free(Protocol):
    """The type of ``cache.free``."""

    def __call__(self, address: int) -> None: ...


def make_alloc(s: KmemCache, slub: Slub, offset: int) -> Alloc:
    """``cache.alloc`` of one cache, whose per-CPU structures are at *offset*."""
    area = slub.rt.area
    cond_resched = slub.rt.cond_resched
    alloc_general = slub.alloc_general
    handed_out_twice = slub.handed_out_twice
    freepointer_corrupt = s.freepointer_corrupt

    def alloc(gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
        """
        Allocate one object (``kmem_cache_alloc``, ``kmem_cache_alloc_node``). On a CPU.

        May sleep when *gfp* has ``DIRECT_RECLAIM``.

        Args:
            gfp: how hard to try; ``__GFP_ZERO`` clears the object.
            node: the NUMA node wanted; with ``__GFP_THISNODE`` no other will do.

        Returns:
            Its address in the direct map, or ``None`` when there is no memory.
        """
        here = area()
        if here[0]:
            cond_resched()
        try:
            # __GFP_ZERO, and bits that are no flag
            general = gfp & ~0xFFFCFF
        except TypeError:
            raise BadArgumentType(f"gfp: expected GFP flags, got {gfp!r}") from None
        if general or node is not None:
            return alloc_general(s, gfp, node)
        c = here[offset]
        pair = c.freelist_tid
        while True:
            tid = pair.second
            address: int = pair.first
            owners = c.owners
            if not address:
                return alloc_general(s, gfp, None)
            index = address + c.fp_base >> 3
            try:
                following = c.words[index]
            except IndexError:
                raise freepointer_corrupt(address) from None
            if pair.try_cmpxchg(address, tid, following, tid + 256):
                break
            c.count("cmpxchg_double_cpu_fail")
        # One step. By identity: `index` is an object of its own (no interpreter shares ints so
        # large), so another one is another owner's.
        if owners.setdefault(address, index) is not index:
            raise handed_out_twice(s, address)
        return address

    return alloc


def make_free(s: KmemCache, slub: Slub, offset: int) -> Free:
    """``cache.free`` of one cache, whose per-CPU structures are at *offset*."""
    area = slub.rt.area
    free_general = slub.free_general
    free_owned = slub.free_owned

    def free(address: int) -> None:
        """
        Free one object of this cache (``kmem_cache_free``). On a CPU; never sleeps.

        Raises:
            BadFree: *address* is no object of this cache.
            DoubleFree: the object is free already.
        """
        c = area()[offset]
        pair = c.freelist_tid
        tid = pair.second
        # A float may equal an address.
        # In one step: is it an object of this CPU's slab, and of somebody, and now nobody's?
        if address.__class__ is not int or (index := c.owners.pop(address, None)) is None:
            free_general(s, address)
            return
        freelist = pair.first
        c.words[index] = freelist
        if pair.try_cmpxchg(freelist, tid, address, tid + 256):
            c.free_fastpath += 1
        else:
            free_owned(s, address)

    return free
