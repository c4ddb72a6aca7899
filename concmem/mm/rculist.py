"""
Lists that are read without their lock (``include/linux/rculist.h``).

Writers hold the list's lock. A reader may be on a node while it is taken off the list: the node keeps
its ``next``, so the reader gets on, and nobody uses the node again, so no grace period is needed to
free it. Python's garbage collector does that when the last reader has gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar, cast

from concmem.errors import ListCorruption
from concmem.mm.list_head import List, ListHead

T = TypeVar("T", bound=ListHead)


def list_del_rcu(entry: ListHead) -> None:
    """Take *entry* off its list for good. Caller holds the list's lock."""
    previous, following = entry.prev, entry.next
    if previous is None or following is None:
        raise ListCorruption(f"list_del corruption: {entry!r} is on no list")
    if previous.next is not entry or following.prev is not entry:
        raise ListCorruption(f"list_del corruption: the neighbours of {entry!r} disagree")
    following.prev = previous
    previous.next = following
    entry.prev = None  # LIST_POISON2; `next` stays for readers


def list_for_each_entry_rcu(head: List[T]) -> Iterator[T]:
    """
    The entries, without the lock: also some that are taken off meanwhile.

    Raises:
        ListCorruption: a node leads nowhere.
    """
    node = head.next
    while node is not head:
        if node is None:
            raise ListCorruption("list corruption: a reader fell off the list")
        yield cast(T, node)
        node = node.next
