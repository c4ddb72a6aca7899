"""Bytes of slabs that no object can use, whatever the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.words import percent, size
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import CachePeak

MIN_SLABS = 8
LOST_SHARE = 0.2


def object_padding(run: Run) -> Advice | None:
    """More than a fifth of a full slab is padding between objects or a tail behind them."""
    caches = [p for p in run.caches if p.slabs >= MIN_SLABS and _lost(p) > LOST_SHARE]
    if not caches:
        return None
    caches.sort(key=lambda peak: -_lost(peak) * (peak.slabs << peak.order))
    worst = caches[0]
    return Advice(
        "object_padding",
        ADVICE,
        f"cache {worst.name}: {percent(_lost(worst), 1)} of each full slab is of no use",
        tuple(
            f"{peak.name}: {peak.objs_per_slab} objects of {peak.object_size} bytes, "
            f"{peak.size} apart, in {size(PAGE_SIZE << peak.order)}; "
            f"{size(_lost(peak) * peak.slabs * (PAGE_SIZE << peak.order))} lost in {peak.slabs} slabs"
            for peak in caches[:3]
        ),
        "Choose an object size and alignment of which more fit a slab: drop SLAB_HWCACHE_ALIGN where "
        "objects are not shared between CPUs, or shrink the object below the next divisor of a page.",
    )


def _lost(peak: CachePeak) -> float:
    """Share of a full slab's bytes, 0 to 1."""
    return 1 - peak.objs_per_slab * peak.object_size / (PAGE_SIZE << peak.order)
