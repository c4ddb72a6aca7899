"""A CPU that did much less than the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import NOTE, Advice
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.run import Run

SHARE = 0.5
"""Of the mean."""
MIN_OPERATIONS = 1000


def uneven_cpus(run: Run) -> Advice | None:
    """The slowest CPU did less than half of what CPUs did on average."""
    if len(run.cpus) < 2 or run.operations < MIN_OPERATIONS:
        return None
    mean = sum(cpu.operations for cpu in run.cpus) / len(run.cpus)
    slowest = min(run.cpus, key=lambda cpu: cpu.operations)
    fastest = max(run.cpus, key=lambda cpu: cpu.operations)
    if slowest.operations >= SHARE * mean:
        return None
    return Advice(
        "uneven_cpus",
        NOTE,
        f"cpu{slowest.cpu} did only {percent(slowest.operations, mean)} of what CPUs did on average",
        (
            f"cpu{slowest.cpu}: {count(slowest.operations)} operations, cpu{fastest.cpu}: "
            f"{count(fastest.operations)}, mean {count(mean)}",
        ),
        "A workload of producers and consumers is like that. Otherwise the host gave that thread less "
        "time, or it waited: see the locks, and run with fewer CPUs than the host has.",
    )
