"""
Wait queues of the controlled mode, with time-outs in model time.

A time-out fires when nobody can go on (time passes only then), or, if the execution allows early ones, when
the scheduler chooses so. The same goes for spurious wake-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from concmem.errors import LockMisuse
from concmem.explore import operation as op
from concmem.explore.locks import ControlledLock, assert_may_sleep

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task
    from concmem.runtime.api import Lock


class Deadline(NamedTuple):
    """When a sleep ends at the latest, in nanoseconds."""

    at: int
    timeout: int
    """How far it was ahead when it was set."""


class Waiter:
    """One sleep."""

    __slots__ = ("condition", "deadline", "queue", "task", "timed_out", "timeout", "woken")

    def __init__(
        self,
        task: Task,
        queue: ControlledWaitQueue,
        deadline: Deadline | None,
        condition: Callable[[], bool] | None,
    ) -> None:
        self.task = task
        self.queue = queue
        self.deadline = deadline.at if deadline is not None else None
        self.timeout = deadline.timeout if deadline is not None else None
        self.condition = condition
        """What it waits for, if known: for detectors."""
        self.woken = False
        self.timed_out = False

    def fire(self, ex: Execution) -> None:
        """Its time-out comes."""
        self.timed_out = True
        self.queue.remove(self)
        ex.fired = self
        task = self.task
        if task is ex.driver:
            return
        task.kind, task.object = op.TIMEOUT, self.queue
        ex.unblock(task)

    @property
    def name(self) -> str:
        return self.queue.name

    def describe(self) -> str:
        return f"a wake-up of {self.queue.name}"


class ControlledWaitQueue:
    """``wait_queue_head_t``. The caller holds the queue's lock."""

    __slots__ = ("_ex", "_waiters", "lock", "missed", "name")

    def __init__(self, ex: Execution, lock: Lock, name: str) -> None:
        self._ex = ex
        self.lock = cast(ControlledLock, lock)
        self.name = name
        self._waiters: list[Waiter] = []
        self.missed = False
        """Whether there was a wake-up when nobody slept."""

    def wait(
        self, timeout: float | None = None, condition: Callable[[], bool] | None = None
    ) -> bool:
        return self._sleep(self._deadline(timeout), condition)

    def _deadline(self, timeout: float | None) -> Deadline | None:
        if timeout is None:
            return None
        ns = int(timeout * 1e9)
        self._ex.look(op.DEADLINE, ns)
        return Deadline(self._ex.now_ns + ns, ns)

    def _has_passed(self, deadline: Deadline) -> bool:
        left = deadline.at - self._ex.now_ns
        self._ex.look(op.DEADLINE, left)
        return left <= 0

    def _sleep(self, deadline: Deadline | None, condition: Callable[[], bool] | None) -> bool:
        ex = self._ex
        me = ex.current
        lock = self.lock
        if me is None:
            return self._wait_outside(deadline, condition)
        if lock.owner is not me:
            raise LockMisuse(f"{self.name}: {me.name} waits without holding {lock.name}")
        assert_may_sleep(ex, me, besides=lock)
        me.kind, me.object = op.WAIT, self
        ex.point(me)
        waiter = Waiter(me, self, deadline, condition)
        self._waiters.append(waiter)
        if deadline is not None:
            ex.timers.append(waiter)
        lock.give_up(me)
        self._announce_end(waiter)
        if me.enabled:
            ex.point(me)
        else:
            ex.wait(me)
        if me.kind is not op.ACQUIRE:
            self._end_unasked(waiter)
            me.kind, me.object = op.ACQUIRE, lock
            if lock.owner is None:
                ex.point(me)
            else:
                lock.wait_for(me)
        lock.take(me)
        return waiter.woken

    def _announce_end(self, waiter: Waiter) -> None:
        """Announce how the sleep may end."""
        ex, me = self._ex, waiter.task
        if waiter.deadline is not None and ex.early_timeouts > 0:
            me.kind, me.object = op.TIMEOUT, self
            ex.unoffered += ex.spurious_wakeups > 0  # a task has one pending operation
            ex.early_sleepers.append(waiter)
        elif ex.spurious_wakeups > 0:
            me.kind, me.object = op.SPURIOUS, self
            ex.early_sleepers.append(waiter)
        else:
            me.kind, me.object = op.ACQUIRE, self.lock
            ex.block(me, waiter)

    def _end_unasked(self, waiter: Waiter) -> None:
        """A time-out, or a spurious wake-up, and the scheduler has chosen it."""
        ex = self._ex
        if waiter in self._waiters:  # early: time-outs that come when nobody can go on are free
            self.remove(waiter)
            if waiter.task.kind is op.TIMEOUT:
                waiter.timed_out = True
                ex.pass_time_until(waiter.deadline or 0)
                ex.early_timeouts -= 1
            else:
                ex.spurious_wakeups -= 1
        if not waiter.timed_out:
            waiter.woken = True
        # Others may not do the same any more, if that was the last.
        for other in list(ex.early_sleepers):
            if not (ex.early_timeouts if other.task.kind is op.TIMEOUT else ex.spurious_wakeups):
                ex.early_sleepers.remove(other)
                other.queue._announce_end(other)

    def _wait_outside(
        self, deadline: Deadline | None, condition: Callable[[], bool] | None
    ) -> bool:
        """On the driver."""
        ex, lock = self._ex, self.lock
        waiter = Waiter(ex.driver, self, deadline, condition)
        self._waiters.append(waiter)
        if deadline is not None:
            ex.timers.append(waiter)
        lock.give_up_by(None)
        try:
            ex.drive(lambda: waiter.woken or waiter.timed_out)
        finally:
            if waiter in self._waiters:
                self.remove(waiter)
            lock.acquire()
        return waiter.woken

    def remove(self, waiter: Waiter) -> None:
        """*waiter* sleeps no longer."""
        ex = self._ex
        self._waiters.remove(waiter)
        if waiter.deadline is not None:
            ex.timers.remove(waiter)
        if waiter in ex.early_sleepers:
            ex.early_sleepers.remove(waiter)

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        deadline = self._deadline(timeout)
        woken = True
        while not predicate():
            if deadline is not None and (not woken or self._has_passed(deadline)):
                return False
            woken = self._sleep(deadline, predicate)
        return True

    def wake_up(self, nr: int = 1) -> int:
        ex = self._ex
        me = ex.current
        if me is not None:
            if self.lock.owner is not me:
                raise LockMisuse(f"{self.name}: {me.name} wakes without holding {self.lock.name}")
            me.kind, me.object = op.WAKE, self
            ex.point(me)
        woken = 0
        while woken < nr and self._waiters:
            waiter = self._waiters[0]
            self.remove(waiter)
            waiter.woken = True
            woken += 1
            if waiter.task is not ex.driver:
                self._wake(waiter.task)
        if not woken:
            self.missed = True
        return woken

    def _wake(self, task: Task) -> None:
        """*task* has to take the lock again, which the waker usually holds."""
        ex, lock = self._ex, self.lock
        task.kind, task.object = op.ACQUIRE, lock
        if lock.owner is None:
            ex.unblock(task)
        else:
            lock.blocked.append(task)
            ex.block(task, lock)

    def wake_up_all(self) -> int:
        return self.wake_up(1 << 62)
