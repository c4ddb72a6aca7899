"""
Doubly linked lists through the objects themselves (``struct list_head``).

An object on a list *is* a node: :class:`ListHead` is its base class, as ``page->lru`` is embedded
in ``struct page``. Every operation checks both neighbours first, as CONFIG_DEBUG_LIST does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

from concmem.errors import ListCorruption

T = TypeVar("T", bound="ListHead")


class ListHead:
    """``struct list_head``: a node. ``next is None`` is LIST_POISON: on no list."""

    __slots__ = ("next", "prev")

    next: ListHead | None
    prev: ListHead | None


class List(ListHead, Generic[T]):
    """The head of a circular list of *T*. Caller of every method holds the list's lock."""

    __slots__ = ()

    def __init__(self) -> None:
        self.next = self
        self.prev = self

    def empty(self) -> bool:
        return self.next is self

    def is_singular(self) -> bool:
        """Whether there is exactly one entry (``list_is_singular``)."""
        return self.next is self.prev and self.next is not self

    def add(self, entry: T) -> None:
        """Insert at the front (``list_add``)."""
        _insert(entry, self, cast(ListHead, self.next))

    def add_tail(self, entry: T) -> None:
        """Insert at the end (``list_add_tail``)."""
        _insert(entry, cast(ListHead, self.prev), self)

    def first(self) -> T | None:
        """The first entry, which stays on the list; ``None`` when there is none."""
        return None if self.next is self else cast(T, self.next)

    def __iter__(self) -> Iterator[T]:
        """
        The entries in order (``list_for_each_entry_safe``: the current one may be removed).

        Raises:
            ListCorruption: a node is off the list or its neighbours disagree.
        """
        previous: ListHead = self
        node = self.next
        while node is not self:
            if node is None or node.prev is not previous:
                raise ListCorruption(f"list corruption: {previous!r} is followed by {node!r}")
            following = node.next
            yield cast(T, node)
            if node.prev is previous:  # else it has been removed meanwhile
                previous = node
            node = following


def _insert(entry: ListHead, previous: ListHead, following: ListHead) -> None:
    if previous.next is not following or following.prev is not previous:
        raise ListCorruption(f"list_add corruption between {previous!r} and {following!r}")
    if entry.next is not None:
        raise ListCorruption(f"list_add corruption: {entry!r} is already on a list")
    entry.prev = previous
    entry.next = following
    previous.next = entry
    following.prev = entry


def list_del(entry: ListHead) -> None:
    """Take *entry* off whatever list it is on. Caller holds that list's lock."""
    previous, following = entry.prev, entry.next
    if previous is None or following is None:
        raise ListCorruption(f"list_del corruption: {entry!r} is on no list")
    if previous.next is not entry or following.prev is not entry:
        raise ListCorruption(f"list_del corruption: the neighbours of {entry!r} disagree")
    previous.next = following
    following.prev = previous
    entry.next = None
    entry.prev = None
