"""
Slabs on their way between CPUs and node lists: freeze, deactivate, CPU partial lists, flush.

Where a slab may be, and what its counters say then::

    CPU slab          frozen; its own free list holds what others have freed to it meanwhile
    CPU partial list  not frozen, on no node list; at least one object is free
    slabs_partial     not frozen; some objects are free, some in use
    slabs_free        not frozen; nothing is in use
    slabs_full        not frozen; nothing is free

Leaving "frozen", and every other step after which a slab belongs on another list, is done with the
node's list_lock held around both the compare-exchange and the move, so that no other CPU sees counters
that call for a list the slab is not on. Linux keeps no list of full slabs and can be looser there.

Follows ``freeze_slab``, ``deactivate_slab``, ``put_cpu_partial``, ``__put_partials`` and ``flush_all``
of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from concmem.mm.page import FROZEN, INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page
    from concmem.mm.slab_page import SlabPages
    from concmem.runtime.api import Runtime, Words


def all_in_use(counters: int) -> int:
    """*counters* of a slab, not frozen, with every object in use."""
    objects = counters >> OBJECTS_SHIFT & OBJECTS_MASK
    return objects << OBJECTS_SHIFT | objects


def nr_free(counters: int) -> int:
    """Objects that are not in use."""
    return (counters >> OBJECTS_SHIFT & OBJECTS_MASK) - (counters & INUSE_MASK)


class CpuSlabs:
    """What moves slabs between the CPUs and the nodes of any cache."""

    def __init__(self, rt: Runtime, pages: SlabPages, words: Callable[[], Words]) -> None:
        self._rt = rt
        self._pages = pages
        self._words = words
        self.events = pages.events

    @staticmethod
    def get_node(s: KmemCache, slab: Page) -> KmemCacheNode:
        """The lists that *slab* belongs to: those of the node that its pages are on."""
        return s.node[slab.zone.zone_pgdat.node_id]

    def come_up(self, s: KmemCache, c: KmemCacheCpu) -> None:
        """The calling CPU uses *s* for the first time, unless an interrupt was faster."""
        with c.lock:
            if c.cpu < 0:
                c.come_up(self._rt.smp_processor_id(), s.words_for(self._words()))

    # -- from a slab to a CPU

    def freeze_slab(self, s: KmemCache, slab: Page) -> int:
        """Take all free objects of a slab that is on no list, and freeze it; the first of them."""
        pair = slab.freelist_counters
        while True:
            freelist, counters = pair.first, pair.second
            if pair.try_cmpxchg(freelist, counters, 0, all_in_use(counters) | FROZEN):
                self.get_node(s, slab).free_objects_counter.add(-nr_free(counters))
                return freelist
            s.cpu_slab.this().count("cmpxchg_double_fail")

    def get_freelist(self, s: KmemCache, slab: Page) -> int:
        """
        What others have freed to the CPU slab *slab*. Caller holds the CPU's lock.

        Returns:
            The first free object; or 0, and then the slab is no CPU's any more: it is full.
        """
        pair = slab.freelist_counters
        while True:
            freelist, counters = pair.first, pair.second
            if not freelist:
                if self._unfreeze_full(s, slab):
                    return 0
            elif pair.try_cmpxchg(freelist, counters, 0, all_in_use(counters) | FROZEN):
                return freelist

    def _unfreeze_full(self, s: KmemCache, slab: Page) -> bool:
        """Put the CPU slab on `slabs_full`, unless somebody has freed an object to it."""
        n = self.get_node(s, slab)
        pair = slab.freelist_counters
        with n.list_lock:
            counters = pair.second
            if not pair.try_cmpxchg(0, counters, 0, all_in_use(counters)):
                return False
            n.add_full(slab)
            return True

    # -- from a CPU to the lists

    def deactivate_slab(self, s: KmemCache, slab: Page, freelist: int) -> None:
        """Give up a CPU slab and what is left of the CPU's free list of it."""
        c = s.cpu_slab.this()
        nr_unused, tail = self._count_freelist(s, freelist)
        pair = slab.freelist_counters
        n = self.get_node(s, slab)
        with n.list_lock:
            while True:
                prior, counters = pair.first, pair.second
                if tail:
                    s.set_freepointer(c.words, tail, prior)
                new = (counters - nr_unused) & ~FROZEN
                if pair.try_cmpxchg(prior, counters, freelist or prior, new):
                    break
                c.count("cmpxchg_double_fail")
            n.free_objects_counter.add(nr_free(new))
            discard = self._place(s, n, slab, new, bool(prior))
        if prior:
            c.count("deactivate_remote_frees")
        if discard:
            self._pages.discard_slab(s, slab)

    @staticmethod
    def _count_freelist(s: KmemCache, freelist: int) -> tuple[int, int]:
        """Objects on a CPU's free list, and the last of them."""
        words = s.cpu_slab.this().words
        count = tail = 0
        while freelist:
            count += 1
            tail = freelist
            freelist = s.get_freepointer(words, freelist)
        return count, tail

    def _place(self, s: KmemCache, n: KmemCacheNode, slab: Page, counters: int, tail: bool) -> bool:
        """
        Put a slab that has just been unfrozen on its list. Caller holds list_lock.

        Returns:
            True when nothing of it is in use and the node has enough such: it is on no list then.
        """
        c = s.cpu_slab.this()
        if not counters & INUSE_MASK:
            if self.keep_empty_slab(s, n, slab):
                return False
            c.count("deactivate_empty")
            return True
        if nr_free(counters):
            c.count("deactivate_to_tail" if tail else "deactivate_to_head")
            n.add_partial(slab, tail)
        else:
            c.count("deactivate_full")
            n.add_full(slab)
        return False

    def keep_empty_slab(self, s: KmemCache, n: KmemCacheNode, slab: Page) -> bool:
        """Keep an empty slab that is on no list, unless there are enough. Caller holds list_lock."""
        if n.nr_free_slabs >= s.min_partial:
            self.events.count("slab_empty_discarded")
            return False
        n.add_free(slab)
        self.events.count("slab_empty_kept")
        return True

    # -- CPU partial lists

    def put_cpu_partial(self, s: KmemCache, slab: Page, drain: bool) -> None:
        """
        Keep a slab that is on no list on this CPU's partial list.

        With *drain*, a full list goes to the nodes first; the caller holds no list_lock then.
        """
        c = s.cpu_slab.this()
        with c.lock:
            full = c.push_partial(slab, s.cpu_partial_slabs if drain else 1 << 30)
        if full is not None:
            self.put_partials(s, full)
            c.count("cpu_partial_drain")

    def put_partials(self, s: KmemCache, slab: Page | None) -> None:
        """Give a former CPU partial list to the nodes (``__put_partials``)."""
        by_node: dict[KmemCacheNode, list[Page]] = {}
        while slab is not None:
            following = cast("Page | None", slab.next)
            slab.next = None
            slab.private = 0
            by_node.setdefault(self.get_node(s, slab), []).append(slab)
            slab = following
        for n, slabs in by_node.items():
            with n.list_lock:
                discarded = [slab for slab in slabs if not self._put_partial(s, n, slab)]
            # Freeing pages takes other locks: after list_lock.
            for slab in discarded:
                s.cpu_slab.this().count("deactivate_empty")
                self._pages.discard_slab(s, slab)

    def _put_partial(self, s: KmemCache, n: KmemCacheNode, slab: Page) -> bool:
        """False: it is empty, there are enough such, and it is on no list. Caller holds list_lock."""
        # Stable: who frees the last object in use of a slab that is not frozen holds list_lock.
        if not slab.freelist_counters.second & INUSE_MASK:
            return self.keep_empty_slab(s, n, slab)
        n.add_partial(slab, tail=True)
        s.cpu_slab.this().count("free_add_partial")
        self.events.count("slab_put_partial")
        return True

    # -- flush

    def flush_cpu_slab(self, s: KmemCache) -> None:
        """On the CPU, perhaps as an interrupt: give up its slab and its partial list."""
        c = s.cpu_slab.this()
        with c.lock:
            slab, freelist = c.take_away()
            partial = c.take_partial()
        if slab is not None:
            c.count("cpuslab_flush")
            self.deactivate_slab(s, slab, freelist)
        self.put_partials(s, partial)

    def flush_all(self, s: KmemCache) -> None:
        """Flush every CPU, on that CPU, and wait for it. May sleep."""
        self._rt.might_sleep()
        for cpu in range(len(s.cpu_slab.all())):
            self.flush_cpu(s, cpu)

    def flush_cpu(self, s: KmemCache, cpu: int) -> None:
        """Flush CPU *cpu*, on that CPU, and wait for it. May sleep."""
        c = s.cpu_slab.of(cpu)
        # No lock: who takes a slab meanwhile has it after the flush, as if it came later.
        if c.page is not None or c.partial is not None:
            self._rt.call_on_any(cpu, lambda: self.flush_cpu_slab(s))
