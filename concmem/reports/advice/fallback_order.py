"""Slabs of the smaller order, since there was no block of the usual one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import SlabRow

MIN_SLABS = 20
FALLBACK_SHARE = 0.1


def fallback_order(run: Run) -> Advice | None:
    """More than a tenth of a cache's new slabs had to be smaller than wanted."""
    caches = [row for row in run.slabs if _falls_back(row)]
    if not caches:
        return None
    caches.sort(key=lambda row: -row.order_fallback)
    worst = caches[0]
    orders = {peak.name: peak.order for peak in run.caches}
    return Advice(
        "fallback_order",
        ADVICE,
        f"cache {worst.name}: {percent(worst.order_fallback, worst.slabs_allocated)} of its new slabs "
        "had to be of the smaller order",
        tuple(
            f"{row.name}: {count(row.order_fallback)} of {count(row.slabs_allocated)} slabs"
            + (f", usual order {orders[row.name]}" if row.name in orders else "")
            for row in caches[:3]
        ),
        "Memory was too short or too fragmented for blocks of that order: see the fragmentation of the "
        "zones, or lower the order of the cache (slab_max_order).",
    )


def _falls_back(row: SlabRow) -> bool:
    return (
        row.slabs_allocated >= MIN_SLABS
        and row.order_fallback > FALLBACK_SHARE * row.slabs_allocated
    )
