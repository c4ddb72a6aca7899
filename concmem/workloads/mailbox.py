"""
Mailboxes: how one CPU hands something to another without waiting for it.

Locks:
    mailbox->lock   items; taken by interrupt handlers too; a leaf
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

T = TypeVar("T")


class Mailbox(Generic[T]):
    """At most *size* things for one CPU, of which it takes the last first."""

    def __init__(self, rt: Runtime, size: int) -> None:
        self.size = size
        self.lock = rt.spinlock("mailbox->lock", irqsave=True)
        self.items: list[T] = []  # lock

    def post(self, item: T) -> bool:
        """Put *item* in; false when there is no room, and then it is the caller's still."""
        with self.lock:
            if len(self.items) >= self.size:
                return False
            self.items.append(item)
            return True

    def take(self) -> T | None:
        """What came last, or ``None``."""
        # No lock: what is being put in right now is found the next time.
        if not self.items:
            return None
        with self.lock:
            return self.items.pop() if self.items else None
