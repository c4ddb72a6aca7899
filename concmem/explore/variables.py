"""Cells, atomics, reference counts, pairs and memory words of the controlled mode: a point, then the access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from concmem.explore import operation as op

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

T = TypeVar("T")


class ControlledCell(Generic[T]):
    """READ_ONCE / WRITE_ONCE."""

    __slots__ = ("_ex", "name", "now")

    def __init__(self, ex: Execution, value: T, name: str) -> None:
        self._ex = ex
        self.now = value
        """The value, for who looks from outside: no point."""
        self.name = name

    @property
    def value(self) -> T:
        me = self._ex.current
        if me is not None:
            me.kind = op.READ
            me.object = self
            self._ex.point(me)
        return self.now

    @value.setter
    def value(self, new: T) -> None:
        me = self._ex.current
        if me is not None:
            me.kind = op.WRITE
            me.object = self
            self._ex.point(me)
        self.now = new


class ControlledAtomic(ControlledCell[int]):
    """``atomic_long_t``."""

    __slots__ = ()

    def _update(self) -> None:
        me = self._ex.current
        if me is not None:
            me.kind = op.UPDATE
            me.object = self
            self._ex.point(me)

    def add_return(self, n: int) -> int:
        self._update()
        self.now += n
        return self.now

    def add(self, n: int) -> None:
        self.add_return(n)

    def inc(self) -> None:
        self.add_return(1)

    def dec(self) -> None:
        self.add_return(-1)

    def xchg(self, new: int) -> int:
        self._update()
        old, self.now = self.now, new
        return old

    def cmpxchg(self, old: int, new: int) -> int:
        self._update()
        found = self.now
        if found == old:
            self.now = new
        return found


class ControlledRefcount:
    """``refcount_t``."""

    __slots__ = ("_ex", "name", "now")

    def __init__(self, ex: Execution, name: str) -> None:
        self._ex = ex
        self.name = name
        self.now = 0

    def _point(self, kind: str) -> None:
        me = self._ex.current
        if me is not None:
            me.kind = kind
            me.object = self
            self._ex.point(me)

    def add(self, first: bool, /) -> None:
        self._point(op.UPDATE)
        self.now += 1

    def inc_not_zero(self) -> bool:
        self._point(op.UPDATE)
        if not self.now:
            return False
        self.now += 1
        return True

    def dec_and_test(self) -> bool:
        self._point(op.UPDATE)
        if not self.now:
            raise LookupError(f"{self.name}: a reference too many was dropped")
        self.now -= 1
        return not self.now

    def read(self) -> int:
        self._point(op.READ)
        return self.now

    def __len__(self) -> int:
        return self.now

    def __bool__(self) -> bool:
        return True


class ControlledPair:
    """Two words that change together; each half may be read alone."""

    __slots__ = ("_ex", "name", "now")

    def __init__(self, ex: Execution, first: int, second: int, name: str) -> None:
        self._ex = ex
        self.now = (first, second)
        self.name = name

    def _point(self, kind: str) -> None:
        me = self._ex.current
        if me is not None:
            me.kind = kind
            me.object = self
            self._ex.point(me)

    @property
    def first(self) -> int:
        self._point(op.READ)
        return self.now[0]

    @first.setter
    def first(self, value: int) -> None:
        self._point(op.UPDATE)
        self.now = (value, self.now[1])

    @property
    def second(self) -> int:
        self._point(op.READ)
        return self.now[1]

    @second.setter
    def second(self, value: int) -> None:
        self._point(op.UPDATE)
        self.now = (self.now[0], value)

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        self._point(op.UPDATE)
        if self.now != (old_first, old_second):
            return False
        self.now = (new_first, new_second)
        return True

    def set(self, first: int, second: int, /) -> None:
        self._point(op.WRITE)
        self.now = (first, second)


class Word:
    """One word of shared memory, as the object of an operation."""

    __slots__ = ("_memory", "index", "name")

    def __init__(self, memory: memoryview, index: int, name: str) -> None:
        self._memory = memory
        self.index = index
        self.name = f"{name}[{index:#x}]"

    @property
    def now(self) -> int:
        return self._memory[self.index]


class ControlledWords:
    """Memory words; views of the same memory share the objects of their operations."""

    __slots__ = ("_ex", "_memory", "_name", "_words")

    def __init__(self, ex: Execution, memory: memoryview, words: dict[int, Any], name: str) -> None:
        self._ex = ex
        self._memory = memory
        self._words = words
        self._name = name

    def _point(self, kind: str, index: int) -> None:
        me = self._ex.current
        if me is not None:
            word = self._words.get(index)
            if word is None:
                word = self._words[index] = Word(self._memory, index, self._name)
            me.kind = kind
            me.object = word
            self._ex.point(me)

    def __getitem__(self, index: int, /) -> int:
        self._point(op.READ, index)
        return self._memory[index]

    def __setitem__(self, index: int, value: int, /) -> None:
        self._point(op.WRITE, index)
        self._memory[index] = value
