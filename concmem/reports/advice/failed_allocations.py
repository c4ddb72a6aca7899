"""Allocations that gave nothing, and those that had to reclaim first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import memory_overview
from concmem.reports.words import count, percent, size

if TYPE_CHECKING:
    from concmem.reports.run import Run

FAILED_SHARE = 0.01


def failed_allocations(run: Run) -> Advice | None:
    """More than a hundredth of the operations were allocations that failed."""
    failed = sum(cpu.failed for cpu in run.cpus)
    if not run.operations or failed <= FAILED_SHARE * run.operations:
        return None
    evidence = [
        f"{count(failed)} allocations failed, {percent(failed, run.operations)} of all operations",
        f"{count(run.events.get('page_alloc_failed', 0))} times the page allocator had no pages",
    ]
    stalls = sum(nr for name, nr in run.events.items() if name.startswith("allocstall"))
    evidence.append(f"{count(stalls)} allocations reclaimed pages themselves")
    memory = memory_overview(run)
    if memory is not None:
        evidence.append(
            f"at {memory.seconds:.1f} s ({memory.phase}) only {size(memory.free << 10)} of "
            f"{size(memory.total << 10)} were free"
        )
    return Advice(
        "failed_allocations",
        ADVICE,
        f"{percent(failed, run.operations)} of the operations failed for lack of memory",
        tuple(evidence),
        "Give the machine more memory, hold less at once, or register a shrinker that can give some "
        "back.",
    )
