"""``kmalloc`` of more than its caches serve: whole page blocks, and ``vmalloc`` from 2 MiB on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.kmalloc import KMALLOC_MAX_CACHE_SIZE, KMALLOC_VMALLOC_SIZE
from concmem.workloads.base import Workload, option, register
from concmem.workloads.object_owner import FunctionSource
from concmem.workloads.slab_sources import PATIENT

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.object_owner import OwnedObject
    from concmem.workloads.worker import Worker


@register("kmalloc-large")
@dataclass
class KmallocLarge(Workload):
    """Allocate and free with ``kmalloc`` what no size class is for, up to more than 2 MiB."""

    held: int = option(8, 1, 10_000)
    """Allocations that a CPU keeps at most."""
    huge: int = option(5, 0, 100)
    """Per cent of them of 2 MiB and more. The first of each CPU is one, unless there are none."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        self._kmalloc = machine.kmalloc
        self._kfree = FunctionSource(machine, "kfree")

    def body(self, worker: Worker) -> None:
        random, objects = worker.rng.random, worker.objects
        held = objects.held
        huge = self.huge > 0
        while worker.running():
            if held and (len(held) >= self.held or random() < 0.5):
                objects.free(objects.take_any())
            elif not objects.hold(self._alloc(worker, huge)):
                objects.drop_half()
            huge = random() < self.huge / 100

    def _alloc(self, worker: Worker, huge: bool) -> OwnedObject | None:
        randint = worker.rng.randint
        if huge:
            size = KMALLOC_VMALLOC_SIZE + randint(0, 1 << 17)
        else:
            size = KMALLOC_MAX_CACHE_SIZE + randint(1, 8 << randint(10, 14))
        return worker.objects.own(self._kfree, self._kmalloc(size, PATIENT), size, PATIENT)
