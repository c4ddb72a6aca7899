"""
NUMA nodes: zones of one memory, its CPUs, and its kswapd (``pg_data_t``).

Locks:
    kswapd_lock     kswapd_order, kswapd_highest_zoneidx, and the queue kswapd sleeps on
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.alloc_flags import WMARK_HIGH
from concmem.mm.statistics import NodeStatistics
from concmem.mm.zone import Zone

MAX_RECLAIM_RETRIES: Final = 16
"""Rounds without progress after which reclaim of a node gives up."""

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime


class PgData:
    """``pg_data_t``: node *node_id* with its zones, lowest first, and the CPUs close to it."""

    __guarded_by__: Final = dict.fromkeys(
        ("kswapd_order", "kswapd_highest_zoneidx", "kswapd_wakeups"), "kswapd_lock"
    )

    def __init__(
        self, rt: Runtime, node_id: int, zones: tuple[Zone, ...], cpus: tuple[int, ...]
    ) -> None:
        self.node_id = node_id
        self.node_zones = zones
        self.cpus = cpus
        for zone in zones:
            zone.zone_pgdat = self
        self.kswapd_lock = rt.spinlock("pgdat->kswapd_lock", irqsave=True)
        self.kswapd_wait = rt.waitqueue(self.kswapd_lock, "pgdat->kswapd_wait")
        # kswapd_lock
        self.kswapd_order = 0
        self.kswapd_highest_zoneidx = -1
        """Highest zone index that somebody needs pages for; -1: nobody does."""
        self.kswapd_wakeups = 0
        self.kswapd_failures = 0
        """Runs of kswapd in a row that freed nothing. Written by kswapd and reset by reclaim."""
        self.nr_slab_reclaimable = rt.atomic(0, "nr_slab_reclaimable")
        self.nr_slab_unreclaimable = rt.atomic(0, "nr_slab_unreclaimable")
        rt.watch(self)

    def populated_zones(self) -> list[Zone]:
        """Zones with memory, highest first: the order in which they are tried."""
        return [zone for zone in reversed(self.node_zones) if zone.managed_pages]

    def balanced(self, order: int, highest_zoneidx: int) -> bool:
        """Whether a zone can serve *order* and stay above its high mark (``pgdat_balanced``)."""
        zones = [zone for zone in self.populated_zones() if zone.index <= highest_zoneidx]
        return not zones or any(
            zone.watermark_ok(order, zone.wmark_pages(WMARK_HIGH), highest_zoneidx, 0)
            for zone in zones
        )

    def wakeup_kswapd(self, order: int, highest_zoneidx: int) -> None:
        """Ask kswapd for free pages in zones up to *highest_zoneidx* (``wakeup_kswapd``)."""
        # No lock: one wake-up too many or too few; the next allocation asks again.
        if self.kswapd_failures >= MAX_RECLAIM_RETRIES:
            return
        boosted = any(zone.watermark_boost for zone in self.node_zones[: highest_zoneidx + 1])
        if not boosted and self.balanced(order, highest_zoneidx):
            return
        with self.kswapd_lock:
            self.kswapd_order = max(self.kswapd_order, order)
            self.kswapd_highest_zoneidx = max(self.kswapd_highest_zoneidx, highest_zoneidx)
            self.kswapd_wakeups += self.kswapd_wait.wake_up()

    def wait_for_work(self) -> tuple[int, int]:
        """kswapd: sleep until somebody asks; the order and zone index wanted."""
        with self.kswapd_lock:
            self.kswapd_wait.wait_for(lambda: self.kswapd_highest_zoneidx >= 0)
            work = self.kswapd_order, self.kswapd_highest_zoneidx
            self.kswapd_order, self.kswapd_highest_zoneidx = 0, -1
            return work

    def account_slab(self, reclaimable: bool, nr_pages: int) -> None:
        """Count pages that have become slabs (``account_slab``); negative: are none any more."""
        counter = self.nr_slab_reclaimable if reclaimable else self.nr_slab_unreclaimable
        counter.add(nr_pages)

    def statistics(self) -> NodeStatistics:
        """A copy of everything the node knows."""
        return NodeStatistics(
            node=self.node_id,
            cpus=self.cpus,
            zones=tuple(zone.statistics() for zone in self.node_zones),
            kswapd_wakeups=self.kswapd_wakeups,
            nr_slab_reclaimable=self.nr_slab_reclaimable.value,
            nr_slab_unreclaimable=self.nr_slab_unreclaimable.value,
        )
