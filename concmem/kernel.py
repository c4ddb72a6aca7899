"""
The kernel of a machine: all that runs on its CPUs, made in the order of a boot.

:class:`Kernel` reads as a table of contents of the model.
"""

from __future__ import annotations

from typing import TypeVar, cast

from concmem.config import MachineConfig
from concmem.errors import BadArgument
from concmem.mm.cma import CmaArea, reserve_cma
from concmem.mm.cpuset import Cpusets
from concmem.mm.debug.debugging import DebugConfig, Debugging
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.debug.kmemleak_hooks import tracked
from concmem.mm.debug.kmemleak_off import NoKmemleak
from concmem.mm.debug.page_poison import PagePoison
from concmem.mm.debug.validate import validate_pages
from concmem.mm.debug.validate_kmemleak import validate_kmemleak
from concmem.mm.debug.validate_mm import validate_processes
from concmem.mm.debug.validate_slab import validate_slabs
from concmem.mm.debug.validate_vmalloc import validate_vmalloc
from concmem.mm.drain import Drain
from concmem.mm.free_area import FreeArea
from concmem.mm.kmalloc import Kmalloc
from concmem.mm.kmem_cache import FreelistOptions
from concmem.mm.log import KernelLog
from concmem.mm.mem_map import MemMap
from concmem.mm.memory import Memory
from concmem.mm.memory_hotplug import MemoryHotplug
from concmem.mm.mempool import Mempool
from concmem.mm.mempool_create import Mempools
from concmem.mm.min_free import MinFree
from concmem.mm.mm_struct import MmStruct
from concmem.mm.node import PgData
from concmem.mm.page_alloc import PageAllocator
from concmem.mm.page_table import PageTable
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.process import ProcessTable
from concmem.mm.rcu import Rcu
from concmem.mm.reclaim import Reclaim
from concmem.mm.sections import Sections
from concmem.mm.shmem import Shmem
from concmem.mm.slab_boot import REPLACEABLE as SLAB_REPLACEABLE
from concmem.mm.slab_boot import kmem_cache_init
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slow_path import SlowPath
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_block import VmapBlocks
from concmem.mm.vmap_node import VmapNode
from concmem.mm.vmap_space import VmapSpace
from concmem.mm.vmstat import VmEvents
from concmem.mm.wait_table import WaitTable
from concmem.mm.workqueue import WorkQueue
from concmem.mm.zone import Zone
from concmem.runtime.api import Runtime
from concmem.units import MAX_PAGE_ORDER, PAGE_SHIFT, PAGE_SIZE, VMALLOC_START

T = TypeVar("T")

ZONE_END_PFNS = (16 << 20 >> PAGE_SHIFT, 4 << 30 >> PAGE_SHIFT, 1 << 52)
"""First page frame after DMA, DMA32 and Normal on x86-64."""


REPLACEABLE = (
    CmaArea,
    Cpusets,
    Drain,
    FreeArea,
    Kmalloc,
    Kmemleak,
    MemMap,
    MemoryHotplug,
    Mempool,
    MinFree,
    MmStruct,
    PageAllocator,
    PagePoison,
    PageTable,
    PerCpuPageset,
    PgData,
    Rcu,
    Reclaim,
    Shmem,
    SlowPath,
    Vmalloc,
    VmapBlocks,
    VmapNode,
    VmapSpace,
    WaitTable,
    WorkQueue,
    Zone,
    *SLAB_REPLACEABLE,
)
"""Classes that ``Machine(classes=...)`` may replace by a subclass."""


