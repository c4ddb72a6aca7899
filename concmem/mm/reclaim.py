"""
Reclaim: getting pages back from those who can do without, and kswapd, which does so ahead of need.

What can be reclaimed is what shrinkers offer: the model has no page cache and no swap.

Locks:
    shrinker_rwsem  the list of shrinkers; held for reading while they run, so they may sleep but
                    must not register or unregister one

Follows ``mm/vmscan.c`` and ``mm/shrinker.c`` of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.errors import BadArgument
from concmem.mm.alloc_flags import WMARK_HIGH
from concmem.mm.node import MAX_RECLAIM_RETRIES, PgData
from concmem.mm.zone import ZONE_BELOW_HIGH, ZONE_RECLAIM_ACTIVE

if TYPE_CHECKING:
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

SWAP_CLUSTER_MAX: Final = 32
"""Pages wanted from one round of reclaim."""

SHRINK_BATCH: Final = 128
"""Objects that a shrinker is asked to free at once, at most."""


class Shrinker(NamedTuple):
    """
    Somebody who can give memory back (``struct shrinker``).

    Both functions run on the CPU that needs memory, or on kswapd, and may be called by several at
    once. They may free pages, but what they allocate must not wait for reclaim.
    """

    count_objects: Callable[[], int]
    """How many objects could be freed now."""
    scan_objects: Callable[[int], int]
    """Free up to that many objects; how many *pages* that gave back."""
    name: str = "shrinker"


class Task:
    """What the kernel keeps in ``current->flags``, for what runs on one CPU."""

    __slots__ = ("memalloc",)

    def __init__(self) -> None:
        self.memalloc = False
        """PF_MEMALLOC: this CPU is reclaiming; what it allocates must not reclaim again."""


class Reclaim:
    """Shrinkers and kswapd of a machine."""

    __guarded_by__: Final = {"_shrinkers": "_rwsem"}

    def __init__(self, rt: Runtime, events: VmEvents) -> None:
        self._rt = rt
        self._events = events
        self.current = rt.percpu(Task, "current").this
        self._rwsem = rt.rwsem("shrinker_rwsem")
        self._shrinkers: list[Shrinker] = []  # _rwsem
        rt.watch(self)

    def register_shrinker(self, shrinker: Shrinker) -> None:
        """Have *shrinker* asked when memory is short. May sleep."""
        with self._rwsem.write():
            self._shrinkers.append(shrinker)

    def unregister_shrinker(self, shrinker: Shrinker) -> None:
        """Forget it; when this returns it is not running. May sleep."""
        with self._rwsem.write():
            if shrinker not in self._shrinkers:
                raise BadArgument(f"shrinker: {shrinker.name!r} is not registered")
            self._shrinkers.remove(shrinker)

    def reclaimable(self) -> int:
        """Objects that shrinkers could free now. May sleep."""
        with self._rwsem.read():
            return sum(shrinker.count_objects() for shrinker in self._shrinkers)

    def shrink(self, pgdat: PgData, nr_pages: int, who: str) -> int:
        """One round: ask shrinkers for *nr_pages*; pages that came back. May sleep."""
        freed = scanned = 0
        with self._rwsem.read():
            for shrinker in self._shrinkers:
                wanted = min(shrinker.count_objects(), SHRINK_BATCH, nr_pages - freed)
                if wanted > 0:
                    scanned += wanted
                    freed += shrinker.scan_objects(wanted)
                if freed >= nr_pages:
                    break
        self._events.count("slabs_scanned", scanned)  # objects; pgsteal counts pages
        self._events.count(f"pgsteal_{who}", freed)
        for zone in pgdat.populated_zones():
            zone.pages_scanned.add(scanned)
        if freed:
            pgdat.kswapd_failures = 0
        return freed

    # -- kswapd

    def start_kswapd(self, pgdat: PgData) -> None:
        """Start the node's kswapd."""
        self._rt.kthread_run(lambda: self._kswapd(pgdat), f"kswapd{pgdat.node_id}")

    def _kswapd(self, pgdat: PgData) -> None:
        self.current().memalloc = True
        while True:
            order, highest_zoneidx = pgdat.wait_for_work()
            if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
                continue  # hopeless, until direct reclaim has success; the wake-up was on its way
            self._events.count("kswapd_wakeups")
            self.balance_pgdat(pgdat, order, highest_zoneidx)

    def balance_pgdat(self, pgdat: PgData, order: int, highest_zoneidx: int) -> None:
        """Reclaim until some zone is above its high watermark, or nothing more comes."""
        zones = [zone for zone in pgdat.populated_zones() if zone.index <= highest_zoneidx]
        boosts = [zone.watermark_boost for zone in zones]
        for zone in zones:
            zone.set_flag(ZONE_RECLAIM_ACTIVE)
        reclaimed = 0
        try:
            while not pgdat.balanced(order, highest_zoneidx):
                self._rt.cond_resched()
                freed = self.shrink(pgdat, SWAP_CLUSTER_MAX, "kswapd")
                if not freed:
                    pgdat.kswapd_failures += 1
                    break
                reclaimed += freed
                if reclaimed >= 2 << order:  # compact_gap(): more would not make a larger block
                    order = 0
            else:
                self._events.count("kswapd_high_wmark_hit_quickly")
        finally:
            for zone, boost in zip(zones, boosts, strict=True):
                zone.clear_flag(ZONE_RECLAIM_ACTIVE)
                zone.drop_boost(boost)
                if zone.watermark_ok(0, zone.wmark_pages(WMARK_HIGH), highest_zoneidx, 0):
                    zone.clear_flag(ZONE_BELOW_HIGH)
        self._events.count("pageoutrun")
