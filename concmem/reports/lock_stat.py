"""
``/proc/lock_stat``, version 0.4: one block for each lock class, most contended first.

Times are microseconds of the host's clock, two decimals, rounded from nanoseconds; the file has
lines only when the machine keeps lock statistics. A reader-writer lock has two rows, ``-W`` and
``-R``; one that was only ever written has one row with its plain name, as in the kernel.

The points are functions of the model, not instructions: the address column, made up to keep the
layout, is always 0, and no ``+offset/length`` follows the name. A waiter whose opponent is not
known (readers keep no name) counts as a contention but has no contending point.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from concmem.mm.statistics import MachineStatistics
    from concmem.runtime.lockstat import LockClassStatistics, LockTimes

NR_POINTS: Final = 4
"""Points shown of each kind (``LOCKSTAT_POINTS``)."""

NAME_LENGTH: Final = 37
"""Longer class names are cut off."""

_WIDTH: Final = 221
_COLUMNS: Final = (
    *("con-bounces", "contentions"),
    *("waittime-min", "waittime-max", "waittime-total", "waittime-avg"),
    *("acq-bounces", "acquisitions"),
    *("holdtime-min", "holdtime-max", "holdtime-total", "holdtime-avg"),
)
_ADDRESS: Final = "[<0000000000000000>]"


def render(stats: MachineStatistics) -> str:
    """The text of the file."""
    header = "".join(f" {column:>14}" for column in _COLUMNS)
    lines = [
        "lock_stat version 0.4",
        "-" * _WIDTH,
        f"{'class name':>40}{header}",
        "-" * _WIDTH,
        "",
    ]
    for name, sides in _classes(stats.locks):
        lines.extend(_class(name, sides))
    return "".join(f"{line}\n" for line in lines)


def _classes(
    locks: Iterable[LockClassStatistics],
) -> list[tuple[str, dict[str, LockClassStatistics]]]:
    """Class name, and its rows by side: ``""``, or ``"-W"`` before ``"-R"``."""
    classes: dict[str, dict[str, LockClassStatistics]] = {}
    for lock in locks:
        side = lock.name[-2:] if lock.name.endswith(("-W", "-R")) else ""
        name = lock.name.removesuffix(side)
        classes.setdefault(name, {})[side] = lock
    ordered = [(name, dict(sorted(sides.items(), reverse=True))) for name, sides in classes.items()]
    ordered.sort(key=lambda item: -sum(lock.contentions for lock in item[1].values()))
    return ordered


def _class(name: str, sides: dict[str, LockClassStatistics]) -> Iterator[str]:
    name = name[:NAME_LENGTH]
    for side, lock in sides.items():
        label = name if side == "-W" and "-R" not in sides else name + side
        yield f"{label:>40}:{_row(lock)}"
    waited_at = _most(lock.contention_points for lock in sides.values())
    held_by = _most(lock.contending_points for lock in sides.values())
    length = len(name) + (2 if "-R" in sides else 0)
    for points in filter(None, (waited_at, held_by)):
        yield f"{'-' * length:>40}"
        for function, times in points:
            yield f"{name:>40} {times:14d} {_ADDRESS:>29} {function}"
    if waited_at or held_by:
        yield from ("", "." * _WIDTH, "")


def _row(lock: LockClassStatistics) -> str:
    return (
        f"{lock.con_bounces:14d} {lock.contentions:14d}{_times(lock.wait)}"
        f" {lock.acq_bounces:14d} {lock.acquisitions:14d}{_times(lock.hold)}"
    )


def _times(times: LockTimes) -> str:
    average = times.total // times.nr if times.nr else 0
    return "".join(f" {_us(ns):>14}" for ns in (times.min, times.max, times.total, average))


def _us(ns: int) -> str:
    """Microseconds, rounded half up to two decimals."""
    hundredths = (ns + 5) // 10
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _most(sides: Iterable[tuple[tuple[str, int], ...]]) -> list[tuple[str, int]]:
    """The most frequent points of all sides that have a name."""
    total: Counter[str] = Counter()
    for points in sides:
        for function, times in points:
            if function:
                total[function] += times
    return total.most_common(NR_POINTS)
