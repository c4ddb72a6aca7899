"""Lock statistics agree with what the tests count themselves, and name the right functions."""

from __future__ import annotations

import threading
from collections import Counter
from functools import partial
from typing import Any

import pytest

from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.lockstat import LockClassStatistics, LockTimes

from .helpers import Make, error_of

pytestmark = pytest.mark.timeout(30)

RUNTIMES = pytest.mark.parametrize("runtime", [FreeRuntime, JitterRuntime])
KINDS = pytest.mark.parametrize("kind", ["spinlock", "irqsave", "mutex"])


def _lock(rt: FreeRuntime, kind: str, name: str = "lock") -> Any:
    return rt.mutex(name) if kind == "mutex" else rt.spinlock(name, kind == "irqsave")


def _row(rt: FreeRuntime, name: str = "lock") -> LockClassStatistics:
    assert rt.lockstat is not None
    [row] = [row for row in rt.lockstat.statistics() if row.name == name]
    return row


def _check_times(times: LockTimes) -> None:
    """The four numbers of some times fit together."""
    if times.nr:
        assert 0 < times.min <= times.average <= times.max <= times.total
        assert times.min * times.nr <= times.total <= times.max * times.nr
    else:
        assert times == (0, 0, 0, 0)


@RUNTIMES
@KINDS
def test_counts_agree_with_a_naive_count(make: Make, runtime: Any, kind: str) -> None:
    """Acquisitions, bounces and holds are what the bodies counted under the lock."""
    rt = make(4, runtime=runtime, lockstat=True)
    lock = _lock(rt, kind)
    acquired: Counter[int] = Counter()  # under lock
    bounces, last = [0], [-1]  # under lock

    def count(cpu: int) -> None:
        acquired[cpu] += 1
        bounces[0] += last[0] not in (-1, cpu)
        last[0] = cpu

    def body() -> int:
        tried = 0
        for turn in range(100):
            cpu = rt.smp_processor_id()
            if turn % 3:
                with lock:
                    count(cpu)
            elif lock.trylock():
                count(cpu)
                lock.release()
            else:
                tried += 1
        return tried

    refused = sum(rt.run([body] * 4))
    row = _row(rt)
    assert row.acquisitions == sum(acquired.values()) == 400 - refused
    assert row.hold.nr == row.acquisitions
    assert row.acq_bounces == bounces[0]
    assert row.contentions == row.wait.nr <= row.acquisitions
    assert row.con_bounces <= row.contentions
    assert sum(nr for _, nr in row.contention_points) == row.contentions
    assert sum(nr for _, nr in row.contending_points) == row.contentions
    _check_times(row.hold)
    _check_times(row.wait)


class _Spy:
    """The lock inside a `StatLock`, telling when it was found taken."""

    def __init__(self, inner: Any, found_taken: threading.Event) -> None:
        self.inner, self.found_taken = inner, found_taken
        self.release, self.locked, self.acquire = inner.release, inner.locked, inner.acquire

    def trylock(self) -> bool:
        got = bool(self.inner.trylock())
        if not got:
            self.found_taken.set()
        return got


@KINDS
def test_forced_contention(make: Make, kind: str) -> None:
    """One CPU waits for a lock that another holds: one contention, with time, who and where."""
    rt = make(2, lockstat=True)
    lock = _lock(rt, kind)
    held, found_taken = threading.Event(), threading.Event()
    stat = getattr(lock, "_inner", lock) if kind == "irqsave" else lock
    stat._inner = _Spy(stat._inner, found_taken)

    def hold() -> None:
        with lock:
            held.set()
            found_taken.wait()

    def take() -> None:
        held.wait()
        with lock:
            pass

    rt.run([hold, take])
    row = _row(rt)
    assert (row.acquisitions, row.contentions) == (2, 1)
    assert (row.acq_bounces, row.con_bounces) == (1, 1)
    assert row.wait.total > 0
    assert row.hold.min > 0
    here = "test_forced_contention.<locals>"
    assert row.contention_points == ((f"{here}.take", 1),)
    assert row.contending_points == ((f"{here}.hold", 1),)
    _check_times(row.wait)
    _check_times(row.hold)
    assert rt.lockstat is not None
    waits = rt.lockstat.waits()
    assert waits["lock"] == (1, row.wait.total)
    # The runtime's own locks may have been waited for, too; those that never were are not in it.
    assert waits.keys() == {each.name for each in rt.lockstat.statistics() if each.contentions}


