"""
Zonelists: where an allocation may come from, in order of preference (``struct alloc_context``).

A context depends on the GFP flags and on the CPU that allocates, so each CPU keeps those it has
used, with its own page sets looked up once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.mm import gfp as gfp_flags
from concmem.mm.alloc_flags import (
    ALLOC_KSWAPD,
    ALLOC_NOFRAGMENT,
    WMARK_LOW,
    gfp_to_alloc_flags_cma,
)
from concmem.mm.migratetype import gfp_migratetype
from concmem.mm.zone import ZONE_DMA, ZONE_DMA32, ZONE_NORMAL, Zone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.mm.node import PgData
    from concmem.mm.per_cpu_pageset import PerCpuPageset


class AllocContext(NamedTuple):
    """``struct alloc_context`` with the flags of the fast path."""

    zones: tuple[tuple[Zone, PerCpuPageset], ...]
    """Usable zones with this CPU's page sets, best first. Empty: no zone can serve the flags."""
    migratetype: int
    highest_zoneidx: int
    alloc_flags: int
    """For the first attempt: low watermark, and what the GFP flags add."""
    zero: bool
    """Whether the pages must be cleared."""


def gfp_zone(gfp: int) -> int:
    """The highest zone that *gfp* may use (``gfp_zone``). Movable memory has no zone of its own."""
    if gfp & gfp_flags.GFP_DMA:
        return ZONE_DMA
    if gfp & gfp_flags.GFP_DMA32:
        return ZONE_DMA32
    return ZONE_NORMAL


def node_order(node: int, nr_nodes: int) -> list[int]:
    """Nodes by distance, nearest first; all remote nodes are equally far, so in a ring."""
    return [(node + distance) % nr_nodes for distance in range(nr_nodes)]


def build_context(nodes: Sequence[PgData], gfp: int, cpu: int, node: int) -> AllocContext:
    """The context of an allocation on *cpu* that prefers *node* (``prepare_alloc_pages``)."""
    highest = gfp_zone(gfp)
    order = [node] if gfp & gfp_flags.THISNODE else node_order(node, len(nodes))
    zones = [
        zone
        for number in order
        for zone in nodes[number].populated_zones()
        if zone.index <= highest
    ]
    flags = gfp_to_alloc_flags_cma(gfp, WMARK_LOW)
    if gfp & gfp_flags.KSWAPD_RECLAIM:
        flags |= ALLOC_KSWAPD
    if zones and _keep_types_apart(zones[0]):
        flags |= ALLOC_NOFRAGMENT
    return AllocContext(
        zones=tuple((zone, zone.pageset.of(cpu)) for zone in zones),
        migratetype=gfp_migratetype(gfp),
        highest_zoneidx=highest,
        alloc_flags=flags,
        zero=bool(gfp & gfp_flags.ZERO),
    )


def _keep_types_apart(preferred: Zone) -> bool:
    """
    Whether to try the zone below before mixing types in this one (``alloc_flags_nofragment``).

    Only for Normal, where DMA32 of the same node can take the overflow.
    """
    below = preferred.zone_pgdat.node_zones[ZONE_DMA32]
    return preferred.index == ZONE_NORMAL and below.managed_pages > 0
