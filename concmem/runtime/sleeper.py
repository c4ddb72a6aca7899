"""
Who can wait, and for what: a CPU or any other thread, until somebody says so.

A sleeper sleeps on one condition of its own. Whoever has news changes the state and notifies that
condition.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from concmem.errors import CpuStopped, MachineClosed


class Sleeper:
    """Anything that can wait: a CPU, or for one call a thread that is none."""

    def __init__(self) -> None:
        # `with lock`, never `with cond`: entering the lock is one C call, which Ctrl-C in a thread
        # that is no CPU cannot break in two and thereby leave it locked for ever.
        self.lock = threading.Lock()
        self.cond = threading.Condition(self.lock)

    def assert_may_sleep(self) -> None:
        """Raise `SleepInAtomic` where a sleep would be a bug."""

    def give_way(self) -> None:
        """In a wait that nothing may break off: let others in."""

    def sleep_until(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Sleep until *predicate* (called with `lock` held) is true; its last value."""
        with self.lock:
            return self.cond.wait_for(predicate, timeout)

    def notify(self) -> None:
        """Make the sleeper look at its predicate again."""
        with self.lock:
            self.cond.notify_all()


class Outsiders:
    """The threads that are no CPUs and wait for something of one machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sleepers: set[Outsider] = set()  # _lock
        self.closed = False

    def add(self, sleeper: Outsider) -> None:
        with self._lock:
            self._sleepers.add(sleeper)

    def remove(self, sleeper: Outsider) -> None:
        with self._lock:
            self._sleepers.discard(sleeper)

    def close(self) -> None:
        """All CPUs are gone: what has not happened by now never will."""
        self.closed = True
        with self._lock:
            sleepers = list(self._sleepers)
        for sleeper in sleepers:
            sleeper.notify()


class Outsider(Sleeper):
    """A thread that is no CPU, for one call."""

    def __init__(self, everybody: Outsiders) -> None:
        super().__init__()
        self._everybody = everybody

    def sleep_until(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """As `Sleeper.sleep_until`. Raises `MachineClosed` when nobody is left to make it true."""
        self._everybody.add(self)
        try:
            with self.lock:
                self.cond.wait_for(lambda: predicate() or self._everybody.closed, timeout)
                if predicate():
                    return True
                if self._everybody.closed:
                    raise MachineClosed("the machine was shut down while a thread waited for it")
                return False
        finally:
            self._everybody.remove(self)


class Waiter:
    """One sleep: who sleeps, and whether it has been ended. Set once, by the waker."""

    __slots__ = ("sleeper", "woken")

    def __init__(self, sleeper: Sleeper) -> None:
        self.sleeper = sleeper
        self.woken = False

    def is_woken(self) -> bool:
        return self.woken

    def sleep(self, timeout: float | None = None) -> bool:
        """Sleep until :meth:`wake`; false on a time-out."""
        return self.sleeper.sleep_until(self.is_woken, timeout)

    def wake(self) -> None:
        with self.sleeper.lock:
            self.woken = True
            self.sleeper.cond.notify_all()


class Call:
    """An interrupt that somebody waits for (``struct call_single_data``)."""

    __slots__ = ("error", "fn", "result", "waiter")

    def __init__(self, fn: Callable[[], Any], sleeper: Sleeper) -> None:
        self.fn = fn
        self.waiter = Waiter(sleeper)
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            self.result = self.fn()
        except BaseException as error:
            self.error = error
            if isinstance(error, CpuStopped):
                raise
        finally:
            self.waiter.wake()

    def wait(self) -> Any:
        """Sleep until the target CPU has run it; its result, or raises what it raised."""
        self.waiter.sleep()
        if isinstance(self.error, CpuStopped):
            raise MachineClosed("the CPU was shut down before it took the interrupt")
        if self.error is not None:
            raise self.error
        return self.result
