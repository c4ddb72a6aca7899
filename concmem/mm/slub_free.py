"""
Freeing beyond the fast path: to a slab that is not this CPU's.

Almost always one compare-exchange on the slab's own ``{freelist, counters}``. Only a free after which
the slab belongs on another list takes the node's list_lock, and does so before the exchange, since
that list is decided by what the exchange finds.

Follows ``__slab_free`` of ``mm/slub.c``, Linux 6.12; the list of full slabs is the older SLAB's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm.page import FROZEN, INUSE_MASK, PG_WORKINGSET

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page
    from concmem.mm.slab_page import SlabPages
    from concmem.mm.slub_cpu import CpuSlabs


class SlubFree:
    """The slow path of freeing, for all caches of a machine."""

    def __init__(self, pages: SlabPages, cpu_slabs: CpuSlabs) -> None:
        self._pages = pages
        self._cpu_slabs = cpu_slabs

    def come_up(self, s: KmemCache, c: KmemCacheCpu) -> None:
        """The calling CPU uses *s* for the first time."""
        self._cpu_slabs.come_up(s, c)

    def slab_free(self, s: KmemCache, slab: Page, head: int, tail: int, nr: int) -> None:
        """
        Put *nr* objects, linked from *head* to *tail*, on *slab*'s free list (``__slab_free``).

        Nobody else knows the objects. Never sleeps; may be called from an interrupt.
        """
        c = s.cpu_slab.this()
        if c.cpu < 0:
            self.come_up(s, c)
        c.count("free_slowpath")
        while not self._try_free(s, c, slab, head, tail, nr):
            c.count("cmpxchg_double_fail")

    def _try_free(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, head: int, tail: int, nr: int
    ) -> bool:
        """One attempt; false when somebody else changed the slab meanwhile."""
        pair = slab.freelist_counters
        prior, counters = pair.first, pair.second
        s.set_freepointer(c.words, tail, prior)
        inuse = (counters & INUSE_MASK) - nr
        if counters & FROZEN or (inuse and prior):
            if not pair.try_cmpxchg(prior, counters, head, counters - nr):
                return False
            if counters & FROZEN:
                c.count("free_frozen")
            else:
                self._cpu_slabs.get_node(s, slab).free_objects_counter.add(nr)
            return True
        n = self._cpu_slabs.get_node(s, slab)
        empty = False
        with n.list_lock:
            if not pair.try_cmpxchg(prior, counters, head, counters - nr):
                return False
            n.free_objects_counter.add(nr)
            if not prior:
                n.remove_full(slab)
            elif slab.flags & PG_WORKINGSET:
                empty = self._leave_partial(s, c, n, slab)
            # else it is on a CPU partial list, or on its way to one: that CPU will see to it
        if not prior:
            # Nobody else has it: it is on no list, and not frozen.
            self._cpu_slabs.put_cpu_partial(s, slab, drain=True)
            c.count("cpu_partial_free")
        if empty:
            self._pages.discard_slab(s, slab)
        return True

    def _leave_partial(self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page) -> bool:
        """The last object of a slab on `slabs_partial` is free; whether it has to go. Under list_lock."""
        n.remove_partial(slab)
        c.count("free_remove_partial")
        self._cpu_slabs.events.count("slab_free_emptied")
        return not self._cpu_slabs.keep_empty_slab(s, n, slab)
