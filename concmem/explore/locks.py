"""
Locks of the controlled mode.

A model owner decides who gets a lock; then the same real lock must be takable at once, or the harness itself
is broken. A task whose pending operation is to take a lock that another one holds is not enabled. Whoever
releases the lock enables all that wait for it, and whoever the scheduler picks first gets it.
"""

from __future__ import annotations

import threading
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from concmem.errors import LockMisuse, SleepInAtomic
from concmem.explore import operation as op
from concmem.explore.lockdep import NestedLock
from concmem.runtime.lockdep_classes import TRYLOCK

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task
    from concmem.runtime.api import Lock


def assert_may_sleep(ex: Execution, me: Task, besides: object = None) -> None:
    """Raise `SleepInAtomic` where *me* must not sleep; *besides* is a lock that it is about to give up."""
    cpu = me.cpu
    spinlocks = sum(lock.spins for lock in me.held if lock is not besides)
    enabled = cpu.irqs_enabled
    if besides is not None and getattr(besides, "irqsave", False):
        enabled = besides.flags  # type: ignore[attr-defined]
    if cpu.in_interrupt or not enabled or spinlocks:
        where = (
            "an interrupt handler"
            if cpu.in_interrupt
            else f"a section with {spinlocks} spinlock(s) held"
            if spinlocks
            else "a section with irqs disabled"
        )
        raise SleepInAtomic(f"BUG: scheduling while atomic: {cpu.name} sleeps in {where}")


class ControlledLock:
    """A plain spinlock: interrupts may come while it is held."""

    __slots__ = ("_ex", "_release_real", "_take_real", "blocked", "name", "owner")

    irqsave = False
    spins = True
    lockdep_kind = "spinlock"

    def __init__(self, ex: Execution, name: str) -> None:
        self._ex = ex
        self.name = name
        real = threading.Lock()
        self._take_real = partial(real.acquire, False)
        self._release_real = real.release
        self.owner: Task | None = None
        self.blocked: list[Task] = []
        """Tasks that wait for it."""

    def acquire(self) -> None:
        ex = self._ex
        me = ex.current
        if me is None:
            self._take_outside()
            return
        me.kind = op.ACQUIRE
        me.object = self
        if self.owner is None:
            ex.point(me)
        else:
            self.wait_for(me)
        self.take(me)

    __enter__ = acquire

    def take(self, me: Task) -> None:
        """The scheduler has picked *me*, so the lock is free."""
        self.owner = me
        if not self._take_real():
            raise AssertionError(f"{self.name}: the model says it is free, the real lock is taken")
        me.held.append(self)
        ex = self._ex
        for task in ex.enabled:
            # Others have announced to take the lock, and now cannot.
            if task.object is self and task is not me and task.kind is op.ACQUIRE:
                ex.disable_rivals(self, me)
                break
        if ex.lockdep is not None:
            ex.lockdep.taken(me, self, TRYLOCK if me.kind is op.TRYLOCK else 0)

    def wait_for(self, me: Task) -> None:
        """Somebody has it: wait until it is free and *me*'s turn."""
        if self.owner is me:
            raise LockMisuse(f"{self.name}: {me.name} holds it already and would wait for itself")
        ex = self._ex
        self.blocked.append(me)
        ex.block(me, self)
        ex.cycle(me)
        ex.wait(me)

    def trylock(self) -> bool:
        ex = self._ex
        me = ex.current
        if me is None:
            if self.owner is not None:
                return False
            self._take_outside()
            return True
        me.kind = op.TRYLOCK
        me.object = self
        ex.point(me)
        if self.owner is not None:
            return False
        self.take(me)
        ex.trace += (me, op.TAKEN, self)
        return True

    def release(self) -> None:
        ex = self._ex
        me = ex.current
        if me is None:
            self._give_up_outside()
            return
        me.kind = op.RELEASE
        me.object = self
        ex.point(me)
        if self.owner is not me:
            raise LockMisuse(f"{self.name}: released by {me.name}, which does not hold it")
        self.give_up(me)

    def give_up(self, me: Task) -> None:
        """Release, as part of another operation: no point."""
        self.owner = None
        self._release_real()
        held = me.held
        if held[-1] is self:
            held.pop()
        else:
            held.remove(self)
        ex = self._ex
        if ex.lockdep is not None:
            ex.lockdep.given_up(me, self)
        if self.blocked:
            ex.enable_rivals(self.blocked)

    def _take_outside(self) -> None:
        """On the driver: CPUs go on until it is free."""
        if self.owner is not None:
            self._ex.drive(lambda: self.owner is None)
        self.owner = self._ex.driver
        self._take_real()

    def _give_up_outside(self) -> None:
        if self.owner is not self._ex.driver:
            raise LockMisuse(f"{self.name}: released by a thread that does not hold it")
        self.owner = None
        self._release_real()
        if self.blocked:  # whom the driver has woken, while it held the lock
            self._ex.enable_rivals(self.blocked)

    def give_up_by(self, me: Task | None) -> None:
        """Release without a point, on a CPU or not."""
        if me is None:
            self._give_up_outside()
        else:
            self.give_up(me)

    def locked(self) -> bool:
        if self.owner is not self._ex.current:
            self._ex.look(op.PEEK, self)
        return self.owner is not None

    def nested(self, subclass: int) -> Lock:
        """See :func:`concmem.runtime.api.nested`."""
        return NestedLock(self, subclass)

    def at_level(self, subclass: int) -> None:
        """The caller is going to take it at that level."""
        if self._ex.current is not None:
            self._ex.current.subclass = subclass

    def holder_to_wait_for(self) -> Task | None:
        """For the circle of those who wait for each other."""
        return self.owner

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<lock {self.name}>"


class ControlledIrqLock(ControlledLock):
    """
    A spinlock that is held with interrupts disabled (``spin_lock_irqsave``).

    One operation, one point: interrupts are off from when it is found taken, or is taken.
    """

    __slots__ = ("flags",)

    irqsave = True

    def __init__(self, ex: Execution, name: str) -> None:
        super().__init__(ex, name)
        self.flags = True
        """Whether interrupts were enabled; belongs to the holder."""

    def take(self, me: Task) -> None:
        cpu = me.cpu
        flags = cpu.irqs_enabled
        cpu.irqs_enabled = False
        super().take(me)
        self.flags = flags
        if cpu.interrupts:
            self._ex.update_irq(cpu)

    def give_up(self, me: Task) -> None:
        flags = self.flags
        super().give_up(me)
        cpu = me.cpu
        cpu.irqs_enabled = flags
        if flags and me.held and self._ex.lockdep is not None:
            self._ex.lockdep.irqs_on(cpu)
        if cpu.interrupts:
            self._ex.update_irq(cpu)


class ControlledMutex(ControlledLock):
    """``struct mutex``: its holder and those who wait for it may sleep."""

    __slots__ = ()

    spins = False
    lockdep_kind = "mutex"

    def acquire(self) -> None:
        me = self._ex.current
        if me is not None:
            assert_may_sleep(self._ex, me)
        super().acquire()

    __enter__ = acquire
