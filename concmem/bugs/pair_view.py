"""What planted bugs put in the place of a pair that they exchange in a wrong way."""

from __future__ import annotations

from concmem.runtime.api import Pair


class PairView:
    """A pair, but for `try_cmpxchg`, which a subclass gets wrong."""

    __slots__ = ("_pair", "set")

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.set = pair.set

    @property
    def first(self) -> int:
        return self._pair.first

    @first.setter
    def first(self, value: int) -> None:
        self._pair.first = value

    @property
    def second(self) -> int:
        return self._pair.second

    @second.setter
    def second(self, value: int) -> None:
        self._pair.second = value
