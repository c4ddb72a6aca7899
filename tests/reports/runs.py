"""Made-up runs: quiet ones, in which nothing is wrong, and what to change of them."""

from __future__ import annotations

from typing import Any

from concmem.mm.migratetype import MIGRATE_TYPES, MOVABLE
from concmem.reports.run import Run
from concmem.reports.run.rows import (
    CachePeak,
    CpuRow,
    LockRow,
    MixedBlocks,
    Moment,
    PhaseRow,
    ProcessMoment,
    ProcessPeak,
    Sample,
    SlabRow,
    Timeline,
    TimesRow,
    ZoneMoment,
    ZoneName,
)
from concmem.units import NR_PAGE_ORDERS

MEMINFO = """\
MemTotal:          65536 kB
MemFree:           40000 kB
MemAvailable:      30000 kB
AnonPages:          4096 kB
Shmem:              1024 kB
Slab:               8192 kB
PageTables:          256 kB
VmallocUsed:        2048 kB
HugePages_Total:       0
"""


def make_cpu(cpu: int, **fields: Any) -> CpuRow:
    """A CPU that did 10,000 operations."""
    return CpuRow(**({"cpu": cpu, "operations": 10_000, "allocated": 5000, "freed": 5000} | fields))


def make_sample(seconds: float, **fields: Any) -> Sample:
    """A look at two CPUs and one zone, of which half is free in large blocks."""
    defaults: dict[str, Any] = {
        "seconds": seconds,
        "phase": "local",
        "operations": (int(seconds * 100), int(seconds * 50)),
        "freed": int(seconds * 60),
        "cross_cpu": int(seconds * 6),
        "blocks": ((4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8),),
        "cached": 100,
        "slab": 64,
        "waits": {"&zone->lock": (int(seconds * 5), int(seconds * 10_000_000))},
    }
    return Sample(**(defaults | fields))


def make_zone(**fields: Any) -> ZoneMoment:
    """A zone of 16,384 pages with 8 blocks of the largest order free."""
    movable = fields.pop("movable", (4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8))
    assert len(movable) == NR_PAGE_ORDERS
    defaults: dict[str, Any] = {
        "node": 0,
        "name": "DMA32",
        "managed": 16_384,
        "free_counts": tuple(
            tuple(n if t == MOVABLE else 0 for t in range(MIGRATE_TYPES)) for n in movable
        ),
        "pageblocks": (4, 28, 0, 0, 0, 0),
        "cached": 100,
        "wmark_min": 64,
        "wmark_low": 80,
        "wmark_high": 96,
    }
    return ZoneMoment(**(defaults | fields))


def make_cache(name: str = "request", **fields: Any) -> CachePeak:
    """A cache whose slabs are full: objects of 64 bytes, 64 to a slab."""
    slabs = fields.get("slabs", 10)
    defaults: dict[str, Any] = {
        "name": name,
        "seconds": 2.0,
        "first_seen": 1.0,
        "last_seen": 8.0,
        "object_size": 64,
        "size": 64,
        "order": 0,
        "objs_per_slab": 64,
        "slabs": slabs,
        "objects": 64 * slabs,
        "in_use": 64 * slabs,
        "partial": 0,
        "empty": 0,
        "cpu_slabs": 2,
        "cpu_partial": 0,
        "merge_key": name,
    }
    return CachePeak(**(defaults | fields))


def make_activity(name: str = "request", **fields: Any) -> SlabRow:
    """A cache that CPUs served from their own slabs."""
    defaults: dict[str, Any] = {
        "name": name,
        "object_size": 64,
        "alloc_fastpath": 9000,
        "alloc_slowpath": 1000,
        "free_fastpath": 9000,
        "free_slowpath": 1000,
        "slabs_allocated": 100,
        "slabs_freed": 90,
    }
    return SlabRow(**(defaults | fields))


def make_lock(name: str = "&zone->lock", **fields: Any) -> LockRow:
    """A lock that was waited for 10 times, 1 ms in all."""
    defaults: dict[str, Any] = {
        "name": name,
        "contentions": 10,
        "acquisitions": 1000,
        "wait": TimesRow(10, 50_000, 200_000, 1_000_000),
        "hold": TimesRow(1000, 1000, 5000, 2_000_000),
        "contention_points": (("rmqueue", 7), ("free", 3)),
        "contending_points": (("", 6), ("free", 4)),
    }
    return LockRow(**(defaults | fields))


def make_run(**fields: Any) -> Run:
    """Ten seconds on two CPUs in which nothing was wrong; all of it known."""
    defaults: dict[str, Any] = {
        "verdict": "clean",
        "interrupted": False,
        "seconds": 10.0,
        "operations": 20_000,
        "rate": 2000.0,
        "scenario": {"name": "made-up", "phases": [{"name": "local"}, {"name": "slab-churn"}]},
        "runtime": "free",
        "gil": True,
        "cpus": (make_cpu(0), make_cpu(1)),
        "phases": (PhaseRow("local", 10_000, 5.0, True), PhaseRow("slab-churn", 10_000, 5.0, True)),
        "events": {},
        "locks": (make_lock(),),
        "verifications": 3,
        "slabs": (make_activity(),),
        "schema": 1,
        "command": "concmem stress made-up",
        "concmem": "1.2.3",
        "timeline": Timeline(
            (ZoneName(0, "DMA32", 16_384),), tuple(make_sample(s / 2) for s in range(20))
        ),
        "caches": (make_cache(),),
        "busiest": Moment(4.0, "local", (make_zone(),), MEMINFO, "Node 0, zone    DMA32 4 0 ...\n"),
        "processes": ProcessPeak(5.0, "processes", 1, (ProcessMoment(1000, "a", 64, 32, 24, 16),)),
        "mixed": (MixedBlocks(0, "DMA32", 32, 1, 2.0),),
        "leaks": (),
        "bad_accesses": (),
    }
    return Run(**(defaults | fields))
