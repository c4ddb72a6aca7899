"""
The machine: memory, CPUs and everything in between, under one roof.

:func:`boot` reads as a table of contents of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar, cast

from concmem.config import MachineConfig
from concmem.errors import BadArgument
from concmem.mm.cma import CmaArea, reserve_cma
from concmem.mm.debug.validate import validate_pages
from concmem.mm.drain import Drain
from concmem.mm.free_area import FreeArea
from concmem.mm.log import KernelLog
from concmem.mm.mem_map import MemMap
from concmem.mm.memory import Memory, pfn_to_virt, virt_to_pfn
from concmem.mm.node import PgData
from concmem.mm.page import Page
from concmem.mm.page_alloc import PageAllocator
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.reclaim import Reclaim, Shrinker
from concmem.mm.slow_path import SlowPath
from concmem.mm.statistics import CpuStatistics, MachineStatistics
from concmem.mm.vmstat import VmEvents
from concmem.mm.watermark import lowmem_reserve, min_free_kbytes, zone_watermarks
from concmem.mm.zone import Zone
from concmem.reports.procfs import ProcFs
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.lockstat import LockClassStatistics
from concmem.units import MAX_PAGE_ORDER, PAGE_SHIFT, PAGE_SIZE, format_size

T = TypeVar("T")

ZONE_END_PFNS = (16 << 20 >> PAGE_SHIFT, 4 << 30 >> PAGE_SHIFT, 1 << 52)
"""First page frame after DMA, DMA32 and Normal on x86-64."""


REPLACEABLE = (
    CmaArea,
    Drain,
    FreeArea,
    MemMap,
    PageAllocator,
    PerCpuPageset,
    PgData,
    Reclaim,
    SlowPath,
    Zone,
)
"""Classes that ``Machine(classes=...)`` may replace by a subclass."""


def make_runtime(
    runtime: str | FreeRuntime, cpus: int, seed: int, lockstat: bool, pin: bool
) -> FreeRuntime:
    """The runtime of that name: ``free``, ``jitter``, or ``auto`` for what finds most here."""
    if isinstance(runtime, FreeRuntime):
        return runtime
    if runtime == "auto":
        runtime = "free" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "jitter"
    if runtime == "free":
        return FreeRuntime(cpus, seed=seed, lockstat=lockstat, pin=pin)
    if runtime == "jitter":
        return JitterRuntime(cpus, seed=seed, lockstat=lockstat, pin=pin)
    raise BadArgument(f"runtime: must be 'auto', 'free' or 'jitter', got {runtime!r}")


class Machine:
    """
    A running machine. Use it as a context manager, so that its threads end::

        with concmem.Machine(cpus=2, memory="64M") as m:
            pages = m.run([lambda: m.alloc_pages(0), None])

    Args:
        cpus: 1 to 256; each is an OS thread of its own.
        memory: bytes, or text such as ``"256M"``; backed by the host only where touched.
        seed: of everything random in the model.
        nodes: NUMA nodes, 1 to 64; memory and CPUs are shared out evenly.
        runtime: ``"free"``, ``"jitter"``, ``"auto"``, or a runtime object, whose CPUs are used.
        lockstat: keep lock statistics for ``/proc/lock_stat``.
        pin: bind CPU threads to host CPUs, round and round.
        cma: bytes reserved for contiguous allocations, at the end of the highest zone.
        min_free_kbytes: the reserve that watermarks are made of; by default Linux's formula.
        pagesets: False switches per-CPU page sets off (batch 1, high 0).
        classes: replacements for classes of the model (`REPLACEABLE`), ``{Zone: MyZone}``.

    Attributes, besides the methods (GFP flags are in :mod:`concmem.mm.gfp`):
        alloc_pages(order=0, gfp=GFP_KERNEL, node=None): ``2**order`` pages, or ``None``. On a CPU.
        free_pages(page, order=0): drop a reference; the last one frees. On a CPU.
        get_page(page), put_page(page), split_page(page): as in the kernel. On a CPU.
        memory: the bytes: ``read(address, n)``, ``write(address, data)``.
        procfs: ``/proc`` texts: ``names()``, ``read(name)``, ``export(directory)``.
        log: the kernel log: ``read()``.
        runtime: the CPUs and primitives (:class:`concmem.Runtime`).

    Raises:
        BadArgument: a parameter cannot be; no thread is left.
    """

    def __init__(
        self,
        cpus: int = 4,
        memory: int | str = "256M",
        seed: int = 0,
        *,
        nodes: int = 1,
        runtime: str | FreeRuntime = "free",
        lockstat: bool = False,
        pin: bool = False,
        cma: int | str = 0,
        min_free_kbytes: int | None = None,
        pagesets: bool = True,
        classes: Mapping[type, type] | None = None,
    ) -> None:
        if isinstance(runtime, FreeRuntime):
            cpus = runtime.nr_cpus
        self.config = MachineConfig.check(
            cpus=cpus,
            memory=memory,
            nodes=nodes,
            cma=cma,
            min_free_kbytes=min_free_kbytes,
            pagesets=pagesets,
            classes=classes,
        )
        for cls in self.config.classes:
            if cls not in REPLACEABLE:
                names = ", ".join(each.__name__ for each in REPLACEABLE)
                raise BadArgument(f"classes: {cls.__name__} cannot be replaced, only {names}")
        self.seed = seed
        self.runtime = make_runtime(runtime, cpus, seed, lockstat, pin)
        self.runtime.claim(self)
        try:
            self._boot()
        except BaseException:
            self.close()
            raise

    def _boot(self) -> None:
        """``start_kernel``."""
        rt, config = self.runtime, self.config
        nr_pages = config.memory // PAGE_SIZE
        self.memory = Memory(config.memory)
        self.log = KernelLog(rt)
        self.events = VmEvents(rt)
        self.mem_map = self._make(MemMap)(rt, nr_pages)
        self.nodes = self._build_nodes(nr_pages)
        self.zones = [zone for node in self.nodes for zone in node.node_zones if zone.present_pages]
        self.mem_map.zones = self.zones
        self._drain = self._make(Drain)(rt, self.zones, self.events)
        self.cma = self._reserve_cma()
        self._free_all_memory()
        self._setup_watermarks()
        self.reclaim = self._make(Reclaim)(rt, self.events)
        self.page_alloc = self._make(PageAllocator)(
            rt, self.memory, self.mem_map, self.nodes, self.events
        )
        self.page_alloc.slow_path = self._make(SlowPath)(
            rt, self.page_alloc, self.reclaim, self.log, self._drain.try_drain_all_pages
        )
        self.alloc_pages = self.page_alloc.alloc_pages
        self.free_pages = self.page_alloc.free_pages
        self.get_page = self.page_alloc.get_page
        self.put_page = self.page_alloc.put_page
        self.split_page = self.page_alloc.split_page
        for node in self.nodes:
            self.reclaim.start_kswapd(node)
        self.procfs = ProcFs(self.statistics)

    def _make(self, cls: type[T]) -> type[T]:
        """The class to use for *cls*: itself, or its replacement."""
        return cast(type[T], self.config.classes.get(cls, cls))

    # -- boot, step by step

    def _build_nodes(self, nr_pages: int) -> list[PgData]:
        """Share memory and CPUs out to nodes, and each node's memory to zones."""
        rt, nr_nodes = self.runtime, self.config.nodes
        zone_class = self._make(Zone)
        pagesets, free_areas = self._make(PerCpuPageset), self._make(FreeArea)
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
                zones.append(
                    zone_class(rt, self.mem_map, index, first, nr_zone_pages, pagesets, free_areas)
                )
            cpus = tuple(cpu for cpu in range(rt.nr_cpus) if cpu * nr_nodes // rt.nr_cpus == number)
            nodes.append(self._make(PgData)(rt, number, tuple(zones), cpus))
        return nodes

    def _reserve_cma(self) -> CmaArea | None:
        """Type the last page blocks CMA, before their pages are freed."""
        nr_pages = self.config.cma // PAGE_SIZE
        if not nr_pages:
            return None
        zone = self.zones[-1]
        base = reserve_cma(zone, nr_pages)
        return self._make(CmaArea)(
            self.runtime, zone, base, nr_pages, self.events, self._drain.drain_all_pages
        )

    def _free_all_memory(self) -> None:
        """Give every page but the first, which x86 keeps for itself, to the buddy system."""
        for zone in self.zones:
            zone.free_all(zone.zone_start_pfn or 1)

    def _setup_watermarks(self) -> None:
        """Reserve, watermarks and page set sizes (``init_per_zone_wmark_min``)."""
        managed = sum(zone.managed_pages for zone in self.zones)
        self.min_free_kbytes = self.config.min_free_kbytes or min_free_kbytes(managed * 4)
        for node in self.nodes:
            reserve = lowmem_reserve([zone.managed_pages for zone in node.node_zones])
            for zone in node.node_zones:
                if zone.managed_pages:
                    marks = zone_watermarks(self.min_free_kbytes // 4, zone.managed_pages, managed)
                    zone.setup_watermarks(
                        marks,
                        reserve[zone.index],
                        len(node.cpus) or self.runtime.nr_cpus,
                        self.config.pagesets,
                    )
                else:
                    zone.lowmem_reserve = tuple(reserve[zone.index])

    # -- CPUs

    def run(self, bodies: Sequence[Callable[[], T] | None]) -> list[T | None]:
        """
        Run body *i* on CPU *i* and wait for all; their results in order.

        Raises:
            ExceptionGroup: what the bodies, and interrupt handlers, raised.
        """
        return self.runtime.run(bodies)

    def submit(self, cpu: int, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Put ``fn(*args)`` into the run queue of *cpu*."""
        return self.runtime.submit(cpu, fn, *args)

    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        """Run *fn* on *cpu* as an interrupt; its result with *wait*."""
        return self.runtime.call_on(cpu, fn, wait)

    def on_each_cpu(self, fn: Callable[[], Any], wait: bool = True) -> None:
        """Run *fn* on every CPU as an interrupt."""
        self.runtime.on_each_cpu(fn, wait)

    def smp_processor_id(self) -> int:
        """The number of the calling CPU."""
        return self.runtime.smp_processor_id()

    # -- pages

    def pfn_to_page(self, pfn: int) -> Page:
        """The page struct of page frame *pfn*, be it head, tail or free."""
        return self.mem_map.page(self.mem_map.check_pfn(pfn))

    def compound_head(self, pfn: int) -> Page | None:
        """The head of the block, free or allocated, that *pfn* is in; ``None`` for none."""
        return self.mem_map.head(self.mem_map.check_pfn(pfn))

    @staticmethod
    def page_address(page: Page) -> int:
        """Where the page's bytes are in the direct map."""
        return pfn_to_virt(page.pfn)

    def virt_to_page(self, address: int) -> Page:
        """The page struct of the page that holds *address*."""
        return self.pfn_to_page(virt_to_pfn(address))

    def lock_page(self, page: Page) -> None:
        """Set PG_locked; sleeps while somebody else has it."""
        page.zone.wait_table.lock_page(page)

    def trylock_page(self, page: Page) -> bool:
        """Set PG_locked if it is clear."""
        return page.zone.wait_table.trylock_page(page)

    def unlock_page(self, page: Page) -> None:
        """Clear PG_locked and wake waiters."""
        page.zone.wait_table.unlock_page(page)

    def wait_on_page_locked(self, page: Page, timeout: float | None = None) -> bool:
        """Sleep until PG_locked is clear; false on a time-out (seconds)."""
        return page.zone.wait_table.wait_on_page_locked(page, timeout)

    def cma_alloc(self, nr_pages: int) -> Page | None:
        """Contiguous pages from the CMA area, or ``None``. May sleep."""
        if self.cma is None:
            raise BadArgument("cma: this machine has no CMA area; boot it with cma='16M'")
        return self.cma.alloc(nr_pages)

    def cma_release(self, page: Page, nr_pages: int) -> None:
        """Free what `cma_alloc` gave."""
        if self.cma is None:
            raise BadArgument("cma: this machine has no CMA area; boot it with cma='16M'")
        self.cma.release(page, nr_pages, self.free_pages)

    def drain_all_pages(self) -> None:
        """Empty all per-CPU page sets. May sleep."""
        self._drain.drain_all_pages()

    def register_shrinker(self, shrinker: Shrinker) -> None:
        """Have *shrinker* asked for memory when it is short."""
        self.reclaim.register_shrinker(shrinker)

    def unregister_shrinker(self, shrinker: Shrinker) -> None:
        """Forget *shrinker*; it is not running any more when this returns."""
        self.reclaim.unregister_shrinker(shrinker)

    def register_oom_notifier(self, notify: Callable[[], int]) -> None:
        """Have *notify* free pages, and return how many, before an allocation fails for good."""
        self.page_alloc.slow_path.register_oom_notifier(notify)

    # -- look and check

    def verify(self) -> None:
        """
        Check every invariant, with all CPUs parked between two operations.

        Raises:
            ValidationError: the rule that is broken, with zone, order and pfn.
        """
        self.runtime.stop_machine(lambda: validate_pages(self.mem_map, self.zones))

    def statistics(self) -> MachineStatistics:
        """A copy of all counters. Does not stop the CPUs."""
        return MachineStatistics(
            nr_cpus=self.runtime.nr_cpus,
            nodes=tuple(node.statistics() for node in self.nodes),
            cpus=tuple(
                CpuStatistics(cpu, node.node_id, thread.native_id, thread.nr_interrupts)
                for node in self.nodes
                for cpu in node.cpus
                for thread in [self.runtime.cpus[cpu]]
            ),
            events=self.events.sum(),
            min_free_kbytes=self.min_free_kbytes,
            locks=self.lock_statistics(),
        )

    def lock_statistics(self) -> tuple[LockClassStatistics, ...]:
        """Lock classes, most contended first; empty without ``lockstat``. Takes no lock."""
        lockstat = self.runtime.lockstat
        return tuple(lockstat.statistics()) if lockstat else ()

    # -- the end

    def close(self) -> None:
        """Stop all CPUs, also in the middle of a body, and give memory back. Idempotent."""
        self.runtime.shutdown()
        memory = getattr(self, "memory", None)
        if memory is not None:
            memory.close()

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<concmem.Machine cpus={self.runtime.nr_cpus} memory={format_size(config.memory)} "
            f"nodes={config.nodes} runtime={self.runtime.name}>"
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
