"""
The search tree of the leak detector: objects by address, found by any address inside of them.

A kernel has a red-black tree. Here it is a sorted list in pieces of a few hundred objects: two binary searches
in C for a look-up, and a short copy for a change, however many objects there are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.errors import KernelBug

if TYPE_CHECKING:
    from concmem.mm.debug.kmemleak_object import KmemleakObject

MAX_PIECE: Final = 512
"""Objects in a piece; one that grows beyond is cut in two."""


class ObjectTree:
    """Objects that do not overlap. Caller of every method holds the tree's lock."""

    __slots__ = ("_firsts", "_nr", "_objects", "_starts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        """The lowest address of each piece."""
        self._starts: list[list[int]] = []
        """The address of each object of each piece."""
        self._objects: list[list[KmemleakObject]] = []
        self._nr = 0

    def __len__(self) -> int:
        return self._nr

    def __iter__(self) -> Iterator[KmemleakObject]:
        """All, lowest first. The tree must not change meanwhile."""
        for piece in self._objects:
            yield from piece

    def find(self, address: int) -> KmemleakObject | None:
        """The object that *address* is in."""
        piece = bisect_right(self._firsts, address) - 1
        if piece < 0:
            return None
        index = bisect_right(self._starts[piece], address) - 1
        found = self._objects[piece][index]
        return found if address < found.pointer + found.size else None

    def insert(self, obj: KmemleakObject) -> KmemleakObject | None:
        """Add *obj*; if it overlaps one that is there, that one is returned and nothing is changed."""
        start, end = obj.pointer, obj.pointer + obj.size
        piece = max(0, bisect_right(self._firsts, start) - 1)
        if not self._firsts:
            self._add_piece(0, [start], [obj])
            self._nr = 1
            return None
        starts, objects = self._starts[piece], self._objects[piece]
        index = bisect_right(starts, start)
        if index:
            before = objects[index - 1]
            if before.pointer + before.size > start:
                return before
        after = objects[index] if index < len(objects) else self._first_of(piece + 1)
        if after is not None and after.pointer < end:
            return after
        starts.insert(index, start)
        objects.insert(index, obj)
        self._firsts[piece] = starts[0]
        self._nr += 1
        if len(starts) > MAX_PIECE:
            half = MAX_PIECE // 2
            self._add_piece(piece + 1, starts[half:], objects[half:])
            del starts[half:], objects[half:]
        return None

    def remove(self, obj: KmemleakObject) -> None:
        """
        Take *obj* out.

        Raises:
            KernelBug: it is not in the tree.
        """
        piece = bisect_right(self._firsts, obj.pointer) - 1
        starts = self._starts[piece] if piece >= 0 else []
        index = bisect_left(starts, obj.pointer)
        if index == len(starts) or self._objects[piece][index] is not obj:
            raise KernelBug(f"kmemleak: {obj!r} is removed from the search tree, but is not in it")
        del starts[index], self._objects[piece][index]
        self._nr -= 1
        if starts:
            self._firsts[piece] = starts[0]
        else:
            del self._firsts[piece], self._starts[piece], self._objects[piece]

    def _first_of(self, piece: int) -> KmemleakObject | None:
        return self._objects[piece][0] if piece < len(self._objects) else None

    def _add_piece(self, piece: int, starts: list[int], objects: list[KmemleakObject]) -> None:
        self._firsts.insert(piece, starts[0])
        self._starts.insert(piece, starts)
        self._objects.insert(piece, objects)
