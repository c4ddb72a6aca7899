"""
Lock statistics, as CONFIG_LOCK_STAT keeps them: by lock class, with wait and hold times.

Chosen at construction (``lockstat=True``): the locks of a runtime without it carry no clock.
Times are host nanoseconds. Every counter of a lock is written while that lock is held, so the
counters need no lock of their own; a reader may see one acquisition more in one than in another.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from time import perf_counter_ns
from types import TracebackType
from typing import Final, NamedTuple

from concmem.runtime import api
from concmem.runtime.locks import FreeRwSem, LockBase
from concmem.runtime.sleeper import Sleeper


class LockTimes(NamedTuple):
    """Some times, in nanoseconds. ``min`` is 0 when there were none."""

    nr: int
    min: int
    max: int
    total: int

    @property
    def average(self) -> float:
        return self.total / self.nr if self.nr else 0.0


class LockClassStatistics(NamedTuple):
    """All locks of one class, summed."""

    name: str
    """Class name; reader-writer locks have two rows, ``name-W`` and ``name-R``."""
    con_bounces: int
    """Contentions whose waiter was another CPU than the last holder."""
    contentions: int
    wait: LockTimes
    acq_bounces: int
    """Acquisitions by another CPU than the one before."""
    acquisitions: int
    hold: LockTimes
    contention_points: tuple[tuple[str, int], ...]
    """Functions that had to wait, with how often, most first."""
    contending_points: tuple[tuple[str, int], ...]
    """Functions that held the lock meanwhile, with how often, most first."""


class _Times:
    __slots__ = ("count", "max", "min", "total")

    def __init__(self) -> None:
        self.count = self.total = self.min = self.max = 0

    def add(self, ns: int) -> None:
        if not self.count or ns < self.min:
            self.min = ns
        if ns > self.max:
            self.max = ns
        self.count += 1
        self.total += ns

    @staticmethod
    def sum(times: list[_Times]) -> LockTimes:
        used = [t for t in times if t.count]
        return LockTimes(
            sum(t.count for t in used),
            min((t.min for t in used), default=0),
            max((t.max for t in used), default=0),
            sum(t.total for t in used),
        )


class LockUse:
    """The counters of one lock (or of one side of a reader-writer lock)."""

    __slots__ = (
        "acq_bounces",
        "acquisitions",
        "con_bounces",
        "contended_at",
        "contending",
        "hold",
        "last_cpu",
        "wait",
    )

    def __init__(self) -> None:
        self.acquisitions = self.acq_bounces = self.con_bounces = 0
        self.last_cpu = -1
        self.wait = _Times()
        self.hold = _Times()
        self.contended_at: Counter[str] = Counter()
        self.contending: Counter[str] = Counter()

    def acquired(self, cpu: int) -> None:
        """Called with the lock held."""
        self.acquisitions += 1
        if cpu != self.last_cpu:
            self.acq_bounces += self.last_cpu >= 0
            self.last_cpu = cpu

    def contended(self, cpu: int, waited_ns: int, at: str, holder: str) -> None:
        """Called with the lock held, after the wait and before :meth:`acquired`."""
        self.wait.add(waited_ns)
        self.con_bounces += cpu != self.last_cpu
        self.contended_at[at] += 1
        self.contending[holder] += 1


class LockStat:
    """The lock classes of one runtime."""

    def __init__(self) -> None:
        self._classes: dict[str, list[LockUse]] = {}

    def register(self, name: str) -> LockUse:
        """The counters for a new lock of class *name*."""
        use = LockUse()
        self._classes.setdefault(name, []).append(use)
        return use

    def statistics(self) -> list[LockClassStatistics]:
        """Every class that was ever acquired, most contended first."""
        rows = [_sum(name, list(uses)) for name, uses in list(self._classes.items())]
        rows = [row for row in rows if row.acquisitions]
        rows.sort(key=lambda row: (-row.contentions, -row.acquisitions, row.name))
        return rows

    def waits(self) -> dict[str, tuple[int, int]]:
        """Contentions and nanoseconds waited of each class that was ever waited for: a quick look."""
        times = {
            name: [use.wait for use in list(uses)] for name, uses in list(self._classes.items())
        }
        sums = {
            name: (sum(t.count for t in waits), sum(t.total for t in waits))
            for name, waits in times.items()
        }
        return {name: (nr, ns) for name, (nr, ns) in sums.items() if nr}


def _sum(name: str, uses: list[LockUse]) -> LockClassStatistics:
    wait = _Times.sum([use.wait for use in uses])
    contended_at: Counter[str] = Counter()
    contending: Counter[str] = Counter()
    for use in uses:
        contended_at.update(dict(use.contended_at))
        contending.update(dict(use.contending))
    return LockClassStatistics(
        name=name,
        con_bounces=sum(use.con_bounces for use in uses),
        contentions=wait.nr,
        wait=wait,
        acq_bounces=sum(use.acq_bounces for use in uses),
        acquisitions=sum(use.acquisitions for use in uses),
        hold=_Times.sum([use.hold for use in uses]),
        contention_points=tuple(contended_at.most_common()),
        contending_points=tuple(contending.most_common()),
    )


_RUNTIME: Final = __file__.rpartition("lockstat")[0]


def _caller() -> str:
    """The function that takes the lock: the innermost frame outside the runtime."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_RUNTIME) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_qualname


