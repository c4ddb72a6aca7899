"""
The rows of a run: what was seen while it was on, and what is known of it at its end.

Plain numbers, pages unless named otherwise; "so far" is since the run began. A field with a default may
be missing in a result file.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# -- while it was on


class Sample(NamedTuple):
    """One look at the counters of the machine. None of them is exact while CPUs run."""

    seconds: float
    """Host seconds since the run began."""
    phase: str
    """The workload that ran, ``verify``, or nothing."""
    operations: tuple[int, ...]
    """Of each CPU so far."""
    freed: int
    """Frees of pages and objects so far."""
    cross_cpu: int
    """Of them, those of what another CPU had allocated."""
    blocks: tuple[tuple[int, ...], ...]
    """Free blocks of each zone, by order."""
    cached: int
    """In per-CPU page sets."""
    slab: int
    """Of slabs and large blocks of kmalloc."""
    waits: dict[str, tuple[int, int]]
    """Lock class, contentions so far, and nanoseconds waited so far; those that were waited for."""

    def free_pages(self, zone: int) -> int:
        """On free lists of the zone with that index."""
        return sum(blocks << order for order, blocks in enumerate(self.blocks[zone]))


class ZoneName(NamedTuple):
    """Which zone a column of samples is about."""

    node: int
    name: str
    managed: int

    def __str__(self) -> str:
        return f"node {self.node} {self.name}"


class Timeline(NamedTuple):
    """Samples in the order of time, evenly spaced as far as the host let them."""

    zones: tuple[ZoneName, ...] = ()
    """Those that have pages."""
    samples: tuple[Sample, ...] = ()
    error: str = ""
    """Why there are no more of them."""


class CachePeak(NamedTuple):
    """One cache at the moment at which it had most slabs; sizes in bytes."""

    name: str
    seconds: float
    first_seen: float
    """When somebody first saw it with a slab; seconds after the run began, as all times here."""
    last_seen: float
    object_size: int
    """As asked for."""
    size: int
    """Distance of two objects."""
    order: int
    objs_per_slab: int
    slabs: int
    objects: int
    """In all slabs, used or not."""
    in_use: int
    """Of them. Free ones on the lists of CPUs count, since nobody else can know them."""
    partial: int
    """Slabs on ``slabs_partial`` of nodes."""
    empty: int
    """Slabs on ``slabs_free`` of nodes."""
    cpu_slabs: int
    """Slabs that CPUs allocate from."""
    cpu_partial: int
    """Slabs on CPU partial lists."""
    merge_key: str
    """What caches have in common that could be merged: flags, and size with its alignment."""
    kept_apart: str = ""
    """What forbids to merge it with others; empty: nothing."""
    aliases: tuple[str, ...] = ()
    """Names of the caches that were merged into it."""


class ZoneMoment(NamedTuple):
    """One zone at one moment."""

    node: int
    name: str
    managed: int
    free_counts: tuple[tuple[int, ...], ...]
    """``[order][migratetype]``: free blocks."""
    pageblocks: tuple[int, ...]
    """``[migratetype]``."""
    cached: int
    """In per-CPU page sets."""
    wmark_min: int
    wmark_low: int
    wmark_high: int

    @property
    def blocks(self) -> list[int]:
        """Free blocks, by order."""
        return [sum(by_type) for by_type in self.free_counts]

    @property
    def free(self) -> int:
        return sum(blocks << order for order, blocks in enumerate(self.blocks))


class MixedBlocks(NamedTuple):
    """Page blocks of a zone that hold pages of another type than theirs, when they were most."""

    node: int
    name: str
    pageblocks: int
    """Of one of the types that are kept apart."""
    mixed: int
    seconds: float


class ProcessMoment(NamedTuple):
    """One process at one moment, by its smaps; kB."""

    pid: int
    name: str
    size: int
    rss: int
    pss: int
    private: int


class ProcessPeak(NamedTuple):
    """The processes at the moment at which they had most pages together."""

    seconds: float
    phase: str
    nr_processes: int
    processes: tuple[ProcessMoment, ...]
    """Those with the largest Rss, first."""


class Moment(NamedTuple):
    """The machine at the moment at which it had the least free memory."""

    seconds: float
    phase: str
    zones: tuple[ZoneMoment, ...]
    meminfo: str
    """``/proc/meminfo``."""
    buddyinfo: str
    """``/proc/buddyinfo``."""


# -- at its end


class CpuRow(NamedTuple):
    """One CPU; what `CpuResult` has."""

    cpu: int
    operations: int
    allocated: int = 0
    freed: int = 0
    """Pages."""
    cross_cpu_frees: int = 0
    failed: int = 0
    interrupts: int = 0
    objects_allocated: int = 0
    objects_freed: int = 0
    cross_cpu_object_frees: int = 0


class PhaseRow(NamedTuple):
    """One phase that began."""

    name: str
    operations: int
    seconds: float
    complete: bool


class ErrorRow(NamedTuple):
    """One broken rule."""

    type: str
    message: str
    cause: str = ""
    where: str = ""
    traceback: str = ""


class SlabRow(NamedTuple):
    """What a cache did in the run."""

    name: str
    object_size: int
    alloc_fastpath: int
    alloc_slowpath: int
    free_fastpath: int
    free_slowpath: int
    """Frees to slabs that are not the one that the CPU allocates from."""
    slabs_allocated: int
    slabs_freed: int
    order_fallback: int = 0
    """Of the slabs, those of the smaller order."""

    @property
    def allocated(self) -> int:
        return self.alloc_fastpath + self.alloc_slowpath

    @property
    def freed(self) -> int:
        return self.free_fastpath + self.free_slowpath


class TimesRow(NamedTuple):
    """Some times, nanoseconds."""

    nr: int = 0
    min: int = 0
    max: int = 0
    total: int = 0


class LockRow(NamedTuple):
    """One lock class, since the machine was booted."""

    name: str
    contentions: int
    acquisitions: int
    wait: TimesRow
    hold: TimesRow
    contention_points: tuple[tuple[str, int], ...] = ()
    contending_points: tuple[tuple[str, int], ...] = ()


class MemoryRow(NamedTuple):
    """Pages at the end. All zero when nobody could look."""

    managed: int = 0
    free: int = 0
    cached: int = 0
    allocated: int = 0


class Leak(NamedTuple):
    """One unreferenced object of kmemleak."""

    address: int
    size: int
    cpu: int = -1
    """That allocated it; -1: not known."""
    jiffies: int = 0
    """When."""
    backtrace: tuple[str, ...] = ()
    """Who, innermost first."""


class BadAccess(NamedTuple):
    """One report of slab debugging or page poisoning."""

    cache: str
    kind: str
    """Such as ``Redzone overwritten`` or ``Poison overwritten``."""
    address: int
    text: str
    """The whole report."""


def plain(value: Any) -> Any:
    """*value* with its rows as dictionaries, for JSON."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value
