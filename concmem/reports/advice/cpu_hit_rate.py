"""Allocations that the CPU's own slab could not serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import cache_analysis
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.analysis import CacheAnalysis
    from concmem.reports.run import Run

MIN_ALLOCATIONS = 1000
HIT_SHARE = 0.5


def cpu_hit_rate(run: Run) -> Advice | None:
    """Fewer than half of a busy cache's allocations take the fast path."""
    caches = [cache for cache in cache_analysis(run) if _misses(cache)]
    if not caches:
        return None
    caches.sort(key=lambda cache: cache.alloc_hits - cache.allocated)
    worst = caches[0]
    slabs = {row.name: row for row in run.slabs}
    return Advice(
        "cpu_hit_rate",
        ADVICE,
        f"cache {worst.name}: only {percent(worst.alloc_hits, worst.allocated)} of allocations are "
        "served by the CPU's own slab",
        tuple(
            f"{cache.name}: {percent(cache.alloc_hits, cache.allocated)} of "
            f"{count(cache.allocated)} allocations, {count(slabs[cache.name].slabs_allocated)} new "
            f"slabs, {count(cache.objects // max(1, cache.slabs))} objects to a slab"
            for cache in caches[:3]
        ),
        "Slabs that hold more objects (a higher order), a larger cpu_partial, or bulk allocation let "
        "a CPU go longer without the node's lists.",
    )


def _misses(cache: CacheAnalysis) -> bool:
    return cache.allocated >= MIN_ALLOCATIONS and cache.alloc_hits < HIT_SHARE * cache.allocated