def test_reader_writer_rows(make: Make) -> None:
    """A reader-writer semaphore has a row for each side, with holds and forced contention."""
    rt = make(2, lockstat=True)
    sem = rt.rwsem("sem")
    held = rt.cell(False, "held")

    def writes() -> None:
        with sem.write():
            held.value = True
            while not sem._waiters:
                rt.cpu_relax()

    def reads() -> None:
        while not held.value:
            rt.cpu_relax()
        with sem.read():
            pass

    rt.run([writes, reads])
    with sem.read(), sem.read():
        pass
    writer, reader = _row(rt, "sem-W"), _row(rt, "sem-R")
    assert (writer.acquisitions, writer.contentions, writer.hold.nr) == (1, 0, 1)
    assert (reader.acquisitions, reader.contentions, reader.hold.nr) == (3, 1, 3)
    assert reader.contention_points == (("test_reader_writer_rows.<locals>.reads", 1),)
    assert reader.contending_points == (("test_reader_writer_rows.<locals>.writes", 1),)
    assert reader.wait.total > 0
    assert writer.hold.total > 0


def test_contention_of_waiters(make: Make) -> None:
    """A waiter gives its lock up while it sleeps: that time is no hold, and the names are ours."""
    rt = make(2, lockstat=True)
    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")
    ready = [False]

    def sleeps() -> None:
        with lock:
            queue.wait_for(lambda: ready[0])

    def wakes() -> None:
        with lock:
            ready[0] = True
            queue.wake_up_all()

    rt.run([sleeps, wakes])
    row = _row(rt)
    # 3 times if it slept, 2 if it found the condition true at once
    assert row.acquisitions == row.hold.nr
    assert row.acquisitions in (2, 3)
    names = {name.rpartition(".")[2] for name, _ in row.contention_points}
    assert names <= {"sleeps", "wakes"}


def test_classes_are_summed(make: Make) -> None:
    """Locks of one name are one row; locks never taken have none; the busiest come first."""
    rt = make(1, lockstat=True)
    locks = [rt.spinlock("many") for _ in range(3)]
    once = rt.mutex("once")
    rt.spinlock("never")

    def body() -> None:
        for lock in [*locks, *locks, once]:
            with lock:
                pass

    rt.run([body])
    assert rt.lockstat is not None
    rows = rt.lockstat.statistics()
    assert [(row.name, row.acquisitions) for row in rows] == [("many", 6), ("once", 1)]


@RUNTIMES
def test_misuse_is_not_counted(make: Make, runtime: Any) -> None:
    """Releasing a lock that nobody holds is an error and no hold."""
    rt = make(1, runtime=runtime, lockstat=True)
    lock = rt.spinlock("lock")

    def body() -> bool:
        with lock:
            pass
        return isinstance(error_of(lock.release), RuntimeError)

    assert rt.run([body]) == [True]
    assert (_row(rt).acquisitions, _row(rt).hold.nr) == (1, 1)


@RUNTIMES
def test_free_mutex_in_atomic_context(make: Make, runtime: Any) -> None:
    """Statistics change no behaviour: a mutex may sleep, so an irq-off section may not take it."""
    for lockstat in (False, True):
        rt = make(1, runtime=runtime, lockstat=lockstat)
        mutex = rt.mutex("mutex")

        def body() -> str:
            rt.local_irq_save()  # noqa: B023
            return type(error_of(mutex.acquire)).__name__  # noqa: B023

        assert rt.run([body]) == ["SleepInAtomic"], f"lockstat={lockstat}"


def test_a_thread_that_is_no_cpu(make: Make) -> None:
    """Boot code takes locks before any CPU runs; it counts as one more CPU."""
    rt = make(2, lockstat=True)
    lock = rt.spinlock("lock")
    for take in (partial(lock.__enter__), partial(rt.run, [lock.acquire])):
        take()
        rt.run([lock.release])
    row = _row(rt)
    assert (row.acquisitions, row.acq_bounces) == (2, 1)


def test_without_statistics_there_is_no_clock(make: Make) -> None:
    """A runtime without lock statistics keeps none."""
    assert make(1).lockstat is None
