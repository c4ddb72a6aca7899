"""Rows of a run, made of the machine's statistics."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from concmem.mm.slab_flags import FLAG_NAMES, SLAB_NEVER_MERGE
from concmem.reports.run.rows import CachePeak, ProcessMoment, ZoneMoment
from concmem.reports.slab_sysfs import unique_id

if TYPE_CHECKING:
    from concmem.mm.statistics import SlabStatistics, ZoneStatistics

_SMAPS_FIELD: Final = re.compile(r"^(\w+): +([0-9]+) kB$", re.MULTILINE)


def cache_peak(cache: SlabStatistics, seconds: float) -> CachePeak:
    """*cache* as it is now."""
    objects = cache.total_objects
    free = sum(node.free_objects for node in cache.nodes)
    free += sum(cpu.slab_objects - cpu.slab_inuse for cpu in cache.cpus)
    return CachePeak(
        name=cache.name,
        seconds=seconds,
        first_seen=seconds,
        last_seen=seconds,
        object_size=cache.object_size,
        size=cache.size,
        order=cache.order,
        objs_per_slab=cache.objs_per_slab,
        slabs=cache.nr_slabs,
        objects=objects,
        # Counters of a running cache are not of one moment, and the difference could say nonsense.
        in_use=min(max(0, objects - free), objects),
        partial=sum(node.nr_partial for node in cache.nodes),
        empty=sum(node.nr_free for node in cache.nodes),
        cpu_slabs=sum(cpu.slab_node >= 0 for cpu in cache.cpus),
        cpu_partial=sum(cpu.partial_slabs for cpu in cache.cpus),
        merge_key=f"{unique_id(cache)} aligned to {cache.align}",
        kept_apart=_kept_apart(cache),
        aliases=cache.aliases,
    )


def _kept_apart(cache: SlabStatistics) -> str:
    """Why *cache* cannot be merged (``slab_unmergeable``); empty if it can."""
    if cache.refcount < 0:
        return "made at boot"
    reasons = [name for flag, name in FLAG_NAMES.items() if cache.flags & flag & SLAB_NEVER_MERGE]
    if cache.ctor:
        reasons.append("a constructor")
    if cache.usersize:
        reasons.append("bytes that may be copied to user space")
    return ", ".join(reasons)


def zone_moment(zone: ZoneStatistics) -> ZoneMoment:
    """*zone* as it is now."""
    return ZoneMoment(
        node=zone.node,
        name=zone.name,
        managed=zone.managed,
        free_counts=zone.free_counts,
        pageblocks=zone.pageblocks,
        cached=sum(pageset.count for pageset in zone.pagesets),
        wmark_min=zone.watermark_min + zone.watermark_boost,
        wmark_low=zone.watermark_low + zone.watermark_boost,
        wmark_high=zone.watermark_high + zone.watermark_boost,
    )


def process_moment(pid: int, name: str, smaps: str) -> ProcessMoment:
    """A process by the text of its ``/proc/<pid>/smaps``."""
    sums: dict[str, int] = {}
    for field, value in _SMAPS_FIELD.findall(smaps):
        sums[field] = sums.get(field, 0) + int(value)
    return ProcessMoment(
        pid=pid,
        name=name,
        size=sums.get("Size", 0),
        rss=sums.get("Rss", 0),
        pss=sums.get("Pss", 0),
        private=sums.get("Private_Clean", 0) + sums.get("Private_Dirty", 0),
    )
