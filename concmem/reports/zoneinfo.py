"""
``/proc/zoneinfo``: watermarks, counters and per-CPU page sets of each zone, in pages.

The text of Linux 6.12, except that each page set also shows ``high_min`` and ``high_max``, with the
columns of the newer kernels that print them: the model tunes ``high`` between the two.

The marks are shown as they are compared against, ``boost`` included. An unpopulated zone ends after
its protection line. Not modelled, always 0: the per-node counters but those of slabs, the zone's LRU,
mlock, bounce and zspages counters, the NUMA counters, and ``node_unreclaimable``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.zones import node_counters, zone_counters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from concmem.mm.statistics import MachineStatistics, NodeStatistics, ZoneStatistics


def render(stats: MachineStatistics) -> str:
    """The text of the file: every zone of every node, unpopulated ones included."""
    return "".join(f"{line}\n" for node in stats.nodes for line in _node(node))


def _node(node: NodeStatistics) -> Iterator[str]:
    first_populated = next((zone for zone in node.zones if zone.present), None)
    for zone in node.zones:
        yield f"Node {zone.node}, zone {zone.name:>8}"
        if zone is first_populated:
            yield "  per-node stats"
            yield from _counters(node_counters(node))
        yield from _sizes(zone)
        if zone.present:
            yield from _counters(zone_counters(zone))
            yield from _pagesets(zone)
            yield "  node_unreclaimable:  0"
            yield f"  start_pfn:           {zone.start_pfn}"


def _counters(counters: Mapping[str, int]) -> Iterator[str]:
    return (f"      {name:<12} {value}" for name, value in counters.items())


def _sizes(zone: ZoneStatistics) -> Iterator[str]:
    yield f"  pages free     {zone_counters(zone)['nr_free_pages']}"
    sizes = {
        "boost": zone.watermark_boost,
        "min": zone.watermark_min + zone.watermark_boost,
        "low": zone.watermark_low + zone.watermark_boost,
        "high": zone.watermark_high + zone.watermark_boost,
        "promo": zone.watermark_promo + zone.watermark_boost,
        "spanned": zone.spanned,
        "present": zone.present,
        "managed": zone.managed,
        "cma": zone.cma,
    }
    for name, pages in sizes.items():
        yield f"        {name:<8} {pages}"
    yield f"        protection: ({', '.join(map(str, zone.lowmem_reserve))})"


def _pagesets(zone: ZoneStatistics) -> Iterator[str]:
    yield "  pagesets"
    for cpu, pageset in enumerate(zone.pagesets):
        yield f"    cpu: {cpu}"
        yield f"              count:    {pageset.count}"
        yield f"              high:     {pageset.high}"
        yield f"              batch:    {pageset.batch}"
        yield f"              high_min: {pageset.high_min}"
        yield f"              high_max: {pageset.high_max}"
        yield f"  vm stats threshold: {pageset.stat_threshold}"
