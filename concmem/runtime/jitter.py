"""
The free-running mode with hesitations, for interpreters with a GIL.

Plain threads under a GIL are nearly blind: the interpreter switches every 5 ms, and not between the
load and the store of ``nr_free += 1``. Here each primitive, and each access of a watched field whose
guard the CPU does not hold, hesitates now and then, before the operation, and takes interrupts. The
order of events is still the host's: a seed makes the hesitations repeat, not the run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import sleep
from typing import Any, Final, TypeVar

from concmem.errors import BadArgument, LockMisuse
from concmem.runtime import api
from concmem.runtime.cpu import Cpu
from concmem.runtime.free import FreeRuntime
from concmem.runtime.guarded import watched_class
from concmem.runtime.locks import LockBase
from concmem.runtime.variables import (
    FreeAtomic,
    FreeCell,
    FreePair,
    FreeRefcount,
    FreeThisCpuPair,
)

T = TypeVar("T")

HESITATION: Final = 0.02
"""Probability of a hesitation at a point."""

LONG_HESITATION: Final = 0.1
"""Of these, the share that lasts longer than giving up the GIL once."""

LONGEST: Final = 200e-6
"""Seconds of the longest hesitation."""


class JitterLock(LockBase):
    """A lock that hesitates before each operation and knows its holder."""

    __slots__ = ("_hesitate", "_inner", "_spins", "holder", "name")

    def __init__(
        self, inner: api.Lock, hesitate: Callable[[], Cpu | None], spins: bool = False
    ) -> None:
        self._spins = spins
        self._inner = inner
        self._hesitate = hesitate
        self.name = inner.name
        self.holder: Cpu | None = None  # under the lock

    def acquire(self) -> None:
        cpu = self._hesitate()
        # No lock: `holder` is this CPU only while this CPU holds the lock.
        if cpu is not None and self.holder is cpu:
            raise LockMisuse(f"{self.name}: {cpu.name} holds it already and would wait for itself")
        self._inner.acquire()
        self._taken(cpu)

    def _taken(self, cpu: Cpu | None) -> None:
        self.holder = cpu
        if cpu is not None and self._spins:
            cpu.spinlocks_held += 1

    def trylock(self) -> bool:
        cpu = self._hesitate()
        if self._inner.trylock():
            self._taken(cpu)
            return True
        return False

    def release(self) -> None:
        cpu = self._hesitate()
        if self.holder is not cpu:
            raise LockMisuse(f"{self.name}: released by a CPU that does not hold it")
        if cpu is not None and self._spins:
            # Not below 0: it was reset when a body ended that held this lock.
            cpu.spinlocks_held = max(0, cpu.spinlocks_held - 1)
        self.holder = None
        self._inner.release()

    def locked(self) -> bool:
        return self._inner.locked()


class JitterRuntime(FreeRuntime):
    """
    A :class:`~concmem.runtime.free.FreeRuntime` that hesitates.

    Args:
        hesitation: probability of a hesitation at a point, 0 to 1.
    """

    name = "jitter"

    def __init__(
        self,
        nr_cpus: int = 4,
        *,
        seed: int = 0,
        lockstat: bool = False,
        lockdep: bool = False,
        pin: bool = False,
        hesitation: float = HESITATION,
    ) -> None:
        if not 0 <= hesitation <= 1:
            raise BadArgument(f"hesitation: must be 0 to 1, got {hesitation!r}")
        self._hesitation = hesitation
        self._watched: dict[type, type] = {}
        self._rngs: dict[int, random.Random] = {}
        super().__init__(nr_cpus, seed=seed, lockstat=lockstat, lockdep=lockdep, pin=pin)

    def hesitate(self) -> Cpu | None:
        """A point: perhaps let others run, then take interrupts. The CPU, if on one."""
        if not self.on_cpu():
            return None
        cpu = self.this_cpu()
        rng = self._rngs.get(cpu.number)
        if rng is None:
            rng = self._rngs[cpu.number] = self.rng(f"jitter/{cpu.number}")
        if rng.random() < self._hesitation:
            sleep(rng.random() * LONGEST if rng.random() < LONG_HESITATION else 0)
        if cpu.attention:
            cpu.take_interrupts()
        return cpu

    def _on_access(self, guard: Any, field: str, is_write: bool) -> None:
        """A watched field is accessed: hesitate, unless its guard keeps others away."""
        # No lock: `holder` is this CPU only while this CPU holds the guard.
        # A reader-writer semaphore does not know its holders.
        holder = getattr(guard, "holder", None)
        if holder is None or not self.on_cpu() or holder is not self.this_cpu():
            self.hesitate()

    def watch(self, obj: T) -> T:
        super().watch(obj)
        cls = type(obj)
        watched = self._watched.get(cls)
        if watched is None:
            watched = self._watched[cls] = watched_class(cls, self._on_access)
            self._watched[watched] = watched  # watching it again changes nothing
        obj.__class__ = watched
        return obj

    def _make_spinlock(self, name: str) -> api.Lock:
        return JitterLock(super()._make_spinlock(name), self.hesitate, spins=True)

    def _make_mutex(self, name: str) -> api.Lock:
        return JitterLock(super()._make_mutex(name), self.hesitate)

    def refcount(self, name: str) -> api.Refcount:
        return _JitterRefcount(name, self.hesitate)

    def pair(self, first: int, second: int, name: str) -> api.Pair:
        return _JitterPair(FreePair(first, second, name), self.hesitate)

    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        return _JitterPair(FreeThisCpuPair(first, second, name), self.hesitate)

    def watch_words(self, words: memoryview, name: str) -> api.Words:
        return _JitterWords(words, self.hesitate)

    def cell(self, value: T, name: str) -> api.Cell[T]:
        return _JitterCell(value, name, self.hesitate)

    def atomic(self, value: int, name: str) -> api.Atomic:
        return _JitterAtomic(value, name, self.hesitate)


class _JitterCell(FreeCell[T]):
    __slots__ = ("_hesitate", "_value")

    def __init__(self, value: T, name: str, hesitate: Callable[[], Cpu | None]) -> None:
        self._hesitate = hesitate
        super().__init__(value, name)

    @property
    def value(self) -> T:
        self._hesitate()
        return self._value

    @value.setter
    def value(self, new: T) -> None:
        self._hesitate()
        self._value = new


class _JitterAtomic(FreeAtomic):
    __slots__ = ("_hesitate",)

    def __init__(self, value: int, name: str, hesitate: Callable[[], Cpu | None]) -> None:
        super().__init__(value, name)
        self._hesitate = hesitate

    @property
    def value(self) -> int:
        self._hesitate()
        return self._value

    @value.setter
    def value(self, new: int) -> None:
        self.xchg(new)

    def add_return(self, n: int) -> int:
        self._hesitate()
        return super().add_return(n)

    def xchg(self, new: int) -> int:
        self._hesitate()
        return super().xchg(new)

    def cmpxchg(self, old: int, new: int) -> int:
        self._hesitate()
        return super().cmpxchg(old, new)


class _JitterPair:
    """A pair that hesitates before each access."""

    __slots__ = ("_hesitate", "_inner", "name")

    def __init__(
        self, inner: FreePair | FreeThisCpuPair, hesitate: Callable[[], Cpu | None]
    ) -> None:
        self._inner = inner
        self._hesitate = hesitate
        self.name = inner.name

    @property
    def first(self) -> int:
        self._hesitate()
        return self._inner.first

    @first.setter
    def first(self, value: int) -> None:
        self._hesitate()
        self._inner.first = value

    @property
    def second(self) -> int:
        self._hesitate()
        return self._inner.second

    @second.setter
    def second(self, value: int) -> None:
        self._hesitate()
        self._inner.second = value

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        self._hesitate()
        return self._inner.try_cmpxchg(old_first, old_second, new_first, new_second)

    def set(self, first: int, second: int, /) -> None:
        self._hesitate()
        self._inner.set(first, second)


class _JitterWords:
    """Memory words that hesitate before each access."""

    __slots__ = ("_hesitate", "_words")

    def __init__(self, words: memoryview, hesitate: Callable[[], Cpu | None]) -> None:
        self._words = words
        self._hesitate = hesitate

    def __getitem__(self, index: int, /) -> int:
        self._hesitate()
        return self._words[index]

    def __setitem__(self, index: int, value: int, /) -> None:
        self._hesitate()
        self._words[index] = value


class _JitterRefcount(FreeRefcount):
    __slots__ = ("_hesitate",)

    def __init__(self, name: str, hesitate: Callable[[], Cpu | None]) -> None:
        super().__init__(name)
        self._hesitate = hesitate

    def add(self, first: bool, /) -> None:
        self._hesitate()
        self.append(first)

    def dec_and_test(self) -> bool:  # type: ignore[override]  # list.pop takes an index
        self._hesitate()
        return self.pop()

    def inc_not_zero(self) -> bool:
        self._hesitate()
        return super().inc_not_zero()
