"""Fragmentation: all orders and migratetypes, short lives between long ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from concmem.mm.gfp import GFP_HIGHUSER_MOVABLE, GFP_KERNEL, NORETRY, NOWARN, RECLAIMABLE
from concmem.units import MAX_PAGE_ORDER
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.workloads.worker import Owned, Worker

_NO_FUSS: Final = NORETRY | NOWARN

TYPES: Final = (
    GFP_KERNEL | _NO_FUSS,
    GFP_HIGHUSER_MOVABLE | _NO_FUSS,
    GFP_KERNEL | RECLAIMABLE | _NO_FUSS,
)
"""Unmovable, movable and reclaimable."""


@register("fragmentation")
@dataclass
class Fragmentation(Workload):
    """Mix orders, migratetypes and lifetimes, so that blocks split, merge and are stolen."""

    held: int = option(400, 2, 1_000_000)
    """Blocks that a CPU keeps at most; one in four of them is long-lived."""
    max_order: int = option(MAX_PAGE_ORDER, 0, MAX_PAGE_ORDER)
    """Largest order; each order is half as frequent as the one below."""

    def body(self, worker: Worker) -> None:
        rng, held = worker.rng, worker.held
        random = rng.random
        short: list[Owned] = []
        try:
            while worker.running():
                if random() < 0.52:
                    order = 0
                    while order < self.max_order and random() < 0.5:
                        order += 1
                    owned = worker.alloc(order, TYPES[int(random() * 3)])
                    if owned is not None:
                        (held if random() < 0.25 else short).append(owned)
                        continue
                    # No memory: a good part of the short-lived goes at once.
                    for _ in range(len(short) // 2):
                        worker.free(short.pop())
                if short and (len(short) > self.held * 3 // 4 or random() < 0.9):
                    worker.free(short.pop(int(random() * len(short))))
                elif held and (len(held) > self.held // 4 or random() < 0.1):
                    worker.drop_any()
        finally:
            held += short
