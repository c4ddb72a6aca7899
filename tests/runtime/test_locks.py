"""Locks and wait queues of the free-running modes: misuse, and sleeps that are broken off."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from concmem.errors import LockMisuse, MachineClosed
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.locks import FreeMutex, FreeRwSem, FreeWaitQueue
from concmem.runtime.sleeper import Sleeper

from .helpers import Make, error_of, eventually

pytestmark = pytest.mark.timeout(30)


class BrokenOff(BaseException):
    """What breaks a sleep off, as Control-C does."""


class _Insomniac(Sleeper):
    """A sleeper whose sleep is broken off after *meanwhile* has been called."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__()
        self._meanwhile = meanwhile

    def sleep_until(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        self._meanwhile()
        raise BrokenOff


def test_rwsem_misuse(make: Make) -> None:
    """A semaphore that nobody holds can be neither released nor downgraded."""
    sem = make(1).rwsem("sem")
    with pytest.raises(LockMisuse, match="sem: released, but nobody holds it"):
        sem.up()
    with sem.read(), pytest.raises(LockMisuse, match="sem: downgraded, but not held for writing"):
        sem.downgrade()
    with sem.write():
        pass


def test_writer_that_gives_up_lets_readers_in() -> None:
    """Readers queued behind a writer that leaves the queue join the readers inside."""
    behind = threading.Thread(target=lambda: sem.down(False))
    sleepers: list[Sleeper] = []
    sem = FreeRwSem("sem", lambda: sleepers.pop() if sleepers else Sleeper())

    def a_reader_comes() -> None:
        behind.start()
        eventually(lambda: len(sem._waiters) == 2)

    sem.down(False)
    sleepers.append(_Insomniac(a_reader_comes))
    with pytest.raises(BrokenOff):
        sem.down(True)
    behind.join(10)
    stuck = behind.is_alive()
    sem.up()  # lets it in at the latest
    behind.join()
    assert not stuck
    sem.up()
    assert not sem.locked()


def test_writer_that_gives_up_returns_what_it_was_given() -> None:
    """A sleep that is broken off just when the semaphore is handed over gives it back."""
    sleepers: list[Sleeper] = []
    sem = FreeRwSem("sem", lambda: sleepers.pop() if sleepers else Sleeper())
    sem.down(False)
    sleepers.append(_Insomniac(sem.up))
    with pytest.raises(BrokenOff):
        sem.down(True)
    assert not sem.locked()


def test_mutex_waiter_that_gives_up_passes_the_wake_up_on() -> None:
    """A waiter that cannot use its wake-up leaves it to the next one."""
    sleepers: list[Sleeper] = []
    mutex = FreeMutex("mutex", lambda: sleepers.pop() if sleepers else Sleeper())
    next_one = threading.Thread(target=mutex.acquire)

    def woken_with_one_behind() -> None:
        next_one.start()
        eventually(lambda: len(mutex._waiters) == 2)
        mutex.release()

    mutex.acquire()
    sleepers.append(_Insomniac(woken_with_one_behind))
    with pytest.raises(BrokenOff):
        mutex.acquire()
    next_one.join()
    assert mutex.locked()
    mutex.release()


def test_waiter_that_gives_up_passes_the_wake_up_on() -> None:
    """A wake-up that hits a waiter whose sleep is broken off goes to the next one."""
    sleepers: list[Sleeper] = []
    mutex = FreeMutex("mutex", Sleeper)
    queue = FreeWaitQueue(mutex, "queue", lambda: sleepers.pop() if sleepers else Sleeper())
    woken: list[bool] = []

    def wait() -> None:
        with mutex:
            woken.append(queue.wait(10))

    behind = threading.Thread(target=wait)

    def one_behind_then_woken() -> None:
        behind.start()
        eventually(lambda: len(queue._waiters) == 2)
        with mutex:
            assert queue.wake_up() == 1

    sleepers.append(_Insomniac(one_behind_then_woken))
    mutex.acquire()
    with pytest.raises(BrokenOff):
        queue.wait()
    assert mutex.locked()
    mutex.release()
    behind.join()
    assert woken == [True]


@pytest.mark.parametrize("runtime", [FreeRuntime, JitterRuntime])
def test_wait_without_the_lock(make: Make, runtime: type[FreeRuntime]) -> None:
    """wait() without the lock raises, and leaves no ghost that swallows a wake-up."""
    rt = make(1, runtime=runtime)
    for lock in (rt.spinlock("s"), rt.spinlock("i", irqsave=True), rt.mutex("m")):
        queue = rt.waitqueue(lock, "queue")
        with pytest.raises(ExceptionGroup) as caught:
            rt.run([queue.wait])
        assert isinstance(caught.value.exceptions[0], RuntimeError)
        with lock:
            assert queue.wake_up_all() == 0


@pytest.mark.parametrize("lockstat", [False, True])
@pytest.mark.parametrize("runtime", [FreeRuntime, JitterRuntime])
def test_shutdown_does_not_break_a_mutex(
    make: Make, runtime: type[FreeRuntime], lockstat: bool
) -> None:
    """A waiter that is shut down takes its mutex again before it unwinds, from whoever has it."""
    rt = make(2, runtime=runtime, lockstat=lockstat)
    mutex = rt.mutex("mutex")
    queue = rt.waitqueue(mutex, "queue")
    go, asleep, held = (threading.Event() for _ in range(3))

    def sleeps() -> None:
        with mutex:
            asleep.set()
            queue.wait()

    def holds() -> bool:
        with mutex:
            held.set()
            go.wait()  # no point: this CPU does not know of the shutdown
            return mutex.locked()

    sleeper = rt.submit(0, sleeps)
    asleep.wait()
    holder = rt.submit(1, holds)
    held.wait()
    stopper = threading.Thread(target=rt.shutdown)
    stopper.start()
    with pytest.raises(TimeoutError):  # a wrong sleeper ends here, and releases the holder's mutex
        sleeper.exception(0.05)
    go.set()
    stopper.join()
    assert holder.result() is True
    assert type(sleeper.exception()) is MachineClosed
    assert not mutex.locked()


def test_refcount_races(make: Make) -> None:
    """However inc_not_zero and the last drop race, whoever got a reference has one."""
    rt = make(4)
    for _ in range(100):
        count = rt.refcount("count")
        count.add(True)
        live = rt.cell(True, "live")

        def drop() -> bool:
            last = count.dec_and_test()  # noqa: B023
            if last:
                live.value = False  # noqa: B023
            return last

        def get_and_put() -> tuple[bool, bool]:
            if not count.inc_not_zero():  # noqa: B023
                return True, False
            alive = live.value  # noqa: B023
            return alive, drop()

        first, *rest = rt.run([drop, get_and_put, get_and_put, get_and_put])
        assert all(alive for alive, _ in rest)
        assert first + sum(last for _, last in rest) == 1
        assert count.read() == 0


def test_two_counts_are_never_equal(make: Make) -> None:
    """Refcounts compare by identity and can be keys."""
    rt = make(1)
    one, other = rt.refcount("one"), rt.refcount("other")
    assert one != other
    assert len({one, other}) == 2


def test_spinlock_counts_contentions(make: Make) -> None:
    """A spinlock counts the acquisitions that had to wait."""
    rt = make(2)
    lock = rt.spinlock("lock")
    held = threading.Event()

    def holds() -> None:
        with lock:
            held.set()
            rt.submit(1, lock.acquire)
            eventually(lambda: not rt.cpus[1].tasks)

    rt.run([holds])
    rt.submit(1, lock.release).result()
    assert held.is_set()
    assert lock.contentions in (0, 1)  # CPU 1 has the task, but may not have come to the lock yet
    assert isinstance(error_of(lock.release), RuntimeError)
