"""Bulk: many objects at once, freed in bulk, one by one, here and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.workloads.base import Workload, option, register
from concmem.workloads.mailbox import Mailbox
from concmem.workloads.slab_sources import PATIENT, URGENT, destroy, make_mixed_caches

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.object_owner import CacheSource, OwnedObject
    from concmem.workloads.worker import Worker

Batch = tuple["CacheSource", list["OwnedObject"]]
"""Objects of one cache."""


@register("slab-bulk")
@dataclass
class SlabBulk(Workload):
    """Allocate and free objects in bulk; parts of a batch go one by one, or on other CPUs."""

    bulk: int = option(64, 1, 10_000)
    """Objects in a batch, at most."""
    waiting: int = option(4, 1, 1000)
    """Batches that wait for a CPU to free them, at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._caches = make_mixed_caches(machine, "stress-bulk")
        self._mailboxes: list[Mailbox[Batch]] = [
            Mailbox(rt, self.waiting) for _ in range(rt.nr_cpus)
        ]

    def cleanup(self, machine: Machine) -> None:
        destroy(self._caches)

    def body(self, worker: Worker) -> None:
        rng = worker.rng
        mine = self._mailboxes[worker.cpu]
        while worker.running():
            batch = self._alloc_bulk(worker, rng.choice(self._caches), rng.randint(1, self.bulk))
            if batch is not None:
                self._part_with(worker, batch)
            while worker.running() and (batch := mine.take()) is not None:
                self._free_bulk(worker, batch)

    def leftovers(self, worker: Worker) -> None:
        for mailbox in self._mailboxes:
            while (batch := mailbox.take()) is not None:
                worker.objects.held += batch[1]

    def _alloc_bulk(self, worker: Worker, source: CacheSource, nr: int) -> Batch | None:
        objects = worker.objects
        addresses = source.cache.alloc_bulk(nr, PATIENT if worker.rng.random() < 0.8 else URGENT)
        if not addresses:
            objects.own(source, None, source.size)  # counted
            return None
        owned = [objects.own(source, address, source.size) for address in addresses]
        return source, [each for each in owned if each is not None]

    def _part_with(self, worker: Worker, batch: Batch) -> None:
        rng, objects = worker.rng, worker.objects
        source, owned = batch
        how = rng.random()
        rng.shuffle(owned)
        if how < 0.3 and rng.choice(self._mailboxes).post(batch):
            return
        if how < 0.6:
            for _ in range(rng.randint(0, len(owned))):
                objects.free(owned.pop())
        elif how < 0.7:
            # Some of them stay for a while, so that slabs stay half full.
            keep = rng.randint(0, len(owned))
            objects.held += owned[:keep]
            owned = owned[keep:]
            while len(objects.held) > self.bulk * 4:
                objects.drop_any()
        self._free_bulk(worker, (source, owned))

    @staticmethod
    def _free_bulk(worker: Worker, batch: Batch) -> None:
        source, owned = batch
        if owned:
            source.cache.free_bulk([worker.objects.disown(each) for each in owned])
