"""What was most in a run: the caches at their largest, the machine at its fullest, the types most mixed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from concmem.mm.debug.mixed_blocks import mixed_pageblocks
from concmem.mm.migratetype import PCPTYPES
from concmem.reports.run.peaks import cache_peak, process_moment, zone_moment
from concmem.reports.run.rows import CachePeak, MixedBlocks, Moment, ProcessPeak
from concmem.reports.zones import populated_zones

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.statistics import MachineStatistics, SlabStatistics

MAX_PROCESSES: Final = 8
"""Processes whose smaps is read."""


class PeakLog:
    """
    The peaks so far of one machine.

    Locks: `_lock` guards everything, also while the machine is looked at.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._caches: dict[str, CachePeak] = {}
        self._free = 1 << 62
        self._rss = 0
        self.busiest: Moment | None = None
        self.processes: ProcessPeak | None = None

    def look(self, seconds: float, phase: str) -> None:
        """Compare with what the machine is now. May sleep where a process changes its mappings."""
        with self._lock:
            self._look(seconds, phase)

    def _look(self, seconds: float, phase: str) -> None:
        stats = self._machine.statistics()
        for cache in stats.slabs:
            if cache.nr_slabs:
                self._look_at_cache(cache, round(seconds, 3))
        self._look_at_zones(stats, seconds, phase)
        self._look_at_processes(stats, seconds, phase)

    def caches(self) -> tuple[CachePeak, ...]:
        """Every cache that ever had a slab when somebody looked, the largest first."""

        def largest_first(peak: CachePeak) -> tuple[int, str]:
            return -(peak.slabs << peak.order), peak.name

        return tuple(sorted(self._caches.values(), key=largest_first))

    def _look_at_cache(self, cache: SlabStatistics, seconds: float) -> None:
        known = self._caches.get(cache.name)
        if known is None or cache.nr_slabs > known.slabs:
            peak = cache_peak(cache, seconds)
            self._caches[cache.name] = peak._replace(
                first_seen=peak.first_seen if known is None else known.first_seen
            )
        else:
            self._caches[cache.name] = known._replace(last_seen=seconds)

    def _look_at_zones(self, stats: MachineStatistics, seconds: float, phase: str) -> None:
        zones = tuple(map(zone_moment, populated_zones(stats)))
        free = sum(zone.free + zone.cached for zone in zones)
        if free < self._free:
            self._free = free
            texts = [self._machine.procfs.render(stats, name) for name in ("meminfo", "buddyinfo")]
            self.busiest = Moment(round(seconds, 3), phase, zones, *texts)

    def _look_at_processes(self, stats: MachineStatistics, seconds: float, phase: str) -> None:
        processes = () if stats.user is None else stats.user.processes
        rss = sum(process.rss for process in processes)
        if rss > self._rss:
            self._rss = rss
            largest = sorted(processes, key=lambda process: (-process.rss, process.pid))
            self.processes = ProcessPeak(
                round(seconds, 3),
                phase,
                len(processes),
                tuple(
                    process_moment(
                        process.pid,
                        process.name,
                        self._machine.procfs.render(stats, f"{process.pid}/smaps"),
                    )
                    for process in largest[:MAX_PROCESSES]
                ),
            )


class MixedLog:
    """The most mixed page blocks that each zone has had. Used by one thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._most: dict[str, MixedBlocks] = {}

    def look(self, seconds: float) -> None:
        """Count them, with all CPUs parked."""
        self._machine.runtime.stop_machine(lambda: self._count(seconds))

    def result(self) -> tuple[MixedBlocks, ...]:
        """Of each zone that has page blocks."""
        return tuple(self._most.values())

    def _count(self, seconds: float) -> None:
        machine = self._machine
        mixed = mixed_pageblocks(machine.mem_map)
        for zone in machine.zones:
            nr = mixed.get(zone, 0)
            known = self._most.get(zone.id)
            if zone.present_pages and (known is None or nr > known.mixed):
                blocks = sum(zone.statistics().pageblocks[:PCPTYPES])
                node = zone.zone_pgdat.node_id
                self._most[zone.id] = MixedBlocks(node, zone.name, blocks, nr, round(seconds, 3))