class StatLock(LockBase):
    """A spinlock, or with a *sleeper* a mutex, with a clock."""

    __slots__ = ("_cpu", "_holder", "_inner", "_since", "_sleeper", "_use", "name")

    def __init__(
        self,
        inner: api.Lock,
        use: LockUse,
        cpu: Callable[[], int],
        sleeper: Callable[[], Sleeper] | None = None,
    ) -> None:
        self._inner = inner
        self._sleeper = sleeper
        self._use = use
        self._cpu = cpu
        self.name = inner.name
        # under the lock
        self._since = 0
        self._holder = ""

    def _acquire(self, caller: str) -> None:
        if self._sleeper is not None:
            self._sleeper().assert_may_sleep()  # also where the lock is free and trylock succeeds
        cpu = self._cpu()
        if not self._inner.trylock():
            holder = self._holder  # no lock: a hint for the report, whoever it was lately
            start = perf_counter_ns()
            self._inner.acquire()
            self._use.contended(cpu, perf_counter_ns() - start, caller, holder)
        self._taken(cpu, caller)

    def _taken(self, cpu: int, caller: str) -> None:
        self._use.acquired(cpu)
        self._holder = caller
        self._since = perf_counter_ns()

    def acquire(self) -> None:
        self._acquire(_caller())

    def __enter__(self) -> None:
        self._acquire(_caller())

    def trylock(self) -> bool:
        if not self._inner.trylock():
            return False
        self._taken(self._cpu(), _caller())
        return True

    def release(self) -> None:
        if self._inner.locked():
            self._use.hold.add(perf_counter_ns() - self._since)
        self._inner.release()

    def locked(self) -> bool:
        return self._inner.locked()


class StatRwSem(FreeRwSem):
    """A reader-writer lock with a clock for each side."""

    __slots__ = ("_cpu", "_holder", "_read_use", "_write_use")

    def __init__(
        self, name: str, sleeper: Callable[[], Sleeper], stat: LockStat, cpu: Callable[[], int]
    ) -> None:
        super().__init__(name, sleeper)
        self._cpu = cpu
        self._holder = ""  # under _state
        self._read_use = stat.register(f"{name}-R")
        self._write_use = stat.register(f"{name}-W")

    def read(self) -> _StatSide:  # type: ignore[override]
        return _StatSide(self, False)

    def write(self) -> _StatSide:  # type: ignore[override]
        return _StatSide(self, True)

    def timed_down(self, write: bool, caller: str) -> None:
        use = self._write_use if write else self._read_use
        cpu = self._cpu()
        holder = self._holder  # no lock: a hint for the report, whoever it was lately
        start = perf_counter_ns()
        waited = self.down(write)
        elapsed = perf_counter_ns() - start
        with self._state:  # readers share the lock, so their counters need it
            if waited:
                use.contended(cpu, elapsed, caller, holder)
            use.acquired(cpu)
            self._holder = caller

    def timed_up(self, write: bool, held_ns: int) -> None:
        with self._state:
            (self._write_use if write else self._read_use).hold.add(held_ns)
        self.up()


class _StatSide:
    """One ``with`` of a :class:`StatRwSem`."""

    __slots__ = ("_sem", "_since", "_write")

    def __init__(self, sem: StatRwSem, write: bool) -> None:
        self._sem = sem
        self._write = write
        self._since = 0

    def __enter__(self) -> None:
        self._sem.timed_down(self._write, _caller())
        self._since = perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sem.timed_up(self._write, perf_counter_ns() - self._since)
