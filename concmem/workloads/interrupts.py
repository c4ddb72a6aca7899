"""
Interrupts: handlers that allocate and free in the middle of what other CPUs are doing.

Locks:
    slots->lock     taken by handlers, therefore with interrupts disabled; a leaf
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NOWARN
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.runtime.api import Runtime
    from concmem.workloads.worker import Owned, Worker


class Slots:
    """How many interrupts of one sender are on their way: a counting semaphore."""

    def __init__(self, rt: Runtime, limit: int) -> None:
        self.limit = limit
        self.lock = rt.spinlock("slots->lock", irqsave=True)
        self.changed = rt.waitqueue(self.lock, "slots->changed")
        self.used = 0  # lock

    def take(self) -> None:
        """Take a slot, sleeping while none is free."""
        with self.lock:
            self.changed.wait_for(lambda: self.used < self.limit)
            self.used += 1

    def give_back(self) -> None:
        """A handler has run. Never sleeps."""
        with self.lock:
            self.used -= 1
            self.changed.wake_up_all()

    def wait_until_idle(self) -> None:
        """Sleep until every handler has run."""
        with self.lock:
            self.changed.wait_for(lambda: self.used == 0)


@register("interrupts")
@dataclass
class Interrupts(Workload):
    """CPUs interrupt each other with handlers that allocate and free with GFP_ATOMIC."""

    outstanding: int = option(4, 1, 1000)
    """Interrupts of one sender that have not run yet, at most."""
    every: int = option(8, 1, 1_000_000)
    """Operations of a CPU between two interrupts that it sends."""
    pages: int = option(3, 1, 1000)
    """Blocks that a handler allocates."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._call_on = rt.call_on
        self._workers = workers[: rt.nr_cpus]
        self._slots = [Slots(rt, self.outstanding) for _ in self._workers]

    def body(self, worker: Worker) -> None:
        rng, held = worker.rng, worker.held
        steps = 0
        while worker.running():
            if held and (len(held) > 32 or rng.random() < 0.5):
                worker.drop_any()
            else:
                worker.hold(int(rng.random() * 3), GFP_KERNEL)
            steps += 1
            if steps % self.every == 0:
                self._interrupt(rng.choice(self._workers), self._slots[worker.cpu])

    def _interrupt(self, target: Worker, slots: Slots) -> None:
        """Post a handler to the CPU of *target*, perhaps this one."""

        def handler() -> None:
            try:
                self._handle(target)
            finally:
                slots.give_back()

        slots.take()
        self._call_on(target.cpu, handler, wait=False)

    def _handle(self, target: Worker) -> None:
        """On the CPU of *target*, in the middle of its body, or after it."""
        if target.stopped:
            return  # the run shall end, and not after all that is still on its way
        random = target.rng.random
        pages: list[Owned] = []
        try:
            for _ in range(self.pages):
                owned = target.alloc(int(random() * 2), GFP_ATOMIC | NOWARN)
                if owned is not None:
                    pages.append(owned)
            while pages:
                target.free(pages.pop())
        finally:
            # After an error only. The interrupted body is at a point, and so not at its list.
            target.held += pages

    def leave(self, worker: Worker) -> None:
        self._slots[worker.cpu].wait_until_idle()
