"""
The table of ``slabtop(1)``: the caches of a ``/proc/slabinfo``, with totals, sorted.

Byte for byte what slabtop of procps-ng 4 prints with ``--once``, but for a machine without objects,
of which that says ``-nan%``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from concmem.reports.slabinfo import SlabinfoRow


class Sort(NamedTuple):
    """An order of the table."""

    by: str
    """In words."""
    key: Callable[[SlabinfoRow], Any]
    descending: bool = True


def use(row: SlabinfoRow) -> int:
    """Active objects, in whole per cent of all."""
    return 100 * row.active_objs // row.num_objs if row.num_objs else 0


def cache_size(row: SlabinfoRow) -> int:
    """Bytes of all slabs."""
    return row.num_slabs * row.pagesperslab * PAGE_SIZE


SORTS: Final = {
    "a": Sort("active objects", lambda row: row.active_objs),
    "b": Sort("objects per slab", lambda row: row.objperslab),
    "c": Sort("cache size", cache_size),
    "l": Sort("slabs", lambda row: row.num_slabs),
    "n": Sort("name", lambda row: row.name, descending=False),
    "o": Sort("objects", lambda row: row.num_objs),
    "p": Sort("pages per slab", lambda row: row.pagesperslab),
    "s": Sort("object size", lambda row: row.objsize),
    "u": Sort("use", use),
    "v": Sort("active slabs", lambda row: row.active_slabs),
}
"""The keys of slabtop."""

DEFAULT_SORT: Final = "o"

HEADER_LINES: Final = 7
"""Lines above the first cache."""


class Totals(NamedTuple):
    """All caches together; sizes in bytes of objects, not of slabs."""

    objects: int
    active_objects: int
    slabs: int
    active_slabs: int
    caches: int
    active_caches: int
    """Caches that have objects."""
    size: int
    active_size: int
    min_object: int
    max_object: int


def totals(rows: Sequence[SlabinfoRow]) -> Totals:
    """Sums over *rows*."""
    return Totals(
        objects=sum(row.num_objs for row in rows),
        active_objects=sum(row.active_objs for row in rows),
        slabs=sum(row.num_slabs for row in rows),
        active_slabs=sum(row.active_slabs for row in rows),
        caches=len(rows),
        active_caches=sum(row.num_objs > 0 for row in rows),
        size=sum(row.num_objs * row.objsize for row in rows),
        active_size=sum(row.active_objs * row.objsize for row in rows),
        min_object=min((row.objsize for row in rows), default=0),
        max_object=max((row.objsize for row in rows), default=0),
    )


def sort_rows(rows: Sequence[SlabinfoRow], sort: str = DEFAULT_SORT) -> list[SlabinfoRow]:
    """*rows* by one of `SORTS`, largest first, names from A to Z; equal ones stay as they were."""
    order = SORTS[sort]
    return sorted(rows, key=order.key, reverse=order.descending)


def render(rows: Sequence[SlabinfoRow], sort: str = DEFAULT_SORT, limit: int | None = None) -> str:
    """The header, which is of all *rows*, and the first *limit* caches in the order of *sort*."""
    lines = [*_header(totals(rows)), *map(_line, sort_rows(rows, sort)[:limit])]
    return "".join(f"{line}\n" for line in lines)


def _header(all_: Totals) -> list[str]:
    def share(part: float, whole: float, number: str = "d") -> str:
        percent = 100 * part / whole if whole else 0.0
        unit = "K" if number != "d" else ""
        return f"{part:{number}}{unit} / {whole:{number}}{unit} ({percent:.1f}%)"

    average = all_.size / all_.objects if all_.objects else 0.0
    sizes = (all_.min_object, average, all_.max_object)
    lines = {
        "Active / Total Objects (% used)": share(all_.active_objects, all_.objects),
        "Active / Total Slabs (% used)": share(all_.active_slabs, all_.slabs),
        "Active / Total Caches (% used)": share(all_.active_caches, all_.caches),
        "Active / Total Size (% used)": share(all_.active_size / 1024, all_.size / 1024, ".2f"),
        "Minimum / Average / Maximum Object": " / ".join(f"{size / 1024:.2f}K" for size in sizes),
    }
    return [
        *(f" {name:<34} : {value}" for name, value in lines.items()),
        "",
        f"{'OBJS':>6} {'ACTIVE':>6} {'USE':>4} {'OBJ SIZE':>8} {'SLABS':>6} {'OBJ/SLAB':>8} "
        f"{'CACHE SIZE':>10} {'NAME':<23}",
    ]


def _line(row: SlabinfoRow) -> str:
    return (
        f"{row.num_objs:6d} {row.active_objs:6d} {use(row):3d}% {row.objsize / 1024:7.2f}K "
        f"{row.num_slabs:6d} {row.objperslab:8d} {cache_size(row) >> 10:9d}K {row.name:<23}"
    )
