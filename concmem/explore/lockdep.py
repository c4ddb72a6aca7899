"""
The lock validator in controlled mode: who tells it, and what becomes of what it says.

A rule broken is no failure of the body that breaks it, which goes on: perhaps some schedule shows what comes of it.
So the first report is kept, and then nothing more is validated, as with ``debug_locks`` of the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concmem.errors import LockdepError
from concmem.runtime.lockdep import Lockdep
from concmem.runtime.lockdep_classes import IRQ, IRQS_ON, LockClass, LockdepContext

if TYPE_CHECKING:
    from concmem.explore.task import ControlledCpu, Task


class Validator:
    """
    Of one execution.

    Args:
        dep: what remembers orders; by default those of this execution only.
    """

    def __init__(self, dep: Lockdep | None = None) -> None:
        self.dep = Lockdep() if dep is None else dep
        self.on = True
        self.error: LockdepError | None = None
        """The first report."""
        self._contexts: dict[ControlledCpu, LockdepContext] = {}
        self._locks: dict[Any, tuple[LockClass, int]] = {}
        """Locks have numbers, not addresses, so that a report is the same at each replay."""

    def taken(self, me: Task, lock: Any, how: int = 0) -> None:
        """*me* has taken *lock*. *how*: of ``READ`` and ``TRYLOCK``."""
        if not self.on:
            return
        cpu = me.cpu
        how |= IRQ if cpu.in_interrupt else IRQS_ON if cpu.irqs_enabled else 0
        cls, number = self._locks.get(lock) or self._number(lock)
        if me.subclass:
            cls = self.dep.lock_class(lock.name, lock.lockdep_kind, me.subclass)
        try:
            # Without a place: where such a lock was first taken so is good enough, and costs nothing.
            self.dep.acquire(self._contexts.get(cpu) or self._context(cpu), cls, number, how)
        except LockdepError as error:
            self._stop(error)

    def given_up(self, me: Task, lock: Any) -> None:
        """*me* gives up *lock*, which it holds."""
        if self.on:
            cls, number = self._locks[lock]
            self.dep.release(self._contexts[me.cpu], cls, number)

    def irqs_on(self, cpu: ControlledCpu) -> None:
        """Interrupts are enabled on *cpu*."""
        if not self.on:
            return
        try:
            self.dep.hardirqs_on(self._contexts.get(cpu) or self._context(cpu))
        except LockdepError as error:
            self._stop(error)

    def _stop(self, error: LockdepError) -> None:
        self.on = False
        self.error = error.with_traceback(None)

    def _context(self, cpu: ControlledCpu) -> LockdepContext:
        context = self._contexts[cpu] = self.dep.context(cpu.name, cpu.number)
        return context

    def _number(self, lock: Any) -> tuple[LockClass, int]:
        cls = self.dep.lock_class(lock.name, lock.lockdep_kind)
        known = self._locks[lock] = cls, len(self._locks)
        return known


class NestedLock:
    """*lock* at a level of its own while it is held: see :func:`concmem.runtime.api.nested`."""

    __slots__ = ("_lock", "_subclass", "locked", "name", "release")

    def __init__(self, lock: Any, subclass: int) -> None:
        self._lock = lock
        self._subclass = subclass
        self.name: str = lock.name
        self.locked = lock.locked
        self.release = lock.release

    def acquire(self) -> None:
        self._lock.at_level(self._subclass)
        try:
            self._lock.acquire()
        finally:
            self._lock.at_level(0)

    def trylock(self) -> bool:
        self._lock.at_level(self._subclass)
        try:
            return bool(self._lock.trylock())
        finally:
            self._lock.at_level(0)

    __enter__ = acquire

    def __exit__(self, *raised: object) -> None:
        self.release()
