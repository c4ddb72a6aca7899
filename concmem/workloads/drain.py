"""Drain storms: all page sets emptied, again and again, while the CPUs use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker


@register("drain")
@dataclass
class Drain(Workload):
    """Some CPUs call drain_all_pages while all of them allocate and free."""

    stormers: int = option(4, 1, 256)
    """One CPU in so many drains."""
    every: int = option(32, 1, 1_000_000)
    """Operations of a draining CPU between two drains."""
    held: int = option(128, 1, 100_000)
    """Blocks that a CPU keeps at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        self._drain_all_pages = machine.drain_all_pages

    def body(self, worker: Worker) -> None:
        random, held = worker.rng.random, worker.held
        stormer = worker.cpu % self.stormers == 0
        steps = 0
        while worker.running():
            wants_more = not held or (len(held) < self.held and random() < 0.5)
            if not (wants_more and worker.hold(int(random() * 4), GFP_KERNEL)) and held:
                worker.drop_any()
            steps += 1
            if stormer and steps % self.every == 0:
                worker.progress.operations += 1
                self._drain_all_pages()
