"""Pipelines: some CPUs make something, others consume it, as with network buffers."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from concmem.workloads.base import Workload, option
from concmem.workloads.bounded_queue import BoundedQueue

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.worker import Worker

T = TypeVar("T")


@dataclass
class Pipeline(Workload, Generic[T]):
    """
    Even CPUs produce, odd ones consume what they get through a bounded queue.

    With an odd number of CPUs the last one produces for the last pair; a single CPU takes turns
    with itself.
    """

    queue: int = option(64, 1, 100_000)
    """Items in each queue, at most."""

    @abstractmethod
    def produce(self, worker: Worker) -> T | None:
        """A new item, or ``None`` when there is no memory."""

    @abstractmethod
    def consume(self, worker: Worker, item: T) -> None:
        """Free *item*."""

    @abstractmethod
    def keep(self, worker: Worker, items: Sequence[T]) -> None:
        """Put *items* where the worker will find them when it gives everything back."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        cpus = machine.runtime.nr_cpus
        self._alone = cpus == 1
        pairs = cpus // 2
        self._queues: list[BoundedQueue[T]] = [
            BoundedQueue(
                machine.runtime,
                self.queue,
                producers=2 if cpus % 2 and pair == pairs - 1 else 1,
                consumers=1,
            )
            for pair in range(pairs)
        ]

    def _queue_of(self, worker: Worker) -> BoundedQueue[T]:
        return self._queues[min(worker.cpu // 2, len(self._queues) - 1)]

    def body(self, worker: Worker) -> None:
        if self._alone:
            self._take_turns(worker)
        elif worker.cpu % 2:
            self._consume(worker, self._queue_of(worker))
        else:
            self._produce(worker, self._queue_of(worker))

    def _produce(self, worker: Worker, queue: BoundedQueue[T]) -> None:
        while worker.running():
            item = self.produce(worker)
            if item is not None and not queue.put(item):
                self.consume(worker, item)  # the consumer is gone
                return

    def _consume(self, worker: Worker, queue: BoundedQueue[T]) -> None:
        # Until the producers have ended, whatever this CPU's limit: they may be waiting for it.
        while (item := queue.get()) is not None:
            self.consume(worker, item)

    def _take_turns(self, worker: Worker) -> None:
        fifo: deque[T] = deque()
        try:
            while worker.running():
                while len(fifo) < self.queue and worker.running():
                    item = self.produce(worker)
                    if item is None:
                        break
                    fifo.append(item)
                while fifo:
                    self.consume(worker, fifo.popleft())
        finally:
            self.keep(worker, fifo)

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
            while (item := queue.take()) is not None:
                self.keep(worker, [item])
