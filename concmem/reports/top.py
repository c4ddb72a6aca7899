"""
The tables of ``concmem top``: CPUs, caches, zones and locks, with rates between two looks at a machine.

Pure functions of two snapshots. A rate is per second of the time between them; what came into being since then
counts from nothing, and what was reset is not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.errors import BadArgument
from concmem.reports.words import count, percent, size
from concmem.reports.zones import all_zones, populated_zones
from concmem.units import NR_PAGE_ORDERS, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.statistics import (
        CpuStatistics,
        MachineStatistics,
        SlabStatistics,
        ZoneStatistics,
    )
    from concmem.runtime.lockstat import LockClassStatistics


class Look(NamedTuple):
    """A machine at one moment."""

    stats: MachineStatistics
    seconds: float
    """Of some clock."""


Keys = Mapping[str, float | str]


class Row(NamedTuple):
    """One line, with what it is sorted by."""

    cells: tuple[str, ...]
    keys: Keys
    """By sort key. Texts sort from A to Z, numbers from the largest down."""


class View(NamedTuple):
    """One table."""

    name: str
    columns: tuple[str, ...]
    sorts: Mapping[str, str]
    """Sort key, and what it sorts by in words; the first one is the default."""
    rows: Callable[[Look, Look], list[Row]]
    """Of a look and one before it."""


def _rate(now: float, before: float, seconds: float) -> float:
    return max(0.0, now - before) / seconds if seconds > 0 else 0.0


# -- CPUs


class _CpuUse(NamedTuple):
    """What one CPU has done so far."""

    pages: int = 0
    objects: int = 0
    freed: int = 0
    remote: int = 0
    interrupts: int = 0


def _cpu_use(stats: MachineStatistics, cpu: CpuStatistics) -> _CpuUse:
    sets = [zone.pagesets[cpu.cpu] for zone in all_zones(stats) if cpu.cpu < len(zone.pagesets)]

    def total(event: str) -> int:
        return sum(cache.events[event][cpu.cpu] for cache in stats.slabs if event in cache.events)

    return _CpuUse(
        sum(pageset.nr_alloc + pageset.nr_free for pageset in sets),
        total("alloc_fastpath") + total("alloc_slowpath"),
        total("free_fastpath") + total("free_slowpath"),
        total("free_slowpath"),
        cpu.interrupts,
    )


def _cpu_rows(now: Look, before: Look) -> list[Row]:
    seconds = now.seconds - before.seconds
    known = {cpu.cpu: _cpu_use(before.stats, cpu) for cpu in before.stats.cpus}
    found = []
    for cpu in now.stats.cpus:
        use = _cpu_use(now.stats, cpu)
        old = known.get(cpu.cpu, _CpuUse())
        rates = [_rate(*pair, seconds) for pair in zip(use, old, strict=True)]
        pages, objects, freed, remote, interrupts = rates
        cells = (
            *(f"cpu{cpu.cpu}", str(cpu.node), count(pages), count(objects), count(freed)),
            *(percent(remote, freed), count(interrupts)),
        )
        keys: Keys = {"c": f"{cpu.cpu:05d}", "p": pages, "o": objects, "f": freed, "i": interrupts}
        found.append(Row(cells, keys))
    return found


# -- caches


def _events(cache: SlabStatistics | None, *names: str) -> int:
    return 0 if cache is None else sum(sum(cache.events.get(name, ())) for name in names)


def _cache_rows(now: Look, before: Look) -> list[Row]:
    seconds = now.seconds - before.seconds
    known = {cache.name: cache for cache in before.stats.slabs}
    return [_cache_row(cache, known.get(cache.name), seconds) for cache in now.stats.slabs]


def _cache_row(cache: SlabStatistics, old: SlabStatistics | None, seconds: float) -> Row:
    def rate(*names: str) -> float:
        return _rate(_events(cache, *names), _events(old, *names), seconds)

    allocated, hits = rate("alloc_fastpath", "alloc_slowpath"), rate("alloc_fastpath")
    freed, remote = rate("free_fastpath", "free_slowpath"), rate("free_slowpath")
    objects = cache.total_objects
    in_use = min(max(0, objects - sum(node.free_objects for node in cache.nodes)), objects)
    wasted = max(0, cache.nr_slabs * (PAGE_SIZE << cache.order) - in_use * cache.object_size)
    cells = (
        *(cache.name, count(cache.object_size), count(cache.nr_slabs), percent(in_use, objects)),
        *(size(wasted), count(allocated), percent(hits, allocated)),
        *(count(freed), percent(remote, freed)),
    )
    keys: Keys = {"a": allocated, "f": freed, "s": cache.nr_slabs, "w": wasted, "n": cache.name}
    return Row(cells, keys)


# -- zones


def _zone_rows(now: Look, before: Look) -> list[Row]:
    seconds = now.seconds - before.seconds
    known = {(zone.node, zone.name): zone for zone in populated_zones(before.stats)}
    return [
        _zone_row(number, zone, known.get((zone.node, zone.name)), seconds)
        for number, zone in enumerate(populated_zones(now.stats))
    ]


def _zone_row(number: int, zone: ZoneStatistics, old: ZoneStatistics | None, seconds: float) -> Row:
    def allocated(zone: ZoneStatistics | None) -> int:
        return 0 if zone is None else sum(pageset.nr_alloc for pageset in zone.pagesets)

    free = sum(blocks << order for order, blocks in enumerate(zone.nr_free))
    rate = _rate(allocated(zone), allocated(old), seconds)
    cells = (
        *(f"{zone.node} {zone.name}", count(zone.managed), count(free)),
        *(percent(free, zone.managed), _mark(zone, free)),
        *(count(sum(pageset.count for pageset in zone.pagesets)), count(rate)),
        *map(str, zone.nr_free),
    )
    return Row(cells, {"z": f"{number:05d}", "f": free, "a": rate})


def _mark(zone: ZoneStatistics, free: int) -> str:
    """Which watermark the free pages are below."""
    marks = (zone.watermark_min, "min"), (zone.watermark_low, "low"), (zone.watermark_high, "high")
    return next((f"< {name}" for pages, name in marks if free < pages), "ok")


# -- locks


def _lock_rows(now: Look, before: Look) -> list[Row]:
    seconds = now.seconds - before.seconds
    known = {lock.name: lock for lock in before.stats.locks}
    return [_lock_row(lock, known.get(lock.name), seconds) for lock in now.stats.locks]


def _lock_row(lock: LockClassStatistics, old: LockClassStatistics | None, seconds: float) -> Row:
    acquired = _rate(lock.acquisitions, old.acquisitions if old else 0, seconds)
    contended = _rate(lock.contentions, old.contentions if old else 0, seconds)
    waited = _rate(lock.wait.total, old.wait.total if old else 0, seconds) / 1e6
    held = _rate(lock.hold.total, old.hold.total if old else 0, seconds) / 1e6
    cells = (
        *(lock.name, count(acquired), count(contended), percent(contended, acquired)),
        *(f"{waited:,.1f}", f"{held:,.1f}"),
        lock.contention_points[0][0] if lock.contention_points else "",
    )
    return Row(cells, {"w": waited, "c": contended, "a": acquired, "h": held, "n": lock.name})


# -- all of them

VIEWS: Final[Mapping[str, View]] = {
    view.name: view
    for view in (
        View(
            "cpus",
            ("CPU", "NODE", "PAGES/s", "OBJECTS/s", "FREES/s", "REMOTE", "INTERRUPTS/s"),
            {"c": "CPU", "p": "pages", "o": "objects", "f": "frees", "i": "interrupts"},
            _cpu_rows,
        ),
        View(
            "caches",
            (
                *("CACHE", "SIZE", "SLABS", "IN USE", "WASTED"),
                *("ALLOCS/s", "HITS", "FREES/s", "REMOTE"),
            ),
            {"a": "allocations", "f": "frees", "s": "slabs", "w": "wasted", "n": "name"},
            _cache_rows,
        ),
        View(
            "zones",
            (
                *("ZONE", "MANAGED", "FREE", "SHARE", "MARK", "CACHED", "PAGES/s"),
                *map(str, range(NR_PAGE_ORDERS)),
            ),
            {"z": "zone", "f": "free", "a": "allocations"},
            _zone_rows,
        ),
        View(
            "locks",
            ("LOCK", "ACQUIRED/s", "CONTENDED/s", "SHARE", "WAITED ms/s", "HELD ms/s", "WAITS IN"),
            {"w": "waiting", "c": "contentions", "a": "acquisitions", "h": "holding", "n": "name"},
            _lock_rows,
        ),
    )
}
"""By name, in the order of their keys 1, 2, ..."""

DEFAULT_VIEW: Final = "cpus"

_TEXT_COLUMNS: Final = ("CPU", "CACHE", "ZONE", "LOCK", "WAITS IN")


def check_sort(view: str, sort: str) -> None:
    """Raise `BadArgument` unless *sort* is a key of that view."""
    sorts = VIEWS[view].sorts
    if sort not in sorts:
        known = ", ".join(f"{key} ({word})" for key, word in sorts.items())
        raise BadArgument(f"--sort: {view} are sorted by one of {known}; got {sort!r}")


def sort_rows(rows: Iterable[Row], sort: str, reverse: bool = False) -> list[Row]:
    """*rows* by one of their keys, largest first, texts from A to Z; the other way with *reverse*."""
    found = list(rows)
    descending = bool(found) and not isinstance(found[0].keys[sort], str)
    return sorted(found, key=lambda row: row.keys[sort], reverse=descending != reverse)


def render(
    view: str, now: Look, before: Look, sort: str, reverse: bool = False, limit: int | None = None
) -> str:
    """A line of columns and the first *limit* rows, as text."""
    table = VIEWS[view]
    rows = sort_rows(table.rows(now, before), sort, reverse)[:limit]
    lines = [table.columns, *(row.cells for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(f"{_line(cells, table.columns, widths)}\n" for cells in lines)


def _line(cells: Sequence[str], columns: Sequence[str], widths: Sequence[int]) -> str:
    aligned = (
        f"{cell:<{width}}" if column in _TEXT_COLUMNS else f"{cell:>{width}}"
        for cell, column, width in zip(cells, columns, widths, strict=True)
    )
    return "  ".join(aligned).rstrip()
