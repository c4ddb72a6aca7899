"""Cells, atomics and reference counts of the free-running modes."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class FreeCell(Generic[T]):
    """READ_ONCE / WRITE_ONCE: one attribute access is indivisible in CPython, with or without GIL."""

    __slots__ = ("name", "value")

    def __init__(self, value: T, name: str) -> None:
        self.value = value
        self.name = name


class FreeAtomic:
    """``atomic_long_t``: a tiny lock for what writes; a read is one attribute access."""

    __slots__ = ("_lock", "_value", "name")

    def __init__(self, value: int, name: str) -> None:
        self._value = value
        self.name = name
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        return self._value

    @value.setter
    def value(self, new: int) -> None:
        self.xchg(new)  # under the lock: a store between somebody's load and store would be lost

    def add_return(self, n: int) -> int:
        with self._lock:
            self._value = value = self._value + n
        return value

    def add(self, n: int) -> None:
        self.add_return(n)

    def inc(self) -> None:
        self.add_return(1)

    def dec(self) -> None:
        self.add_return(-1)

    def xchg(self, new: int) -> int:
        with self._lock:
            old, self._value = self._value, new
        return old

    def cmpxchg(self, old: int, new: int) -> int:
        with self._lock:
            found = self._value
            if found == old:
                self._value = new
        return found


class FreePair:
    """Two words that several CPUs compare and exchange: a tiny lock for what writes."""

    __slots__ = ("_lock", "first", "name", "second")

    def __init__(self, first: int, second: int, name: str) -> None:
        self.first = first
        self.second = second
        self.name = name
        self._lock = threading.Lock()

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        with self._lock:
            if self.first != old_first or self.second != old_second:
                return False
            self.first = new_first
            self.second = new_second
            return True

    def set(self, first: int, second: int, /) -> None:
        with self._lock:
            self.first = first
            self.second = second


class FreeThisCpuPair:
    """
    Two words that one CPU compares and exchanges.

    No lock: nobody else writes, and interrupts come at points only, of which there is none inside.
    """

    __slots__ = ("first", "name", "second")

    def __init__(self, first: int, second: int, name: str) -> None:
        self.first = first
        self.second = second
        self.name = name

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        if self.first == old_first and self.second == old_second:
            self.first = new_first
            self.second = new_second
            return True
        return False

    def set(self, first: int, second: int, /) -> None:
        self.first = first
        self.second = second


class FreeRefcount(list[bool]):
    """
    ``refcount_t`` as a stack of tokens, of which the bottom one, True, is the first reference.

    Appending and popping are indivisible and C functions, so this is several times faster than a
    counter under a lock, and the one CPU that pops True knows that it dropped the last reference.
    """

    __slots__ = ()

    def __init__(self, name: str) -> None:
        super().__init__()

    add = list.append
    dec_and_test = list.pop

    def inc_not_zero(self) -> bool:
        # Push first, look then. True at the bottom: there was a reference, and now there is ours.
        # Else there was none when we pushed, and one False is ours to take back, wherever it is:
        # tokens are as good as each other. If there is none left, somebody dropped a reference that
        # was counted after our push, by popping our token, and left what was counted to us: so
        # we hold it.
        self.append(False)
        try:
            if self[0]:
                return True
        except IndexError:  # only after a free too many
            return False
        try:
            self.remove(False)
        except ValueError:
            return True
        return False

    def read(self) -> int:
        return len(self)

    # Two counts are never equal, only the same: what a list would compare is of no interest.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__  # type: ignore[assignment]
