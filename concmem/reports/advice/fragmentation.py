"""Zones with enough free pages, but not in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import zone_analysis
from concmem.reports.words import percent

if TYPE_CHECKING:
    from concmem.reports.analysis import OrderAnalysis, ZoneAnalysis
    from concmem.reports.run import Run

COSTLY_ORDER = 3
"""``PAGE_ALLOC_COSTLY_ORDER``: callers expect to get this one."""
REFUSED_SHARE = 0.1


def fragmentation(run: Run) -> Advice | None:
    """In more than a tenth of the samples no block of a common order could be had."""
    found = [
        (order, zone)
        for zone in zone_analysis(run)
        for order in zone.orders[1 : COSTLY_ORDER + 1]
        if order.refused > REFUSED_SHARE
    ]
    if not found:
        return None
    found.sort(key=lambda pair: (-pair[0].refused, pair[0].order))
    order, zone = found[0]
    return Advice(
        "fragmentation",
        ADVICE,
        f"{zone}: order {order.order} could not be had in {percent(order.refused, 1)} of the samples, "
        "though enough pages were free",
        tuple(_evidence(*pair) for pair in found[:3]),
        "Allocate what can be moved or reclaimed with its GFP flag, so that page blocks stay of one "
        "kind; ask for lower orders and fall back to vmalloc (kvmalloc); raise min_free_kbytes.",
    )


def _evidence(order: OrderAnalysis, zone: ZoneAnalysis) -> str:
    return (
        f"{zone}: order {order.order} refused in {percent(order.refused, 1)} of the samples, "
        f"{percent(order.mean_unusable, 1)} of free pages of no use to it on average, fragmentation "
        f"index {order.fragmentation:.3f} at the fullest moment"
    )
