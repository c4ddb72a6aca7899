"""Slabs that few objects keep alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import cache_analysis
from concmem.reports.words import count, percent, size

if TYPE_CHECKING:
    from concmem.reports.analysis import CacheAnalysis
    from concmem.reports.run import Run

MIN_SLABS = 32
UTILISATION = 0.5


def sparse_slabs(run: Run) -> Advice | None:
    """A cache had many slabs, and most of their objects were free."""
    caches = [cache for cache in cache_analysis(run) if _is_sparse(cache)]
    if not caches:
        return None
    caches.sort(key=lambda cache: -cache.free_bytes)
    worst = caches[0]
    return Advice(
        "sparse_slabs",
        ADVICE,
        f"cache {worst.name}: only {percent(worst.in_use, worst.objects)} of the objects in its "
        "slabs were in use",
        tuple(
            f"{cache.name}: {count(cache.in_use)} of {count(cache.objects)} objects in "
            f"{count(cache.slabs)} slabs, {size(cache.free_bytes)} free; {count(cache.partial)} slabs "
            f"partial, {count(cache.empty)} empty, {count(cache.cpu_partial)} on CPU lists"
            for cache in caches[:3]
        ),
        "Objects that live long among others that do not keep their slabs: give them a cache of their "
        "own. Slabs on CPU lists and empty ones go with kmem_cache_shrink or a smaller cpu_partial.",
    )


def _is_sparse(cache: CacheAnalysis) -> bool:
    return cache.slabs >= MIN_SLABS and cache.utilisation < UTILISATION
