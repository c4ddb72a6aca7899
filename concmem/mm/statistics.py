"""
What the objects of ``mm`` report of themselves: frozen, plain numbers, pages unless named otherwise.

The texts of ``/proc`` are pure functions of these (see :mod:`concmem.reports`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from concmem.mm.statistics_kmemleak import KmemleakStatistics
from concmem.mm.statistics_process import UserNodeStatistics, UserStatistics
from concmem.runtime.lockdep_statistics import LockdepStatistics
from concmem.runtime.lockstat import LockClassStatistics


class PagesetStatistics(NamedTuple):
    """One zone's page set on one CPU."""

    count: int  # type: ignore[assignment]  # the kernel's name wins over tuple.count
    """Pages cached."""
    high: int
    batch: int
    high_min: int
    high_max: int
    nr_alloc: int
    """Pages ever handed out by the set."""
    nr_free: int
    """Pages ever freed into it."""
    nr_refill: int
    """Times a batch was fetched from the buddy system."""
    nr_flush: int
    """Times a batch was given back."""
    vm_stat_diff: int
    """This CPU's share of the zone's counter that is not folded in yet."""
    stat_threshold: int
    nr_drain: int = 0
    """Of `nr_flush`, those that a drain asked for."""


class ZoneStatistics(NamedTuple):
    """One zone."""

    name: str
    node: int
    start_pfn: int
    spanned: int
    present: int
    managed: int
    nr_free_pages: int
    """The counter, which may drift; `free_counts` is exact when the zone is quiet."""
    nr_free_cma: int
    cma: int
    """Pages in CMA areas."""
    free_counts: tuple[tuple[int, ...], ...]
    """``[order][migratetype]``: free blocks on each list."""
    nr_free: tuple[int, ...]
    """``[order]``: the counter ``free_area[order].nr_free``."""
    pageblocks: tuple[int, ...]
    """``[migratetype]``: page blocks of each type."""
    watermark_boost: int
    watermark_min: int
    watermark_low: int
    watermark_high: int
    watermark_promo: int
    lowmem_reserve: tuple[int, ...]
    nr_reserved_highatomic: int
    pages_scanned: int
    flags: tuple[str, ...]
    pagesets: tuple[PagesetStatistics, ...]
    """One for each CPU; kernel threads have none worth showing, nor has an unpopulated zone."""
    nr_buddy_frees: int = 0
    """Blocks that came to the buddy system and whose buddy was looked for."""
    nr_merges: int = 0
    """Times that a block and its free buddy became one."""
    nr_merged_whole: int = 0
    """Blocks that grew to the largest order so."""


class NodeStatistics(NamedTuple):
    """One NUMA node (``pg_data_t``)."""

    node: int
    cpus: tuple[int, ...]
    zones: tuple[ZoneStatistics, ...]
    """DMA, DMA32 and Normal, unpopulated ones included."""
    kswapd_wakeups: int
    nr_slab_reclaimable: int = 0
    nr_slab_unreclaimable: int = 0
    """Pages of slabs, whether a shrinker can free them (``SLAB_RECLAIM_ACCOUNT``) or not."""
    user: UserNodeStatistics | None = None
    """Pages of processes."""


class CpuStatistics(NamedTuple):
    """One CPU."""

    cpu: int
    node: int
    native_id: int
    """Thread id on the host, as psutil shows it."""
    interrupts: int


class SlabNodeStatistics(NamedTuple):
    """One cache on one NUMA node (``struct kmem_cache_node``)."""

    node: int
    nr_slabs: int
    """All slabs whose pages are on the node, CPU slabs included."""
    nr_partial: int
    """Slabs on ``slabs_partial``."""
    nr_free: int
    """Empty slabs kept on ``slabs_free``."""
    nr_full: int
    """Slabs on ``slabs_full``."""
    total_objects: int
    """Objects in all slabs of the node."""
    free_objects: int
    """Free objects in slabs that are no CPU's: on a list of the node or of a CPU."""
    partial_objects: int
    """Objects in the slabs on ``slabs_partial`` and ``slabs_free``, used and free."""
    partial_inuse: int
    """Objects in use in the slabs on ``slabs_partial``."""


class SlabCpuStatistics(NamedTuple):
    """One cache on one CPU (``struct kmem_cache_cpu``); kernel threads come last."""

    cpu: int
    slab_node: int
    """NUMA node of the CPU slab; -1 when there is none."""
    slab_objects: int
    """Objects in the CPU slab, used and free; 0 when there is none."""
    slab_inuse: int
    """Objects of the CPU slab that are handed out or on the CPU's own free list."""
    partial_slabs: int
    """Slabs on the CPU partial list."""
    partial_node: int
    """NUMA node of the first of them; -1 when there is none."""


