"""Producer and consumer of pages: one CPU allocates, another frees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL
from concmem.workloads.base import option, register
from concmem.workloads.pipeline import Pipeline
from concmem.workloads.worker import Owned

if TYPE_CHECKING:
    from concmem.workloads.worker import Worker


@register("producer-consumer")
@dataclass
class ProducerConsumer(Pipeline[Owned]):
    """Even CPUs allocate pages, odd ones free what they get through a bounded queue."""

    max_order: int = option(3, 0, 10)
    """Largest order; half of the allocations are of order 0."""

    def produce(self, worker: Worker) -> Owned | None:
        random = worker.rng.random
        order = 0 if random() < 0.5 else int(random() * (self.max_order + 1))
        return worker.alloc(order, GFP_KERNEL)

    def consume(self, worker: Worker, item: Owned) -> None:
        worker.free(item)

    def keep(self, worker: Worker, items: Sequence[Owned]) -> None:
        worker.held += items
