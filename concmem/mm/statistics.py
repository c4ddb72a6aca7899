"""
What the objects of ``mm`` report of themselves: frozen, plain numbers, pages unless named otherwise.

The texts of ``/proc`` are pure functions of these (see :mod:`concmem.reports`).
"""

from __future__ import annotations

from typing import NamedTuple

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
    """One for each CPU; kernel threads have none worth showing."""


class NodeStatistics(NamedTuple):
    """One NUMA node (``pg_data_t``)."""

    node: int
    cpus: tuple[int, ...]
    zones: tuple[ZoneStatistics, ...]
    """DMA, DMA32 and Normal, unpopulated ones included."""
    kswapd_wakeups: int


class CpuStatistics(NamedTuple):
    """One CPU."""

    cpu: int
    node: int
    native_id: int
    """Thread id on the host, as psutil shows it."""
    interrupts: int


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