class SlabStatistics(NamedTuple):
    """One cache (``struct kmem_cache``); sizes in bytes."""

    name: str
    aliases: tuple[str, ...]
    """Names of further caches that were merged into this one."""
    flags: int
    """``SLAB_*`` bits."""
    object_size: int
    """As asked for."""
    inuse: int
    """Offset of the metadata."""
    align: int
    size: int
    """Distance of two objects, metadata included."""
    offset: int
    """Of the free pointer in a free object."""
    usersize: int
    """Bytes that may be copied to or from user space."""
    ctor: str | None
    order: int
    objs_per_slab: int
    min_order: int
    """The fallback when there is no block of *order*."""
    min_objs: int
    colour: int
    """Number of colours."""
    colour_off: int
    min_partial: int
    cpu_partial: int
    """Objects wanted on CPU partial lists."""
    cpu_partial_slabs: int
    """Slabs on a CPU partial list that make it full."""
    refcount: int
    """Caches merged into this one, itself included."""
    nodes: tuple[SlabNodeStatistics, ...]
    cpus: tuple[SlabCpuStatistics, ...]
    events: dict[str, tuple[int, ...]]
    """SLUB statistics by kernel name (``alloc_fastpath``, ...), one number for each CPU."""

    @property
    def nr_slabs(self) -> int:
        return sum(node.nr_slabs for node in self.nodes)

    @property
    def total_objects(self) -> int:
        return sum(node.total_objects for node in self.nodes)

    @property
    def active_objects(self) -> int:
        """As ``/proc/slabinfo`` has it: what is free in CPU slabs counts as active."""
        return self.total_objects - sum(
            node.partial_objects - node.partial_inuse for node in self.nodes
        )


class VmAreaStatistics(NamedTuple):
    """One range of virtual addresses (``struct vmap_area`` and ``struct vm_struct``)."""

    start: int
    end: int
    """The first address behind it; the guard page is inside."""
    kind: str
    """``vmalloc``, ``vmap``, ``vm_map_ram``, or ``unpurged``: freed, waiting for a flush."""
    caller: str = ""
    """Who asked for it: function, offset and length in bytes of its code."""
    nr_pages: int = 0
    """Pages that the area owns."""
    numa: tuple[tuple[int, int], ...] = ()
    """NUMA node, and pages of the area there; nothing for an area that is not complete."""
    phys_addr: int = 0
    flags: tuple[str, ...] = ()
    """More of what ``/proc/vmallocinfo`` can show: ``ioremap sparse user dma-coherent vpages``."""


class VmallocStatistics(NamedTuple):
    """The vmalloc range."""

    size: int
    """Bytes of the range."""
    nr_vmalloc_pages: int
    nr_lazy_pages: int
    """Pages of addresses that wait for a flush (``vmap_lazy_nr``)."""
    lazy_max_pages: int
    """How many start a purge."""
    nr_purges: int
    nr_flushes: int
    """TLB flushes of a range."""
    areas: tuple[VmAreaStatistics, ...]
    """Those in use, node by node, then those that wait for a flush."""


class MachineStatistics(NamedTuple):
    """The whole machine."""

    nr_cpus: int
    nodes: tuple[NodeStatistics, ...]
    cpus: tuple[CpuStatistics, ...]
    events: dict[str, int]
    """Summed event counters, kernel names where it has them (``pgalloc_normal``, ...)."""
    min_free_kbytes: int
    locks: tuple[LockClassStatistics, ...]
    """Lock classes, most contended first; empty when the machine keeps no lock statistics."""
    slabs: tuple[SlabStatistics, ...] = ()
    """Caches, newest first."""
    vmalloc: VmallocStatistics | None = None
    destroyed_slab_events: Mapping[str, int] = MappingProxyType({})
    """SLUB statistics of caches that have been destroyed, summed."""
    proc_reads: Mapping[str, int] = MappingProxyType({})
    """Times that each ``/proc`` file was read."""
    user: UserStatistics | None = None
    """Processes and their memory."""
    kmemleak: KmemleakStatistics | None = None
    """The leak detector; ``None``: there is none."""
    lockdep: LockdepStatistics | None = None
    """The order of locks, if the machine validates it."""
