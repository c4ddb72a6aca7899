"""
The totals that prove arrows: one flat dictionary, made of a machine's statistics.

=================  =========================================================================
name               what it is
=================  =========================================================================
a plain name       an event of the machine (``MachineStatistics.events``)
``slab.<name>``    a SLUB statistic, summed over CPUs and caches, those destroyed since too
``buddy.<name>``   what became of blocks freed to the buddy systems of all zones
``pcp.<name>``     what the page sets of the CPUs (not of kernel threads) did
``proc.<file>``    times that a ``/proc`` file was read
``slub_debug.*``   the same of a machine with debug caches
=================  =========================================================================

Not of a machine are ``report_<part>``: a report of a run adds them when it is made (`Report.event_totals`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics


def event_totals(stats: MachineStatistics) -> dict[str, int]:
    """All totals since the machine was booted."""
    totals: Counter[str] = Counter(stats.events)
    for cache in stats.slabs:
        for name, counts in cache.events.items():
            totals[f"slab.{name}"] += sum(counts)
    for name, count in stats.destroyed_slab_events.items():
        totals[f"slab.{name}"] += count
    for node in stats.nodes:
        for zone in node.zones:
            totals["buddy.free"] += zone.nr_buddy_frees
            totals["buddy.merge"] += zone.nr_merges
            totals["buddy.merged_whole"] += zone.nr_merged_whole
            for pageset in zone.pagesets:
                totals["pcp.refill"] += pageset.nr_refill
                totals["pcp.flush"] += pageset.nr_flush
                totals["pcp.drain"] += pageset.nr_drain
    for file, count in stats.proc_reads.items():
        totals[f"proc.{file}"] += count
    # Of a machine with debug caches: whoever reads the file sees what debugging adds to each object.
    totals["slub_debug.slabinfo"] = totals["proc.slabinfo"] if totals["slub_debug_on"] else 0
    return dict(totals)


def since(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What was added to *before*. Never less than nothing: caches may have gone without a trace."""
    return {name: max(0, count - before.get(name, 0)) for name, count in now.items()}
