"""Producer and consumer: one CPU allocates, another frees, as with network buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL
from concmem.workloads.base import Workload, option, register
from concmem.workloads.bounded_queue import BoundedQueue
from concmem.workloads.worker import Owned

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker


@register("producer-consumer")
@dataclass
class ProducerConsumer(Workload):
    """
    Even CPUs allocate, odd ones free what they get through a bounded queue.

    With an odd number of CPUs the last one produces for the last pair; a single CPU takes turns
    with itself.
    """

    queue: int = option(64, 1, 100_000)
    """Blocks in each queue, at most."""
    max_order: int = option(3, 0, 10)
    """Largest order; half of the allocations are of order 0."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        cpus = machine.runtime.nr_cpus
        self._alone = cpus == 1
        pairs = cpus // 2
        self._queues: list[BoundedQueue[Owned]] = [
            BoundedQueue(
                machine.runtime,
                self.queue,
                producers=2 if cpus % 2 and pair == pairs - 1 else 1,
                consumers=1,
            )
            for pair in range(pairs)
        ]

    def _queue_of(self, worker: Worker) -> BoundedQueue[Owned]:
        return self._queues[min(worker.cpu // 2, len(self._queues) - 1)]

    def body(self, worker: Worker) -> None:
        if self._alone:
            self._take_turns(worker)
        elif worker.cpu % 2:
            self._consume(worker, self._queue_of(worker))
        else:
            self._produce(worker, self._queue_of(worker))

    def _order(self, worker: Worker) -> int:
        random = worker.rng.random
        return 0 if random() < 0.5 else int(random() * (self.max_order + 1))

    def _produce(self, worker: Worker, queue: BoundedQueue[Owned]) -> None:
        while worker.running():
            owned = worker.alloc(self._order(worker), GFP_KERNEL)
            if owned is not None and not queue.put(owned):
                worker.free(owned)  # the consumer is gone
                return

    @staticmethod
    def _consume(worker: Worker, queue: BoundedQueue[Owned]) -> None:
        # Until the producers have ended, whatever this CPU's limit: they may be waiting for it.
        while (owned := queue.get()) is not None:
            worker.free(owned)

    def _take_turns(self, worker: Worker) -> None:
        fifo: deque[Owned] = deque()
        try:
            while worker.running():
                while len(fifo) < self.queue and worker.running():
                    owned = worker.alloc(self._order(worker), GFP_KERNEL)
                    if owned is None:
                        break
                    fifo.append(owned)
                while fifo:
                    worker.free(fifo.popleft())
        finally:
            worker.held += fifo

    def leave(self, worker: Worker) -> None:
        if self._alone:
            return
        if worker.cpu % 2:
            self._queue_of(worker).consumer_done()
        else:
            self._queue_of(worker).producer_done()

    def leftovers(self, worker: Worker) -> None:
        """What a consumer that failed has left behind, and what a failed producer was putting."""
        for queue in self._queues:
            while (owned := queue.take()) is not None:
                worker.held.append(owned)
