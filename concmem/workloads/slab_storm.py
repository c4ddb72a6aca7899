"""
Slab storms: caches shrunk, flushed, created and destroyed while all CPUs and interrupts use them.

Locks: see mailbox.py and `Slots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.slab_flags import SLAB_NO_MERGE, SLAB_TYPESAFE_BY_RCU
from concmem.workloads.base import Workload, option, register
from concmem.workloads.interrupts import Slots
from concmem.workloads.object_owner import CacheSource
from concmem.workloads.slab_sources import (
    PATIENT,
    URGENT,
    destroy,
    make_cache,
    make_mixed_caches,
    make_rcu_cache,
)

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.object_owner import OwnedObject
    from concmem.workloads.worker import Worker

OWN_SIZE = 48
"""Bytes of an object of the short-lived caches."""


@register("slab-storm")
@dataclass
class SlabStorm(Workload):
    """Some CPUs shrink, flush, create and destroy caches; all use them, interrupts too."""

    stormers: int = option(2, 1, 256)
    """One CPU in so many storms."""
    every: int = option(24, 1, 1_000_000)
    """Operations of a storming CPU between two storms."""
    interrupts: int = option(12, 1, 1_000_000)
    """Operations of a CPU between two interrupts that it sends."""
    held: int = option(100, 1, 100_000)
    """Objects that a CPU keeps at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._machine = machine
        self._call_on = rt.call_on
        self._workers = workers[: rt.nr_cpus]
        self._slots = [Slots(rt, 4) for _ in self._workers]
        self._caches = [
            *make_mixed_caches(machine, "stress-storm"),
            make_rcu_cache(machine, "stress-storm"),
        ]

    def cleanup(self, machine: Machine) -> None:
        destroy(self._caches)

    def body(self, worker: Worker) -> None:
        rng, objects = worker.rng, worker.objects
        held = objects.held
        stormer = worker.cpu % self.stormers == 0
        steps = 0
        while worker.running():
            if held and (len(held) >= self.held or rng.random() < 0.5):
                objects.drop_any()
            elif not objects.hold(objects.alloc(rng.choice(self._caches), PATIENT)):
                objects.drop_half()
            steps += 1
            if steps % self.interrupts == 0:
                self._interrupt(worker, rng.choice(self._workers))
            if stormer and steps % self.every == 0:
                worker.progress.operations += 1
                rng.choice((self._shrink, self._flush, self._own_cache, self._merged))(worker)

    def leave(self, worker: Worker) -> None:
        self._slots[worker.cpu].wait_until_idle()

    # -- storms

    def _shrink(self, worker: Worker) -> None:
        worker.rng.choice(self._caches).cache.shrink()

    def _flush(self, worker: Worker) -> None:
        worker.rng.choice(self._caches).cache.flush_all()

    def _own_cache(self, worker: Worker) -> None:
        """A cache of one's own: created, used, and destroyed when it is empty again."""
        flags = worker.rng.choice((SLAB_NO_MERGE, SLAB_TYPESAFE_BY_RCU))
        constructor = worker.rng.random() < 0.5
        name = f"stress-own-{worker.cpu}"
        self._use(worker, make_cache(self._machine, name, OWN_SIZE, flags, constructor))

    def _merged(self, worker: Worker) -> None:
        """Caches alike: with merging the second is the first by another name, or another CPU's."""
        # New names each time: of merged caches, destroying one gives up the newest name.
        number = worker.progress.operations
        names = [f"stress-alias-{worker.cpu}-{number}{letter}" for letter in "ab"]
        first, second = (make_cache(self._machine, name, OWN_SIZE) for name in names)
        self._use(worker, first)
        self._use(worker, second)

    def _use(self, worker: Worker, source: CacheSource) -> None:
        """Allocate, free, and destroy. What is left after an error is given back with the rest."""
        objects = worker.objects
        mine: list[OwnedObject] = []
        try:
            for _ in range(worker.rng.randint(1, 40)):
                owned = objects.alloc(source, PATIENT)
                if owned is not None:
                    mine.append(owned)
            worker.rng.shuffle(mine)
            while mine:
                objects.free(mine.pop())
        finally:
            objects.held += mine
        source.cache.destroy()

    # -- interrupts

    def _interrupt(self, sender: Worker, target: Worker) -> None:
        """Have the CPU of *target* free one of the sender's objects, and use the caches."""
        slots = self._slots[sender.cpu]
        slots.take()
        held = sender.objects.held
        parcel = sender.objects.take_any() if held else None

        def handler() -> None:
            try:
                self._handle(target, parcel)
            finally:
                slots.give_back()

        self._call_on(target.cpu, handler, wait=False)

    def _handle(self, target: Worker, parcel: OwnedObject | None) -> None:
        """On the CPU of *target*, in the middle of its body, or after it."""
        objects, rng = target.objects, target.rng
        mine = [parcel] if parcel is not None else []
        try:
            if not target.stopped:
                for _ in range(rng.randint(1, 4)):
                    owned = objects.alloc(rng.choice(self._caches), URGENT)
                    if owned is not None:
                        mine.append(owned)
            while mine:
                objects.free(mine.pop())
        finally:
            # After an error only. The interrupted body is at a point, and so not at its list.
            objects.held += mine
