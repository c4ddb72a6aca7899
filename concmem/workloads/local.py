"""Local churn: what a CPU allocates it frees itself, and soon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.workloads.worker import Worker


@register("local")
@dataclass
class Local(Workload):
    """Allocate and free on the same CPU, order 0 nearly always: per-CPU page sets at work."""

    held: int = option(64, 1, 100_000)
    """Pages (blocks) that a CPU keeps at most."""
    other_orders: int = option(10, 0, 100)
    """Per cent of allocations that are of order 1 to 3."""

    def body(self, worker: Worker) -> None:
        random, held = worker.rng.random, worker.held
        alloc, free = worker.alloc, worker.free
        share = self.other_orders / 100
        while worker.running():
            if len(held) < self.held and random() < 0.5:
                order = 1 + int(random() * 3) if random() < share else 0
                owned = alloc(order, GFP_KERNEL)
                if owned is not None:
                    held.append(owned)
                elif held:
                    worker.drop_any()
            elif held:
                free(held.pop())
            else:
                # Straight through: the hottest path of a kernel.
                owned = alloc(0, GFP_KERNEL)
                if owned is not None:
                    free(owned)