class Kernel:
    """
    What a machine is made of, besides its CPUs.

    Raises:
        BadArgument: *config* replaces a class that cannot be replaced.
    """

    def __init__(
        self, rt: Runtime, config: MachineConfig, also_replaceable: tuple[type, ...] = ()
    ) -> None:
        for cls in config.classes:
            if cls not in REPLACEABLE + also_replaceable:
                names = ", ".join(each.__name__ for each in REPLACEABLE + also_replaceable)
                raise BadArgument(f"classes: {cls.__name__} cannot be replaced, only {names}")
        self._rt = rt
        self._config = config
        self.kmemleak: Kmemleak | NoKmemleak = NoKmemleak()
        self.memory = Memory(config.memory)
        try:
            self._start(config.memory // PAGE_SIZE)
        except BaseException:
            self.memory.close()
            raise

    def _start(self, nr_pages: int) -> None:
        """``start_kernel``."""
        rt = self._rt
        self.log = KernelLog(rt)
        self.events = VmEvents(rt)
        self.sections = Sections(rt, self.memory)
        self.mem_map = self._make(MemMap)(rt, nr_pages)
        self.debug = self._debug_init()
        self.nodes = self._build_nodes(nr_pages)
        self.zones = [zone for node in self.nodes for zone in node.node_zones if zone.present_pages]
        self.mem_map.zones = self.zones
        self.drain = self._make(Drain)(rt, self.zones, self.events)
        self.hotplug = self._make(MemoryHotplug)(rt, self.mem_map, self.drain.drain_all_pages)
        self.cma = self._reserve_cma()
        self._free_all_memory()
        self.min_free = self._make(MinFree)(
            rt, self.nodes, self._config.min_free_kbytes, self._config.pagesets
        )
        self.reclaim = self._make(Reclaim)(rt, self.events)
        self.cpusets = self._make(Cpusets)(rt, self.nodes) if self._config.cpusets else None
        self.page_alloc = self._page_alloc_init()
        for node in self.nodes:
            self.reclaim.start_kswapd(node)
        self.workqueue = self._make(WorkQueue)(rt, "kworker/u:0")
        self.rcu = self._make(Rcu)(rt)
        self.rcu.start()
        self.kmemleak = self._kmemleak_init()
        self.vm_areas = self._vmalloc_init()
        self.slab = self._slab_init()
        self.kmalloc = self._make(Kmalloc)(
            rt, self.memory, self.page_alloc, self.slab, self.vm_areas, self.debug.kasan
        )
        self.slab.obj_exts.kcalloc = self.kmalloc.kcalloc
        self.mempools = Mempools(
            rt, self.events, self.kmalloc, self.page_alloc, self._make(Mempool)
        )
        self.processes = self._processes_init()
        self.slab.late_init()
        if isinstance(self.kmemleak, Kmemleak):
            self.kmemleak.start(self.slab, self.vm_areas, self.workqueue)

    def _make(self, cls: type[T]) -> type[T]:
        """The class to use for *cls*: itself, or its replacement; one that calls the leak detector, if any."""
        made = cast(type[T], self._config.classes.get(cls, cls))
        return tracked(cls, made, self.kmemleak) if isinstance(self.kmemleak, Kmemleak) else made

    def validate(self) -> None:
        """
        Check every invariant. The caller has parked all CPUs.

        Raises:
            ValidationError: the rule that is broken, with zone, order and pfn, or addresses.
        """
        for cache in self.slab.caches():
            if cache.layout is not None:
                cache.validate()
        self.debug.verify()
        validate_pages(self.mem_map, self.zones)
        quarantined = self.debug.kasan.quarantine.addresses if self.debug.kasan else {}
        validate_slabs(
            self.slab.caches(), self.mem_map, self.memory, self.nodes, quarantined.keys()
        )
        validate_vmalloc(self.vm_areas)
        validate_processes(self.processes)
        if isinstance(self.kmemleak, Kmemleak):
            validate_kmemleak(self.kmemleak, self.mem_map, self.vm_areas)

    # -- boot, step by step

    def _debug_init(self) -> Debugging:
        """What debugging was asked for; before anything that it is to see."""
        config = self._config
        wanted = DebugConfig(
            config.slab_debug,
            config.page_poison,
            config.page_owner,
            config.kasan,
            config.failslab,
            config.fail_page_alloc,
        )
        return Debugging(
            self._rt,
            wanted,
            self.memory,
            self.mem_map,
            self.events,
            self.log,
            self._make(PagePoison),
        )

    def _build_nodes(self, nr_pages: int) -> list[PgData]:
        """Share memory and CPUs out to nodes, and each node's memory to zones."""
        rt, nr_nodes = self._rt, self._config.nodes
        zone_class = self._make(Zone)
        parts = self._make(PerCpuPageset), self._make(FreeArea), self._make(WaitTable)
        block = 1 << MAX_PAGE_ORDER
        share = max(block, nr_pages // nr_nodes & -block) if nr_nodes > 1 else nr_pages
        nodes = []
        for number in range(nr_nodes):
            start = min(number * share, nr_pages)
            end = nr_pages if number == nr_nodes - 1 else min(start + share, nr_pages)
            zones = []
            for index, zone_end in enumerate(ZONE_END_PFNS):
                zone_start = ZONE_END_PFNS[index - 1] if index else 0
                first = min(max(start, zone_start), end)
                last = min(max(first, min(end, zone_end)), end)
                nr_zone_pages = max(0, last - first)
                zone = zone_class(rt, self.mem_map, index, first, nr_zone_pages, *parts)
                zones.append(rt.watch(zone))
            cpus = tuple(cpu for cpu in range(rt.nr_cpus) if cpu * nr_nodes // rt.nr_cpus == number)
            nodes.append(self._make(PgData)(rt, number, tuple(zones), cpus))
        return nodes

    def _reserve_cma(self) -> CmaArea | None:
        """Type the last page blocks CMA, before their pages are freed."""
        nr_pages = self._config.cma // PAGE_SIZE
        if not nr_pages:
            return None
        zone = self.zones[-1]
        base = reserve_cma(zone, nr_pages)
        return self._make(CmaArea)(
            self._rt,
            zone,
            base,
            nr_pages,
            self.events,
            self.drain.drain_all_pages,
            self.debug.pages,
        )

    def _free_all_memory(self) -> None:
        """Give every page but the first, which x86 keeps for itself, to the buddy system."""
        for zone in self.zones:
            zone.free_all(zone.zone_start_pfn or 1)

    def _page_alloc_init(self) -> PageAllocator:
        """The page allocator, and what it does when memory is short."""
        page_alloc = self._make(PageAllocator)(
            self._rt, self.memory, self.mem_map, self.nodes, self.events, self.debug.pages
        )
        page_alloc.cpusets = self.cpusets
        page_alloc.slow_path = self._make(SlowPath)(
            self._rt, page_alloc, self.reclaim, self.log, self.drain.try_drain_all_pages
        )
        return page_alloc

    def _vmalloc_init(self) -> Vmalloc:
        """Page tables and virtual addresses (``vmalloc_init``)."""
        rt = self._rt
        page_table = self._make(PageTable)(rt)
        self.memory.page_table = self.debug.memory.page_table = page_table
        space = self._make(VmapSpace)(
            rt,
            page_table,
            self.workqueue,
            self.log,
            VMALLOC_START,
            self._config.vmalloc_size,
            self._make(VmapNode),
        )
        blocks = self._make(VmapBlocks)(rt, rt.watch(space))
        return self._make(Vmalloc)(
            rt, space, blocks, self.page_alloc, self.mem_map, self.workqueue, self.log
        )

    def _processes_init(self) -> ProcessTable:
        """User space, without a process (``fork_init``, ``shmem_init``)."""
        return ProcessTable(
            self._rt,
            self.memory,
            self.mem_map,
            self.page_alloc,
            self.zones,
            self.events,
            (self._make(MmStruct), self._make(Shmem)),
        )

    def _kmemleak_init(self) -> Kmemleak | NoKmemleak:
        """The leak detector, which follows what is made from here on, if there is to be one."""
        if not self._config.kmemleak:
            return NoKmemleak()
        return self._make(Kmemleak)(
            self._rt,
            self.memory,
            self.log,
            self.events,
            self.rcu,
            self.mem_map,
            self.sections,
        )

    def _slab_init(self) -> SlabCommon:
        """The slab allocator, without a cache (``kmem_cache_init``)."""
        config = self._config
        return kmem_cache_init(
            self._rt,
            self.page_alloc,
            self.rcu,
            self.log,
            self._make,
            config.slab_merge,
            FreelistOptions(config.freelist_random, config.freelist_hardened),
            self.debug,
        )
