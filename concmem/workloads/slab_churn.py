"""Slab churn: objects of all kinds of caches, and ``kmalloc``, freed in random order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.workloads.base import Workload, option, register
from concmem.workloads.slab_rcu import PublishedObjects
from concmem.workloads.slab_sources import (
    KMALLOC_GFPS,
    PATIENT,
    URGENT,
    KmallocSource,
    destroy,
    make_mixed_caches,
    make_rcu_cache,
)

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.object_owner import CacheSource, OwnedObject
    from concmem.workloads.worker import Worker

SHRINK_EVERY = 500
"""Operations between two shrinks of the RCU cache, so that its slabs are freed under readers."""


@register("slab-churn")
@dataclass
class SlabChurn(Workload):
    """Allocate from mixed caches and kmalloc and free in any order, with RCU readers between."""

    held: int = option(200, 1, 100_000)
    """Objects that a CPU keeps at most."""
    kmalloc: int = option(40, 0, 100)
    """Per cent of allocations that are kmalloc, of random size and set."""
    large: int = option(3, 0, 100)
    """Per cent of those that are larger than any size class."""
    published: int = option(16, 1, 10_000)
    """Objects of each CPU that RCU readers can find, at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        self._caches = make_mixed_caches(machine, "stress-churn")
        self._rcu_cache = make_rcu_cache(machine, "stress-churn")
        self._kmalloc = KmallocSource(machine)
        self._published = PublishedObjects(machine, self._rcu_cache, self.published)

    def cleanup(self, machine: Machine) -> None:
        destroy([*self._caches, self._rcu_cache])

    def body(self, worker: Worker) -> None:
        random, objects = worker.rng.random, worker.objects
        held = objects.held
        shrink_at = SHRINK_EVERY
        while worker.running():
            what = random()
            if what < 0.1:
                self._published.change_one(worker)
                self._published.look_at_one(worker)
            elif held and (len(held) >= self.held or what < 0.5):
                self._free_or_resize(worker)
            elif not objects.hold(self._alloc(worker)):
                objects.drop_half()
            if objects.progress.operations >= shrink_at:
                shrink_at = objects.progress.operations + SHRINK_EVERY
                self._rcu_cache.cache.shrink()

    def leave(self, worker: Worker) -> None:
        self._published.withdraw_all(worker)

    def _alloc(self, worker: Worker) -> OwnedObject | None:
        rng, objects = worker.rng, worker.objects
        if rng.random() * 100 < self.kmalloc:
            size = self._kmalloc.random_size(rng, self.large / 100)
            return self._kmalloc.alloc(objects, size, rng.choice(KMALLOC_GFPS))
        source: CacheSource = rng.choice(self._caches)
        return objects.alloc(source, PATIENT if rng.random() < 0.8 else URGENT)

    def _free_or_resize(self, worker: Worker) -> None:
        rng, objects = worker.rng, worker.objects
        owned = objects.take_any()
        if owned.source is self._kmalloc and rng.random() < 0.1:
            try:
                owned = self._kmalloc.realloc(objects, owned, self._kmalloc.random_size(rng, 0.0))
            finally:
                objects.held.append(owned)
        else:
            objects.free(owned)
