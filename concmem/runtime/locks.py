"""
The locks of the free-running modes, on top of ``threading.Lock``.

A spinlock is the bare lock. The sleeping ones (mutex, reader-writer lock, wait queue) put the
calling CPU to sleep on its own condition, so that it takes interrupts while it waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from types import TracebackType

from concmem.errors import LockMisuse
from concmem.runtime.api import Lock, nested
from concmem.runtime.sleeper import Sleeper, Waiter


class LockBase:
    """``with lock:``, for anything with `acquire` and `release`."""

    __slots__ = ()

    def acquire(self) -> None:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class FreeSpinlock:
    """
    ``spinlock_t`` as a ``threading.Lock``.

    A CPU that waits for one takes no interrupts meanwhile, as with ``spin_lock_irqsave``.
    `trylock`, `release` and `locked` are the C functions themselves: hot paths call nothing else.
    """

    __slots__ = ("_lock", "contentions", "locked", "name", "release", "trylock")

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = lock = threading.Lock()
        self.contentions = 0  # under the lock
        self.trylock: Callable[[], bool] = partial(lock.acquire, False)
        self.release: Callable[[], None] = lock.release
        self.locked: Callable[[], bool] = lock.locked

    def acquire(self) -> None:
        if not self._lock.acquire(False):
            self._lock.acquire()
            self.contentions += 1

    __enter__ = acquire

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class FreeMutex(LockBase):
    """
    ``struct mutex``: the holder may sleep, and so do waiters.

    No wake-up is lost: a waiter queues itself and *then* tries the lock again, a releaser frees
    the lock and *then* looks at the queue. In every order, one of the two sees the other.
    """

    __slots__ = ("_lock", "_sleeper", "_waiters", "contentions", "name")

    def __init__(self, name: str, sleeper: Callable[[], Sleeper]) -> None:
        self.name = name
        self._lock = threading.Lock()
        self.contentions = 0  # under the lock
        self._sleeper = sleeper
        self._waiters: deque[Waiter] = deque()

    def acquire(self) -> None:
        sleeper = self._sleeper()
        sleeper.assert_may_sleep()
        if self._lock.acquire(False):
            return
        while True:
            waiter = Waiter(sleeper)
            self._waiters.append(waiter)
            if self._lock.acquire(False):
                self.contentions += 1
                self._leave(waiter)
                return
            try:
                waiter.sleep()
            except BaseException:
                if not self._leave(waiter):
                    self._wake_next()  # the wake-up we got and cannot use goes to the next
                raise

    def _leave(self, waiter: Waiter) -> bool:
        """Leave the queue; false when a releaser has already taken us off it."""
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return False
        return True

    def trylock(self) -> bool:
        return self._lock.acquire(False)

    def locked(self) -> bool:
        return self._lock.locked()

    def release(self) -> None:
        self._lock.release()
        if self._waiters:
            self._wake_next()

    def _wake_next(self) -> None:
        try:
            waiter = self._waiters.popleft()
        except IndexError:
            return
        waiter.wake()


class FreeRwSem:
    """``struct rw_semaphore``, first come first served, so that writers do not starve."""

    __slots__ = (
        "_read_side",
        "_readers",
        "_sleeper",
        "_state",
        "_waiters",
        "_write_side",
        "_writer",
        "contentions",
        "name",
    )

    def __init__(self, name: str, sleeper: Callable[[], Sleeper]) -> None:
        self.name = name
        self._sleeper = sleeper
        self._read_side = _ReadSide(self)
        self._write_side = _WriteSide(self)
        self._state = threading.Lock()
        # _state: _readers, _writer, _waiters, contentions
        self._readers = 0
        self._writer = False
        self._waiters: deque[tuple[Waiter, bool]] = deque()
        self.contentions = 0

    def read(self) -> _ReadSide:
        return self._read_side  # who holds it is not kept there, so one will do

    def write(self) -> _WriteSide:
        return self._write_side

    def down(self, write: bool) -> bool:
        """Take it, for writing or for reading; whether that had to wait. May sleep."""
        sleeper = self._sleeper()
        sleeper.assert_may_sleep()
        with self._state:
            if not self._waiters and self._grant(write):
                return False
            self.contentions += 1
            waiter = Waiter(sleeper)
            self._waiters.append((waiter, write))
        try:
            waiter.sleep()
        except BaseException:
            self._abandon(waiter, write)
            raise
        return True

    def up(self) -> None:
        """Give it up, whichever way it is held."""
        with self._state:
            if self._writer:
                self._writer = False
            elif self._readers:
                self._readers -= 1
            else:
                raise LockMisuse(f"{self.name}: released, but nobody holds it")
            if not self._waiters:
                return
            woken = self._hand_over()
        for waiter in woken:
            waiter.wake()

    def downgrade(self) -> None:
        """Writer to reader (``downgrade_write``); readers at the head of the queue join."""
        with self._state:
            if not self._writer:
                raise LockMisuse(f"{self.name}: downgraded, but not held for writing")
            self._writer = False
            self._readers = 1
            woken = self._hand_over()
        for waiter in woken:
            waiter.wake()

    def locked(self) -> bool:
        with self._state:
            return self._writer or self._readers > 0

    def _grant(self, write: bool) -> bool:
        """Caller holds _state. Take the lock for somebody if that is possible now."""
        if self._writer or (write and self._readers):
            return False
        if write:
            self._writer = True
        else:
            self._readers += 1
        return True

    def _hand_over(self) -> list[Waiter]:
        """Caller holds _state. The lock is given to waiters *before* they wake: no barging."""
        woken = []
        while self._waiters and self._grant(self._waiters[0][1]):
            woken.append(self._waiters.popleft()[0])
        return woken

    def _abandon(self, waiter: Waiter, write: bool) -> None:
        """The sleep was broken off: leave the queue, or give back what was granted meanwhile."""
        with self._state:
            granted = (waiter, write) not in self._waiters
            if not granted:
                self._waiters.remove((waiter, write))
            woken = self._hand_over()  # we may have stood in the way of readers behind us
        for other in woken:
            other.wake()
        if granted:
            self.up()


class _ReadSide:
    __slots__ = ("_sem",)
    write = False

    def __init__(self, sem: FreeRwSem) -> None:
        self._sem = sem

    def __enter__(self) -> None:
        self._sem.down(self.write)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sem.up()


class _WriteSide(_ReadSide):
    __slots__ = ()
    write = True


class FreeWaitQueue:
    """``wait_queue_head_t``. Everything but the sleep itself happens under `lock`."""

    __slots__ = ("_sleeper", "_waiters", "lock", "name")

    def __init__(self, lock: Lock, name: str, sleeper: Callable[[], Sleeper]) -> None:
        self.lock = lock
        self.name = name
        self._sleeper = sleeper
        self._waiters: deque[Waiter] = deque()

    def wait(
        self, timeout: float | None = None, condition: Callable[[], bool] | None = None
    ) -> bool:
        waiter = Waiter(self._sleeper())
        # Queued before the lock is given up: a waker, who needs the lock, cannot miss us.
        self._waiters.append(waiter)
        try:
            self.lock.release()  # of an irqsave lock: interrupts are enabled from here on
        except BaseException:
            self._waiters.remove(waiter)  # not held: a ghost would swallow somebody's wake-up
            raise
        try:
            waiter.sleep(timeout)
        except BaseException:
            self._take_again(waiter.sleeper)
            if waiter.woken:
                self.wake_up()  # the wake-up we got and cannot use goes to the next
            raise
        else:
            self._take_again(waiter.sleeper)
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
        # Under the lock again: a wake-up that raced with the time-out counts as a wake-up, since
        # the waker counted us.
        return waiter.woken

    def _take_again(self, sleeper: Sleeper) -> None:
        """Take the lock, whatever happens: the caller's ``with`` is going to release it."""
        try:
            self.lock.acquire()
        except BaseException:  # a mutex cannot be slept for any more: shutdown
            while not self.lock.trylock():
                sleeper.give_way()
                sleep(0)
            raise

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        while not predicate():
            remaining = None if deadline is None else deadline - monotonic()
            if remaining is not None and remaining <= 0:
                return False
            self.wait(remaining)
        return True

    def wake_up(self, nr: int = 1) -> int:
        woken = 0
        while woken < nr and self._waiters:
            self._waiters.popleft().wake()
            woken += 1
        return woken

    def wake_up_all(self) -> int:
        return self.wake_up(len(self._waiters))


