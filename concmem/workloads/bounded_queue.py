"""
A bounded queue between CPUs, as a kernel would build it: a spinlock and two wait queues.

Locks:
    queue->lock     items, producers, consumers; a leaf: nothing is allocated or freed under it

Nobody waits for ever: a `put` gives up when no consumer is left, a `get` when no producer is and
the queue is empty. Each side must therefore say that it has ended, also after an error.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """
    A first-in first-out queue of at most *size* items.

    Args:
        producers: how many will call `producer_done`.
        consumers: how many will call `consumer_done`.
    """

    def __init__(self, rt: Runtime, size: int, producers: int, consumers: int) -> None:
        self.size = size
        self.lock = rt.spinlock("queue->lock")
        self.not_full = rt.waitqueue(self.lock, "queue->not_full")
        self.not_empty = rt.waitqueue(self.lock, "queue->not_empty")
        # lock: items, producers, consumers
        self.items: deque[T] = deque()
        self.producers = producers
        self.consumers = consumers

    def put(self, item: T) -> bool:
        """Append *item*, sleeping while the queue is full; false when nobody would take it."""
        with self.lock:
            while len(self.items) >= self.size and self.consumers:
                self.not_full.wait()
            if not self.consumers:
                return False
            self.items.append(item)
            self.not_empty.wake_up()
            return True

    def get(self) -> T | None:
        """The oldest item, sleeping while there is none; ``None`` when none will come."""
        with self.lock:
            while not self.items and self.producers:
                self.not_empty.wait()
            if not self.items:
                return None
            item = self.items.popleft()
            self.not_full.wake_up()
            return item

    def take(self) -> T | None:
        """The oldest item, or ``None`` at once."""
        with self.lock:
            return self.items.popleft() if self.items else None

    def producer_done(self) -> None:
        """One producer less."""
        with self.lock:
            self.producers -= 1
            if not self.producers:
                self.not_empty.wake_up_all()

    def consumer_done(self) -> None:
        """One consumer less."""
        with self.lock:
            self.consumers -= 1
            if not self.consumers:
                self.not_full.wake_up_all()
