"""Producer and consumer of objects: one CPU allocates, another frees to slabs that are not its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.workloads.base import option, register
from concmem.workloads.object_owner import OwnedObject
from concmem.workloads.pipeline import Pipeline
from concmem.workloads.slab_sources import (
    KMALLOC_GFPS,
    PATIENT,
    KmallocSource,
    destroy,
    make_mixed_caches,
)

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker


@register("slab-producer-consumer")
@dataclass
class SlabProducerConsumer(Pipeline[OwnedObject]):
    """Even CPUs allocate objects, odd ones free what they get through a bounded queue."""

    kmalloc: int = option(30, 0, 100)
    """Per cent of allocations that are kmalloc, of random size and set."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        super().start(machine, workers)
        self._caches = make_mixed_caches(machine, "stress-pipe")
        self._kmalloc = KmallocSource(machine)

    def cleanup(self, machine: Machine) -> None:
        destroy(self._caches)

    def produce(self, worker: Worker) -> OwnedObject | None:
        rng = worker.rng
        if rng.random() * 100 < self.kmalloc:
            size = self._kmalloc.random_size(rng, 0.02)
            return self._kmalloc.alloc(worker.objects, size, rng.choice(KMALLOC_GFPS))
        return worker.objects.alloc(rng.choice(self._caches), PATIENT)

    def consume(self, worker: Worker, item: OwnedObject) -> None:
        worker.objects.free(item)

    def keep(self, worker: Worker, items: Sequence[OwnedObject]) -> None:
        worker.objects.held += items
