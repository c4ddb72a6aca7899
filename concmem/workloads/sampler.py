"""
Samples of a run: a quick look at the counters every now and then, for its time lines.

Locks: none are taken, so that a look never waits, also when the machine hangs. Counters of running CPUs are
read as they are: each is right, but they are not of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from concmem.reports.run.rows import Sample, Timeline, ZoneName

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker

SAMPLE_EVERY: Final = 0.25
"""Host seconds between two looks, at first."""

MAX_SAMPLES: Final = 256
"""When there are so many, every second one goes, and looks become half as frequent."""


class Sampler:
    """
    Samples of one run. Used by one thread.

    Args:
        workers: of the CPUs.
        phase: what is going on at the moment.
    """

    def __init__(
        self, machine: Machine, workers: Sequence[Worker], phase: Callable[[], str]
    ) -> None:
        self._machine = machine
        self._progress = [worker.progress for worker in workers]
        self.phase = phase
        self._zones = [zone for zone in machine.zones if zone.present_pages]
        self._samples: list[Sample] = []
        self.every = SAMPLE_EVERY
        """Host seconds until the next look."""

    def look(self, seconds: float) -> None:
        """Take a sample; *seconds* after the run began."""
        self._samples.append(self._sample(seconds))
        if len(self._samples) > MAX_SAMPLES:
            del self._samples[1::2]
            self.every *= 2

    def timeline(self, error: str = "") -> Timeline:
        """All that is kept; *error*: why there is no more."""
        zones = tuple(
            ZoneName(zone.zone_pgdat.node_id, zone.name, zone.managed_pages) for zone in self._zones
        )
        return Timeline(zones, tuple(self._samples), error)

    def _sample(self, seconds: float) -> Sample:
        progress, lockstat = self._progress, self._machine.runtime.lockstat
        return Sample(
            seconds=round(seconds, 3),
            phase=self.phase(),
            operations=tuple(p.operations for p in progress),
            freed=sum(p.freed + p.objects_freed for p in progress),
            cross_cpu=sum(p.cross_cpu + p.objects_cross_cpu for p in progress),
            blocks=tuple(tuple(area.nr_free for area in zone.free_area) for zone in self._zones),
            cached=sum(pageset.count for zone in self._zones for pageset in zone.pageset.all()),
            slab=sum(
                node.nr_slab_reclaimable.value + node.nr_slab_unreclaimable.value
                for node in self._machine.nodes
            ),
            waits=lockstat.waits() if lockstat is not None else {},
        )
