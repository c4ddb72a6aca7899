"""
``/proc/vmstat``: counters and events of the whole machine, ``name value`` lines.

Counters are pages. First those with the kernel's names, in the kernel's order, then the events only
the model has. ``pgalloc_dma``, ``pgalloc_dma32`` and ``pgalloc_normal`` are the pages handed out by
the zone's page sets. Pages taken straight from the buddy system are counted without their zone, so
they stay in a line of their own, ``pgalloc_direct``; ``pgfree`` is not kept by zone and therefore
contains ``pgfree_direct``. An event that comes with the kernel's name is taken as it is.

Not modelled, always 0: everything in the lists of :mod:`concmem.reports.zones` but
``nr_free_pages``, ``nr_free_cma`` and the ``nr_slab`` counters; swapping; ``nr_unstable``, which is the last line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.reports.zones import (
    NODE_ITEMS,
    NUMA_ITEMS,
    ZONE_ITEMS,
    all_zones,
    node_counters,
    zone_counters,
)

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics

KERNEL_EVENTS: Final = (
    "pswpin",
    "pswpout",
    "pgalloc_dma",
    "pgalloc_dma32",
    "pgalloc_normal",
    "allocstall_dma",
    "allocstall_dma32",
    "allocstall_normal",
    "pgfree",
    "pgfault",
    "pgmajfault",
    "pgsteal_kswapd",
    "pgsteal_direct",
    "slabs_scanned",
    "kswapd_low_wmark_hit_quickly",
    "kswapd_high_wmark_hit_quickly",
    "pageoutrun",
    "oom_kill",
    "compact_stall",
    "compact_fail",
    "compact_success",
    "cma_alloc_success",
    "cma_alloc_fail",
)
"""Names of ``enum vm_event_item``, in its order. One is printed if it is counted."""


def render(stats: MachineStatistics) -> str:
    """The text of the file. No name occurs twice."""
    values = _counters(stats)
    events = _page_events(stats) | stats.events
    values |= {name: events.pop(name) for name in KERNEL_EVENTS if name in events}
    values |= events
    values.pop("nr_unstable", None)
    values["nr_unstable"] = 0
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _counters(stats: MachineStatistics) -> dict[str, int]:
    """Zone and node counters, summed over the machine."""
    values = dict.fromkeys((*ZONE_ITEMS, *NUMA_ITEMS, *NODE_ITEMS), 0)
    for zone in all_zones(stats):
        for name, value in zone_counters(zone).items():
            values[name] += value
    for node in stats.nodes:
        for name, value in node_counters(node).items():
            values[name] += value
    return values


def _page_events(stats: MachineStatistics) -> dict[str, int]:
    """Events that the page sets count, and swapping, which never happens."""
    events = {"pswpin": 0, "pswpout": 0}
    events |= {"pgalloc_dma": 0, "pgalloc_dma32": 0, "pgalloc_normal": 0}
    events["pgfree"] = stats.events.get("pgfree_direct", 0)
    for zone in all_zones(stats):
        pgalloc = f"pgalloc_{zone.name.lower()}"
        events[pgalloc] = events.get(pgalloc, 0) + sum(ps.nr_alloc for ps in zone.pagesets)
        events["pgfree"] += sum(ps.nr_free for ps in zone.pagesets)
    return events
