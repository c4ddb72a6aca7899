"""
Allocation from debug caches: one object at a time, under the node's list_lock, with checks.

No CPU keeps anything, so whoever holds list_lock sees every slab of the node, and every object of it, either
in use or free, with the bytes that it has to have then. The counters of the node change in the same
critical section as its lists.

Since Linux kernel commit c7323a5ad078 ("mm/slub: restrict sysfs validation to debug caches and make it safe")
(in v6.1), all allocations and frees of debug caches are done so. This model follows that.

Follows ``alloc_single_from_partial``, ``alloc_single_from_new_slab`` and ``alloc_debug_processing`` of
``mm/slub.c``, Linux 6.12; the first object of a new slab is taken under list_lock here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import ObjectHandedOutTwice
from concmem.mm import gfp as gfp_flags
from concmem.mm.debug.object_layout import SLUB_RED_ACTIVE
from concmem.mm.debug.slub_track import TRACK_ALLOC
from concmem.mm.slub_alloc import partial_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.node import PgData
    from concmem.mm.page import Page
    from concmem.mm.slab_page import SlabPages
    from concmem.mm.slub_cpu import CpuSlabs
    from concmem.runtime.api import Runtime

_SKIP = 1
"""Frames between whoever called the cache's `alloc` and the look at the stack."""


class SlubDebugAlloc:
    """Allocation, for all debug caches of a machine."""

    def __init__(
        self,
        rt: Runtime,
        nodes: Sequence[PgData],
        pages: SlabPages,
        cpu_slabs: CpuSlabs,
        check: SlubCheck,
    ) -> None:
        self._rt = rt
        self._nodes = nodes
        self._pages = pages
        self._cpu_slabs = cpu_slabs
        self._check = check
        self._tracks = check.tracks
        self._node_of_cpu = {cpu: node.node_id for node in nodes for cpu in node.cpus}

    def slab_alloc(
        self,
        s: KmemCache,
        c: KmemCacheCpu,
        gfp: int,
        node: int | None,
        orig_size: int | None = None,
    ) -> int:
        """
        The address of an object, or 0 when there is no memory; it is somebody's from then on.

        May sleep when *gfp* has ``DIRECT_RECLAIM``.

        Args:
            node: wanted, and forced with ``THISNODE``.
            orig_size: bytes that kmalloc was asked for.
        """
        if c.cpu < 0:
            self._cpu_slabs.come_up(s, c)
        c.events["alloc_slowpath"] += 1
        if node is not None and not self._nodes[node].populated_zones():
            node = None  # it has no memory: then any will do
        address = 0
        if node is not None and not gfp & gfp_flags.THISNODE:
            # Wanted, not forced: without much trying there first, then anywhere.
            first_gfp = gfp_flags.GFP_NOWAIT | gfp_flags.THISNODE
            address = self._alloc_single(s, c, first_gfp, node, orig_size)
        if not address:
            address = self._alloc_single(s, c, gfp, node, orig_size)
        layout = s.layout
        if address and layout is not None and layout.store_user:
            handle = self._tracks.depot.save(_SKIP)
            self._tracks.set_track(layout, address, TRACK_ALLOC, handle, c.cpu)
            self._pages.events.count("slub_debug_tracked")
        return address

    def _alloc_single(
        self, s: KmemCache, c: KmemCacheCpu, gfp: int, node: int | None, orig_size: int | None
    ) -> int:
        while True:
            for n in partial_nodes(s, self._node_of_cpu.get(c.cpu, 0), gfp, node):
                address = self._alloc_single_from_node(s, c, n, orig_size)
                if address:
                    return address
            # Allocating pages may sleep, and lets interrupts in: nothing is held.
            slab = self._pages.allocate_slab(s, gfp, node, c.words)
            if slab is None:
                return 0
            c.count("alloc_slab")
            address = self._alloc_single_from_new_slab(s, c, slab, orig_size)
            if address:
                return address

    def _alloc_single_from_node(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, orig_size: int | None
    ) -> int:
        """From a slab of *n* with free objects, partly used ones first; 0: it has none."""
        # No lock: who puts one there now is later than this allocation.
        if not n.nr_partial and not n.nr_free_slabs:
            return 0
        with n.list_lock:
            while True:
                slab = n.slabs_partial.first() or n.slabs_free.first()
                if slab is None:
                    return 0
                address = self._alloc_single_from_slab(s, c, n, slab, orig_size)
                if address:
                    return address

    def _alloc_single_from_new_slab(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, orig_size: int | None
    ) -> int:
        n = self._cpu_slabs.get_node(s, slab)
        with n.list_lock:
            self._add_new_slab(n, slab)
            return self._alloc_single_from_slab(s, c, n, slab, orig_size)

    @staticmethod
    def _add_new_slab(n: KmemCacheNode, slab: Page) -> None:
        """Count a new slab and put it on its list: one step for who looks. Caller holds list_lock."""
        n.inc_slabs_node(slab.objects)
        n.add_slab(slab)

    def _alloc_single_from_slab(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page, orig_size: int | None
    ) -> int:
        """
        The first free object of a slab. Caller holds list_lock.

        0: the slab is not to be trusted. It is on no list any more.
        """
        pair = slab.freelist_counters
        address, counters = pair.first, pair.second
        # Before anything is read there: it may be what somebody wrote into a free object.
        known = self._check.reporter.valid_pointer(s, slab, address)
        following = s.get_freepointer(c.words, address) if known else 0
        n.set_slab(slab, following, counters + 1)
        if not self._alloc_debug_processing(s, slab, address, orig_size):
            n.disable_slab(slab)
            self._check.adopt(s, slab)
            return 0
        if not known:  # and nothing checks that
            raise s.freepointer_corrupt(address)
        index = s.freepointer_index(address)
        if slab.owners.setdefault(address, index) is not index:
            raise ObjectHandedOutTwice(
                f"{s.name}: object {address:#x} was on the free list of {slab!r}, but somebody has it "
                "and has not freed it"
            )
        return address

    def _alloc_debug_processing(
        self, s: KmemCache, slab: Page, address: int, orig_size: int | None
    ) -> bool:
        """Check the object, and make it look in use; false: do not use the slab."""
        layout, check = s.layout, self._check
        assert layout is not None
        if layout.checks and not check.alloc_consistency_checks(s, slab, address):
            check.reporter.slab_fix(s, "Marking all objects used")
            return False
        if layout.trace:
            check.reporter.trace(s, slab, address, alloc=True)
        if layout.orig_size_offset:
            self._tracks.set_orig_size(layout, address, orig_size or layout.object_size)
        check.init_object(layout, address, SLUB_RED_ACTIVE, orig_size)
        return True
