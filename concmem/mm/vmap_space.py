"""
The virtual addresses of vmalloc: which are free, which are in use, and which wait for a TLB flush.

An address range goes round: free tree (or a node's pool) -> busy -> lazy -> purged -> pool or free tree.
Only a purge, which flushes the TLBs once for all areas that it has taken, makes freed addresses free
again, so nothing is reused before the flush.

Locks:
    vmap_purge_lock (mutex)     one purge at a time
    free_vmap_area_lock         the free tree
    see vmap_node.py            busy, lazy, pool
    (the spinlocks are never taken inside one another; vmap_purge_lock is taken outside of them)

Follows ``mm/vmalloc.c`` of Linux 6.12: ``alloc_vmap_area``, ``free_vmap_area_noflush``,
``__purge_vmap_area_lazy``. Not there: the chain of purge notifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.mm.gfp import NOWARN
from concmem.mm.vmap_area import VmapArea, VmapTree, VmStruct
from concmem.mm.vmap_node import VmapNode
from concmem.mm.workqueue import Work
from concmem.runtime.api import lockdep_assert_held
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.log import KernelLog
    from concmem.mm.page_table import PageTable
    from concmem.mm.workqueue import WorkQueue
    from concmem.runtime.api import Runtime

VMAP_ZONE_SIZE: Final = 16 * PAGE_SIZE
"""Addresses fall to the nodes in turns of so many bytes."""

MAX_VMAP_NODES: Final = 128

LAZY_BYTES_PER_CPU_BIT: Final = 32 << 20

NO_RANGE: Final = (1 << 64, 0)
"""Start and end of nothing, for growing a range by min and max."""


class VmapSpace:
    """Addresses from *start* on, *size* bytes, mapped by *page_table*."""

    __guarded_by__: Final = {"free": "free_lock"}

    def __init__(
        self,
        rt: Runtime,
        page_table: PageTable,
        workqueue: WorkQueue,
        log: KernelLog,
        start: int,
        size: int,
        node_class: type[VmapNode] = VmapNode,
    ) -> None:
        self._rt = rt
        self.page_table = page_table
        self._workqueue = workqueue
        self._log = log
        self.start = start
        self.end = start + size
        nr_nodes = min(rt.nr_cpus, MAX_VMAP_NODES)
        self.nodes = [rt.watch(node_class(rt)) for _ in range(nr_nodes)]
        self.purge_lock = rt.mutex("vmap_purge_lock")
        self.free_lock = rt.spinlock("free_vmap_area_lock")
        self.free = VmapTree()
        self.free.insert(VmapArea(self.start, self.end))
        self.vmap_lazy_nr = rt.atomic(0, "vmap_lazy_nr")
        """Pages of areas that wait for a flush."""
        self.nr_purges = rt.atomic(0, "nr_purges")
        self.purge_fragmented_blocks: Callable[[], None] = lambda: None
        """Has vm_map_ram free what it can; called with vmap_purge_lock held. Set at boot."""
        self._drain_vmap_work = Work(self._drain_vmap_area_work, "drain_vmap_work")

    # -- allocate

    def alloc_vmap_area(
        self, size: int, align: int, gfp: int, vm: VmStruct | None, flags: int = 0
    ) -> VmapArea | None:
        """
        Reserve *size* bytes (whole pages) at a multiple of *align*. May sleep.

        The area is busy, and can be found, when this returns. ``None`` when there is no room, also
        after a purge.
        """
        vn_id = self._this_vn_id()
        found = self.nodes[vn_id].pool_del_va(size, align) if vn_id >= 0 else None
        if found is None:
            found = self._alloc_from_free_tree(size, align)
        if found is None:
            self.reclaim_and_purge_vmap_areas()
            found = self._alloc_from_free_tree(size, align)
        if found is None:
            self._warn_no_room(size, gfp)
            return None
        va = VmapArea(*found)
        va.vn_id = vn_id
        va.flags = flags
        if vm is not None:
            vm.addr = va.va_start
            va.vm = vm
        self.addr_to_node(va.va_start).insert_busy(va)
        return va

    def _this_vn_id(self) -> int:
        """The node whose pool this CPU uses; -1 if there is one node only, which needs no pool."""
        if len(self.nodes) == 1:
            return -1
        return self._rt.smp_processor_id() % len(self.nodes)

    def _alloc_from_free_tree(self, size: int, align: int) -> tuple[int, int] | None:
        """The lowest range that fits (``__alloc_vmap_area``)."""
        with self.free_lock:
            found = self.free.find_lowest(size, align)
            if found is None:
                return None
            va, start = found
            self.free.clip(va, start, start + size)
            return start, start + size

    def _warn_no_room(self, size: int, gfp: int) -> None:
        if not gfp & NOWARN:
            self._log.printk(
                f"vmalloc_node_range for size {size} failed: Address range restricted to "
                f"{self.start:#x} - {self.end:#x}"
            )

    # -- find

    def addr_to_node(self, address: int) -> VmapNode:
        """The node that *address* falls to."""
        return self.nodes[address // VMAP_ZONE_SIZE % len(self.nodes)]

    def find_vmap_area(self, address: int) -> VmapArea | None:
        """The busy area that *address* is in. The caller must know that it stays."""
        if not self.start <= address < self.end:
            return None
        # An area may begin in the share of another node: look there, too.
        first = address // VMAP_ZONE_SIZE % len(self.nodes)
        for node in self.nodes[first:] + self.nodes[:first]:
            with node.busy_lock:
                va = node.busy.find(address)
            if va is not None:
                return va
        return None

    def find_unlink_vmap_area(
        self, address: int, is_right: Callable[[VmapArea], bool]
    ) -> VmapArea | None:
        """
        Take the busy area that starts at *address* out, if it *is_right*; now it is the caller's.

        Of several callers with the same address one gets it. Linux takes any area that *address*
        is in; here it must be the first.
        """
        node = self.addr_to_node(address)
        with node.busy_lock:
            va = node.busy.find(address)
            if va is None or va.va_start != address or not is_right(va):
                return None
            node.busy.remove(va)
            return va

    # -- free

    def free_unmap_vmap_area(self, va: VmapArea) -> None:
        """Unmap an area that was unlinked, then let go of its addresses: never in another order."""
        self.page_table.unmap(va.va_start, va.size)
        self.free_vmap_area_noflush(va)

    def free_vmap_area_noflush(self, va: VmapArea) -> None:
        """Leave an unmapped area to the next purge."""
        nr_lazy = self.vmap_lazy_nr.add_return(va.nr_pages)
        node = self.nodes[va.vn_id] if va.vn_id >= 0 else self.addr_to_node(va.va_start)
        node.add_lazy(va)
        if nr_lazy > self.lazy_max_pages():
            self._workqueue.queue_work(self._drain_vmap_work)

    def lazy_max_pages(self) -> int:
        """Pages that may wait for a flush before the worker starts one."""
        return self._rt.nr_cpus.bit_length() * LAZY_BYTES_PER_CPU_BIT >> PAGE_SHIFT

    # -- purge

    def reclaim_and_purge_vmap_areas(self) -> None:
        """Make every address free that can be. May sleep."""
        with self.purge_lock:
            self.purge_fragmented_blocks()
            self.purge_vmap_area_lazy(*NO_RANGE, full_pool_decay=True)

    def _drain_vmap_area_work(self) -> None:
        with self.purge_lock:
            self.purge_vmap_area_lazy(*NO_RANGE, full_pool_decay=False)

    def purge_vmap_area_lazy(self, start: int, end: int, full_pool_decay: bool) -> bool:
        """
        Flush the TLBs for *start* to *end* and all lazy areas, and make those free.

        Caller holds vmap_purge_lock. With *full_pool_decay* the pools are emptied, and stay so.
        False, and no flush, when there was no lazy area.
        """
        lockdep_assert_held(self.purge_lock)
        stolen = []
        for node in self.nodes:
            self._return_to_free_tree(node.decay_pool(full_pool_decay))
            areas = node.steal_lazy()
            if areas:
                stolen.append((node, areas))
        self._flush_and_return(start, end, stolen, populate=not full_pool_decay)
        return bool(stolen)

    def _flush_and_return(
        self,
        start: int,
        end: int,
        stolen: list[tuple[VmapNode, list[VmapArea]]],
        populate: bool,
    ) -> None:
        """One flush for all, and only then the areas may be used again."""
        if not stolen:
            return
        for _, areas in stolen:
            start = min(start, min(va.va_start for va in areas))
            end = max(end, max(va.va_end for va in areas))
        self.page_table.flush_tlb_kernel_range(start, end)
        self.nr_purges.inc()
        for node, areas in stolen:
            self._purge_vmap_node(node, areas, populate)

    def _purge_vmap_node(self, node: VmapNode, areas: list[VmapArea], populate: bool) -> None:
        """Give flushed areas to the node's pool, if it shall have them, or to the free tree."""
        global_ranges = [
            (va.va_start, va.va_end)
            for va in areas
            if not populate or va.vn_id < 0 or not node.pool_add_va(va)
        ]
        self.vmap_lazy_nr.add(-sum(va.nr_pages for va in areas))
        self._return_to_free_tree(global_ranges)

    def _return_to_free_tree(self, ranges: list[tuple[int, int]]) -> None:
        """``reclaim_list_global``."""
        if ranges:
            with self.free_lock:
                for start, end in ranges:
                    self.free.merge(start, end)
