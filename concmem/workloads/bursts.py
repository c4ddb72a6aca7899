"""Bursts of high orders: many large blocks at once, then all of them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL, NORETRY, NOWARN
from concmem.units import MAX_PAGE_ORDER
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.workloads.worker import Worker


@register("bursts")
@dataclass
class Bursts(Workload):
    """Allocate bursts of orders 4 to 10, with single pages between, and free them in any order."""

    burst: int = option(16, 1, 10_000)
    """Blocks in a burst, at most."""
    min_order: int = option(4, 0, MAX_PAGE_ORDER)
    """Smallest order of a burst."""

    def body(self, worker: Worker) -> None:
        rng, held = worker.rng, worker.held
        while worker.running():
            order = rng.randint(self.min_order, MAX_PAGE_ORDER)
            for _ in range(rng.randint(1, self.burst)):
                if not worker.running() or not worker.hold(order, GFP_KERNEL | NORETRY | NOWARN):
                    break
                # A single page in the way of what could merge again.
                worker.hold(0, GFP_KERNEL | NORETRY | NOWARN)
            rng.shuffle(held)
            keep = len(held) // 8
            while len(held) > keep:
                worker.free(held.pop())
