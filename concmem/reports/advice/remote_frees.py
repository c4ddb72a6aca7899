"""Objects freed on other CPUs than those whose slabs they are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import cache_analysis, lock_analysis
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.analysis import CacheAnalysis
    from concmem.reports.run import Run

MIN_FREES = 1000
REMOTE_SHARE = 0.5


def remote_frees(run: Run) -> Advice | None:
    """More than half of the frees of a busy cache miss the freeing CPU's own slab."""
    caches = [cache for cache in cache_analysis(run) if _is_remote(cache)]
    if not caches:
        return None
    caches.sort(key=lambda cache: -cache.remote)
    worst = caches[0]
    evidence = [
        f"{cache.name}: {percent(cache.remote, cache.freed)} of {count(cache.freed)} frees are remote, "
        f"per-CPU hit rate of allocations {percent(cache.alloc_hits, cache.allocated)}"
        for cache in caches[:3]
    ]
    lists = next((lock for lock in lock_analysis(run) if "list_lock" in lock.name), None)
    if lists is not None:
        evidence.append(f"{lists.name} was waited for {count(lists.contentions)} times")
    return Advice(
        "remote_frees",
        ADVICE,
        f"cache {worst.name}: {percent(worst.remote, worst.freed)} of frees are remote",
        tuple(evidence),
        "Free objects on the CPU that allocated them, or hand them back there in batches "
        "(kmem_cache_free_bulk); a larger cpu_partial keeps more freed slabs with the CPUs.",
    )


def _is_remote(cache: CacheAnalysis) -> bool:
    return cache.freed >= MIN_FREES and cache.remote > REMOTE_SHARE * cache.freed
