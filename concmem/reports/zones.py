"""Walks over the zones of a machine, and counters by their kernel names, in kernel order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from concmem.mm.statistics import MachineStatistics, NodeStatistics, ZoneStatistics

ZONE_ITEMS: Final = (
    "nr_free_pages",
    "nr_zone_inactive_anon",
    "nr_zone_active_anon",
    "nr_zone_inactive_file",
    "nr_zone_active_file",
    "nr_zone_unevictable",
    "nr_zone_write_pending",
    "nr_mlock",
    "nr_bounce",
    "nr_zspages",
    "nr_free_cma",
)
"""``enum zone_stat_item`` of Linux 6.12, pages. Only the first and the last are modelled."""

NUMA_ITEMS: Final = (
    "numa_hit",
    "numa_miss",
    "numa_foreign",
    "numa_interleave",
    "numa_local",
    "numa_other",
)
"""``enum numa_stat_item``, pages. Not modelled."""

NODE_ITEMS: Final = (
    "nr_inactive_anon",
    "nr_active_anon",
    "nr_inactive_file",
    "nr_active_file",
    "nr_unevictable",
    "nr_slab_reclaimable",
    "nr_slab_unreclaimable",
    "nr_isolated_anon",
    "nr_isolated_file",
    "nr_anon_pages",
    "nr_mapped",
    "nr_file_pages",
    "nr_dirty",
    "nr_writeback",
    "nr_shmem",
    "nr_kernel_misc_reclaimable",
    "nr_kernel_stack",
    "nr_page_table_pages",
)
"""Those of ``enum node_stat_item`` that monitoring programs read. Modelled: slabs, and memory of processes."""


def all_zones(stats: MachineStatistics) -> Iterator[ZoneStatistics]:
    """Every zone of every node, unpopulated ones included."""
    for node in stats.nodes:
        yield from node.zones


def populated_zones(stats: MachineStatistics) -> Iterator[ZoneStatistics]:
    """Every zone that has pages (``populated_zone``)."""
    return (zone for zone in all_zones(stats) if zone.present)


def zone_counters(zone: ZoneStatistics) -> dict[str, int]:
    """
    The counters of *zone* in the kernel's order; what is not modelled is 0.

    A counter that is below 0, because CPUs have not folded in their shares, is shown as 0.
    """
    counters = dict.fromkeys((*ZONE_ITEMS, *NUMA_ITEMS), 0)
    counters["nr_free_pages"] = max(0, zone.nr_free_pages)
    counters["nr_free_cma"] = max(0, zone.nr_free_cma)
    return counters


def node_counters(node: NodeStatistics) -> dict[str, int]:
    """The counters of *node* in the kernel's order, pages; what is not modelled is 0."""
    counters = dict.fromkeys(NODE_ITEMS, 0)
    counters["nr_slab_reclaimable"] = node.nr_slab_reclaimable
    counters["nr_slab_unreclaimable"] = node.nr_slab_unreclaimable
    if node.user is not None:
        counters |= {
            # No page has been looked at by a scan, so all are inactive.
            "nr_inactive_anon": node.user.nr_anon_pages + node.user.nr_shmem,
            "nr_anon_pages": node.user.nr_anon_pages,
            "nr_mapped": node.user.nr_mapped,
            "nr_file_pages": node.user.nr_shmem,
            "nr_shmem": node.user.nr_shmem,
            "nr_page_table_pages": node.user.nr_page_table_pages,
        }
    return counters
