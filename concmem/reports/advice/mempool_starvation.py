"""Pools that were empty when somebody asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import mempool_analysis
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.run import Run

WAITED_SHARE = 0.01
"""Of all allocations, those that had to wait; more is starvation."""


def mempool_starvation(run: Run) -> Advice | None:
    """Allocations failed, or more than a few had to wait."""
    pools = mempool_analysis(run)
    if pools is None or not pools.asked:
        return None
    if not pools.failed and pools.waited <= WAITED_SHARE * pools.asked:
        return None
    evidence = [
        f"{count(pools.failed)} of {count(pools.asked)} allocations "
        f"({percent(pools.failed, pools.asked)}) ended with nothing",
        f"{count(pools.waited)} times somebody slept until an element came back",
        f"{percent(pools.reserved, pools.asked)} of the elements came from a reserve",
    ]
    if pools.short:
        evidence.append(
            f"{count(pools.short)} of {count(pools.created)} pools began with less "
            "than their reserve"
        )
    return Advice(
        "mempool_starvation",
        ADVICE,
        "memory pools ran dry",
        tuple(evidence),
        "Make min_nr at least the number of elements that can be in flight at once, or hold them for "
        "a shorter time; callers that may not sleep need the reserve most.",
    )
