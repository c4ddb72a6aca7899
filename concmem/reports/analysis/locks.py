"""The locks by the time that CPUs waited for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import LockRow


class LockAnalysis(NamedTuple):
    """One lock class that was waited for; nanoseconds of host time."""

    name: str
    acquisitions: int
    contentions: int
    waited: int
    longest: int
    held: int
    share: float
    """Of all CPUs' time in the run, what they spent waiting for it, 0 to 1."""
    waits_in: str
    """The function that waited most often."""
    holds_in: str
    """The function that held it most often meanwhile; empty: not known."""


def lock_analysis(run: Run) -> tuple[LockAnalysis, ...]:
    """The classes that were waited for, longest wait in total first."""
    cpu_ns = run.seconds * 1e9 * len(run.cpus)
    found = [_lock(row, cpu_ns) for row in run.locks if row.contentions]
    return tuple(sorted(found, key=lambda lock: (-lock.waited, lock.name)))


def _lock(row: LockRow, cpu_ns: float) -> LockAnalysis:
    return LockAnalysis(
        row.name,
        row.acquisitions,
        row.contentions,
        row.wait.total,
        row.wait.max,
        row.hold.total,
        row.wait.total / cpu_ns if cpu_ns else 0.0,
        _first_name(row.contention_points),
        _first_name(row.contending_points),
    )


def _first_name(points: tuple[tuple[str, int], ...]) -> str:
    return next((name for name, _ in points if name), "")
