"""
Freeing to debug caches: under the node's list_lock, with checks, and refused if something is wrong.

Checks, the bytes of a free object, the link into the free list and the slab's place are one critical
section. In between a look at the slab would find an object that is neither in use nor free.

Since Linux kernel commit 19c7ff9ecd89 ("slub: Take node lock during object free checks") (in v3.6), the lock is
held for all of it. This model follows that.

Follows ``free_to_partial_list`` and ``free_debug_processing`` of ``mm/slub.c``, Linux 6.12; of several objects
none is changed before all are checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.mm.debug.object_layout import SLUB_RED_INACTIVE
from concmem.mm.debug.slub_track import TRACK_FREE
from concmem.mm.page import INUSE_MASK
from concmem.mm.slub import describe_bad_free

if TYPE_CHECKING:
    from concmem.errors import KernelBug
    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page
    from concmem.mm.slab_page import SlabPages
    from concmem.mm.slub_cpu import CpuSlabs
    from concmem.runtime.api import Runtime

_SKIP = 1
"""Frames between whoever called the cache's `free` and the look at the stack."""


class Chain(NamedTuple):
    """Objects of one slab, linked by their free pointers."""

    head: int
    tail: int
    nr: int


class SlubDebugFree:
    """Freeing, for all debug caches of a machine."""

    def __init__(
        self, rt: Runtime, pages: SlabPages, cpu_slabs: CpuSlabs, check: SlubCheck
    ) -> None:
        self._rt = rt
        self._pages = pages
        self._cpu_slabs = cpu_slabs
        self._check = check
        self._tracks = check.tracks

    def free_to_partial_list(self, s: KmemCache, slab: Page, chain: Chain) -> bool:
        """
        Free objects. Never sleeps; may be called from an interrupt.

        Returns:
            False when something was wrong, and reported: then all are in use as before.

        Raises:
            BadFree, DoubleFree: nobody has one of them; the same is true.
        """
        layout = s.layout
        assert layout is not None
        c = self.this_cpu(s)
        c.events["free_slowpath"] += 1
        handle = self._tracks.depot.save(_SKIP) if layout.store_user else 0
        n = self._cpu_slabs.get_node(s, slab)
        freed, discard = self._free_locked(s, c, n, slab, chain, handle)
        if discard:
            c.count("free_slab")
            # Freeing pages takes other locks: after list_lock.
            self._pages.free_slab(s, slab)
        return freed

    def this_cpu(self, s: KmemCache) -> KmemCacheCpu:
        """The calling CPU's part of the cache, which is ready to be used then."""
        c = s.cpu_slab.this()
        if c.cpu < 0:
            self._cpu_slabs.come_up(s, c)
        return c

    def bad_free(self, s: KmemCache, slab: Page, address: int) -> KernelBug:
        """Report that nobody has the object at *address*; what to raise."""
        with self._cpu_slabs.get_node(s, slab).list_lock:
            if s.layout is not None and s.layout.checks:
                self._check.free_consistency_checks(s, slab, address, raised=True)
            self._check.reporter.slab_fix(s, f"Object at {address:#018x} not freed")
        return describe_bad_free(self._rt, s, slab, address)

    def _free_locked(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page, chain: Chain, handle: int
    ) -> tuple[bool, bool]:
        """Whether the objects are free now, and whether the slab, on no list any more, has to go."""
        with n.list_lock:
            if not self._free_debug_processing(s, c, slab, chain, handle):
                return False, False
            return True, self._link(s, c, n, slab, chain)

    def _link(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page, chain: Chain
    ) -> bool:
        """Put checked objects on the free list; whether the slab has to go. Caller holds list_lock."""
        pair = slab.freelist_counters
        prior, counters = pair.first, pair.second - chain.nr
        s.set_freepointer(c.words, chain.tail, prior)
        n.set_slab(slab, chain.head, counters)
        events = self._pages.events
        if counters & INUSE_MASK:
            if not prior:
                c.count("free_add_partial")
            return False
        events.count("slab_free_emptied")
        if n.nr_free_slabs <= s.min_partial:
            events.count("slab_empty_kept")
            return False
        c.count("free_remove_partial")
        events.count("slab_empty_discarded")
        self._remove_empty_slab(n, slab)
        return True

    @staticmethod
    def _remove_empty_slab(n: KmemCacheNode, slab: Page) -> None:
        """Take it off its list and do not count it: one step for who looks. Caller holds list_lock."""
        n.remove_free(slab)
        n.dec_slabs_node(slab.objects)

    def _free_debug_processing(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, chain: Chain, handle: int
    ) -> bool:
        """
        Check objects, and make them look free and be nobody's. Caller holds list_lock.

        Returns:
            False when something was wrong, and reported; then nothing has changed.
        """
        layout, check = s.layout, self._check
        assert layout is not None
        if layout.checks and not check.check_slab(s, slab):
            return self._refuse(s, slab, chain.head)
        if slab.inuse < chain.nr:
            reason = f"Slab has {slab.inuse} allocated objects but {chain.nr} are to be freed"
            check.reporter.slab_err(s, slab, reason)
            return self._refuse(s, slab, chain.head)
        objects = [chain.head] if chain.nr == 1 else self._objects_of(s, slab, chain)
        if len(objects) != chain.nr or objects[-1] != chain.tail:
            reason = f"Bulk free expected {chain.nr} objects but found {len(objects)}"
            check.reporter.slab_err(s, slab, reason)
            return self._refuse(s, slab, objects[-1])
        for address in objects:
            nobodys = address not in slab.owners
            if layout.checks and not check.free_consistency_checks(s, slab, address, nobodys):
                return self._refuse(s, slab, address)
            if nobodys:
                raise describe_bad_free(self._rt, s, slab, address)
        for address in objects:
            del slab.owners[address]
            if layout.store_user:
                self._tracks.set_track(layout, address, TRACK_FREE, handle, c.cpu)
            if layout.trace:
                check.reporter.trace(s, slab, address, alloc=False)
            check.init_object(layout, address, SLUB_RED_INACTIVE)
        return True

    def _objects_of(self, s: KmemCache, slab: Page, chain: Chain) -> list[int]:
        """The objects from head to tail, at most as many as there should be."""
        reporter = self._check.reporter
        objects = [chain.head]
        while objects[-1] != chain.tail and len(objects) < chain.nr:
            if not objects[-1] or not reporter.valid_pointer(s, slab, objects[-1]):
                break
            objects.append(reporter.get_freepointer(s, objects[-1]))
        return objects

    def _refuse(self, s: KmemCache, slab: Page, address: int) -> bool:
        """False, once it is said; if nobody has the object, it is the caller who did wrong."""
        self._check.reporter.slab_fix(s, f"Object at {address:#018x} not freed")
        if address not in slab.owners:
            raise describe_bad_free(self._rt, s, slab, address)
        return False