class IrqSafeLock(LockBase):
    """A spinlock held with interrupts disabled (``spin_lock_irqsave``)."""

    __slots__ = ("_flags", "_inner", "_restore", "_save", "name")

    def __init__(
        self, inner: Lock, save: Callable[[], bool], restore: Callable[[bool], None]
    ) -> None:
        self._inner = inner
        self._save = save
        self._restore = restore
        self._flags = True  # under the lock
        self.name = inner.name

    def acquire(self) -> None:
        flags = self._save()
        try:
            self._inner.acquire()
        except BaseException:
            self._restore(flags)
            raise
        self._flags = flags

    def trylock(self) -> bool:
        flags = self._save()
        try:
            taken = self._inner.trylock()
        except BaseException:
            self._restore(flags)
            raise
        if taken:
            self._flags = flags
        else:
            self._restore(flags)
        return taken

    def release(self) -> None:
        flags = self._flags
        self._inner.release()
        self._restore(flags)

    def locked(self) -> bool:
        return self._inner.locked()

    def nested(self, subclass: int) -> Lock:
        """See :func:`concmem.runtime.api.nested`."""
        inner = nested(self._inner, subclass)
        return self if inner is self._inner else IrqSafeLock(inner, self._save, self._restore)

    @property
    def holder(self) -> object:
        """The holder, where the lock inside knows it."""
        return getattr(self._inner, "holder", None)
