"""
The caches: how well their slabs were used, and what was lost to what.

Each cache is shown when it had most slabs. Free objects on the lists of CPUs count as used there, since
nobody else can know them; so what is said to be wasted is the least that was.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import CachePeak, SlabRow


class CacheAnalysis(NamedTuple):
    """One cache; sizes in bytes."""

    name: str
    seconds: float
    object_size: int
    slabs: int
    total: int
    """Bytes of all slabs."""
    objects: int
    in_use: int
    free_bytes: int
    """Of free objects."""
    padding_bytes: int
    """Between the end of each used object and the next: alignment and metadata."""
    tail_bytes: int
    """Behind the last object of each slab."""
    partial: int
    empty: int
    cpu_slabs: int
    cpu_partial: int
    allocated: int = 0
    """Allocations in the run."""
    alloc_hits: int = 0
    """Of them, from the CPU's own slab by the fast path."""
    freed: int = 0
    free_hits: int = 0

    @property
    def wasted(self) -> int:
        """All that no object used."""
        return self.free_bytes + self.padding_bytes + self.tail_bytes

    @property
    def utilisation(self) -> float:
        """Share of the objects that were in use, 0 to 1."""
        return self.in_use / self.objects if self.objects else 0.0

    @property
    def remote(self) -> int:
        """Frees to slabs that were not the freeing CPU's."""
        return self.freed - self.free_hits


class MergeCandidates(NamedTuple):
    """Caches that could share their slabs but for what keeps them apart."""

    names: tuple[str, ...]
    kept_apart: tuple[str, ...]
    """What does, of each; empty: nothing but that merging was switched off."""
    slabs: int
    """That they had, each at its largest."""
    needed: int
    """That all their objects would have filled together."""
    slab_bytes: int

    @property
    def saved(self) -> int:
        """Bytes."""
        return (self.slabs - self.needed) * self.slab_bytes


def cache_analysis(run: Run) -> tuple[CacheAnalysis, ...]:
    """Every cache that was seen with a slab, the largest first."""
    activity = {row.name: row for row in run.slabs}
    return tuple(_cache(peak, activity.get(peak.name)) for peak in run.caches)


def _cache(peak: CachePeak, activity: SlabRow | None) -> CacheAnalysis:
    slab_bytes = PAGE_SIZE << peak.order
    # Slabs of the fallback order are smaller: what they hold says how many pages there are at least.
    full = peak.slabs * peak.objs_per_slab
    total = slab_bytes * peak.slabs if peak.objects >= full else peak.objects * peak.size
    cache = CacheAnalysis(
        name=peak.name,
        seconds=peak.seconds,
        object_size=peak.object_size,
        slabs=peak.slabs,
        total=total,
        objects=peak.objects,
        in_use=peak.in_use,
        free_bytes=(peak.objects - peak.in_use) * peak.size,
        padding_bytes=peak.in_use * (peak.size - peak.object_size),
        tail_bytes=max(0, total - peak.objects * peak.size),
        partial=peak.partial,
        empty=peak.empty,
        cpu_slabs=peak.cpu_slabs,
        cpu_partial=peak.cpu_partial,
    )
    if activity is None:
        return cache
    return cache._replace(
        allocated=activity.allocated,
        alloc_hits=activity.alloc_fastpath,
        freed=activity.freed,
        free_hits=activity.free_fastpath,
    )


def merge_candidates(run: Run) -> tuple[MergeCandidates, ...]:
    """
    Groups of caches of like objects that had slabs of their own at the same time, the most to save first.

    The caches of ``kmalloc``, and those of boot, are never merged and not asked for.
    """
    groups: defaultdict[str, list[CachePeak]] = defaultdict(list)
    for peak in run.caches:
        if not _is_fixed(peak):
            groups[peak.merge_key].append(peak)
    alike = [[peak for peak in peaks if _has_company(peak, peaks)] for peaks in groups.values()]
    found = [_group(peaks) for peaks in alike if peaks]
    return tuple(sorted((group for group in found if group.saved > 0), key=lambda g: -g.saved))


def _is_fixed(peak: CachePeak) -> bool:
    return peak.kept_apart == "made at boot" or "user space" in peak.kept_apart


def _has_company(peak: CachePeak, peaks: list[CachePeak]) -> bool:
    """Whether another of *peaks* was there at the same time."""
    return any(
        other is not peak
        and other.first_seen <= peak.last_seen
        and peak.first_seen <= other.last_seen
        for other in peaks
    )


def _group(peaks: list[CachePeak]) -> MergeCandidates:
    objects = sum(peak.in_use for peak in peaks)
    return MergeCandidates(
        tuple(peak.name for peak in peaks),
        tuple(peak.kept_apart for peak in peaks),
        sum(peak.slabs for peak in peaks),
        -(-objects // peaks[0].objs_per_slab),
        PAGE_SIZE << peaks[0].order,
    )
