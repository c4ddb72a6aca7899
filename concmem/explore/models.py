"""
Sequential objects to compare concurrent ones with.

A model is an ordinary class: what each method returns, or raises, is right. Give methods other names
by a subclass::

    class Fifo(Queue):
        enqueue, dequeue = Queue.put, Queue.get

States are copied and compared. So that this is quick, let a state consist of attributes that do not
change themselves (numbers, tuples, frozensets), and derive from `Sequential`; of any other object the
model is copied deeply, and its state is its ``key()`` or, made hashable, its ``__dict__``.

Where a result is not determined by what came before, like an address, a model has instead ``init()``,
the first state, and ``step(state, op, args, result)``, which returns whether *result* is right and the
state after it. States must be hashable. *result* may be `PENDING`: anything would be right. Keyword
arguments come last in *args*, as a dict.

Either may have ``partition(call)``: calls with different keys do not influence each other.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from collections.abc import Set as AbstractSet
from typing import Any

from concmem.errors import BadArgument
from concmem.explore.calls import PENDING, Call, Raised


class Sequential:
    """A model whose attributes never change themselves, but are replaced."""

    def copy(self) -> Any:
        """Another in the same state."""
        return copy.copy(self)

    def key(self) -> Hashable:
        """The state."""
        return tuple(sorted(vars(self).items()))


class Register(Sequential):
    """A variable: ``read()``, ``write(value)``, ``cas(old, new)`` (whether it was *old*)."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def read(self) -> Any:
        """The value."""
        return self.value

    def write(self, value: Any) -> None:
        """Replace it."""
        self.value = value

    def cas(self, old: Any, new: Any) -> bool:
        """Replace it by *new* if it is *old*; whether it was."""
        if self.value != old:
            return False
        self.value = new
        return True


class Counter(Sequential):
    """``add_return(n=1)`` is the new number, ``add(n=1)`` returns nothing; ``read()``."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def read(self) -> int:
        """The number."""
        return self.count

    def add(self, n: int = 1) -> None:
        """Add *n*."""
        self.count += n

    def add_return(self, n: int = 1) -> int:
        """Add *n*; the new number."""
        self.count += n
        return self.count


class Queue(Sequential):
    """First in, first out: ``put(value)``, ``get()`` (``None`` if there is nothing)."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def put(self, value: Any) -> None:
        """Add at the end."""
        self.values = (*self.values, value)

    def get(self) -> Any:
        """Take the first."""
        if not self.values:
            return None
        value, *_ = self.values
        self.values = self.values[1:]
        return value


class Stack(Sequential):
    """Last in, first out: ``push(value)``, ``pop()`` (``None`` if there is nothing)."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def push(self, value: Any) -> None:
        """Add on top."""
        self.values = (*self.values, value)

    def pop(self) -> Any:
        """Take the topmost."""
        if not self.values:
            return None
        *_, value = self.values
        self.values = self.values[:-1]
        return value


class Set(Sequential):
    """``add(value)`` and ``remove(value)`` say whether that changed it; ``contains(value)``."""

    def __init__(self, *values: Hashable) -> None:
        self.values = frozenset(values)

    def add(self, value: Hashable) -> bool:
        """Whether it was not there."""
        new = value not in self.values
        self.values |= {value}
        return new

    def remove(self, value: Hashable) -> bool:
        """Whether it was there."""
        found = value in self.values
        self.values -= {value}
        return found

    def contains(self, value: Hashable) -> bool:
        """Whether it is there."""
        return value in self.values

    @staticmethod
    def partition(call: Call) -> Hashable:
        """Each value alone."""
        value: Hashable = call.args[0]
        return value


class Allocator:
    """
    What is handed out is nobody else's until it is freed.

    Calls that allocate return an address or ``None``; their first argument is a number of bytes, or
    there is none. Calls that free have the address as their first argument. A free that raises must be
    one of what was not allocated; an allocation that raises has done nothing.

    Args:
        size: bytes of an object where the call does not say.
        alloc, free: names of operations.
    """

    def __init__(
        self,
        size: int = 1,
        alloc: AbstractSet[str] = frozenset({"alloc", "kmalloc", "malloc", "vmalloc"}),
        free: AbstractSet[str] = frozenset({"free", "kfree", "vfree"}),
    ) -> None:
        self.size = size
        self.alloc = alloc
        self.free = free

    def init(self) -> frozenset[tuple[int, int]]:
        """Nothing is allocated."""
        return frozenset()

    def step(
        self, live: frozenset[tuple[int, int]], op: str, args: tuple[Any, ...], result: Any
    ) -> tuple[bool, frozenset[tuple[int, int]]]:
        """*live* has the first and the last address of each object."""
        if op in self.alloc:
            if result is None or result is PENDING or isinstance(result, Raised):
                return True, live  # where something is that nobody has got does not matter
            size = args[0] if args and isinstance(args[0], int) else self.size
            last = result + max(size, 1) - 1
            fits = all(last < other or result > other_last for other, other_last in live)
            return fits, live | {(result, last)}
        if op in self.free:
            found = [area for area in live if area[0] == args[0]]
            if isinstance(result, Raised):
                return not found, live
            return args[0] is None or bool(found), live.difference(found)
        known = ", ".join(sorted(self.alloc | self.free))
        raise BadArgument(f"op: the allocator model knows {known}; got {op!r}")
