"""
Locks of the free-running modes that tell the lock validator what is done with them.

They stand around the lock itself and inside of what disables interrupts, so a lock is said to be held
from before it is waited for until before it is given up, with interrupts as they are all that time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final

from concmem.errors import LockdepError
from concmem.runtime import api
from concmem.runtime.lockdep import Lockdep
from concmem.runtime.lockdep_classes import IRQ, IRQS_ON, READ, TRYLOCK, LockdepContext
from concmem.runtime.lockdep_where import here
from concmem.runtime.locks import FreeRwSem, LockBase

if TYPE_CHECKING:
    from concmem.runtime.free import FreeRuntime


class _Outsider:
    """A thread that is no CPU: it gets no interrupts, so nothing interrupts what it holds."""

    in_interrupt = False
    irqs_enabled = False


class _Here(threading.local):
    """Who the calling thread is: made at its first lock, and its own."""

    def __init__(self, runtime: FreeRuntime, dep: Lockdep) -> None:
        self.cpu = runtime.this_cpu() if runtime.on_cpu() else _Outsider()
        thread = threading.current_thread()
        name = thread.name.removeprefix("concmem-")
        self.context: LockdepContext = dep.context(name, thread.native_id or 0)

    def how(self) -> int:
        """In which state the caller takes a lock."""
        cpu = self.cpu
        return IRQ if cpu.in_interrupt else IRQS_ON if cpu.irqs_enabled else 0


class LockdepLocks:
    """What a runtime makes its locks with, and what it has to tell besides."""

    def __init__(self, runtime: FreeRuntime) -> None:
        self.dep: Final = Lockdep()
        self.here: Final = _Here(runtime, self.dep)
        self._restore = runtime.local_irq_restore
        self._report_failure = runtime.report_failure

    def lock(self, lock: api.Lock, kind: str) -> LockdepLock:
        """*lock*, watched."""
        return LockdepLock(self, lock, kind)

    def rwsem(self, sem: FreeRwSem) -> LockdepRwSem:
        """*sem*, watched."""
        return LockdepRwSem(self, sem)

    def local_irq_restore(self, flags: bool) -> None:
        """As of the runtime."""
        if flags:
            self.dep.hardirqs_on(self.here.context)
        self._restore(flags)

    def task_exit(self) -> None:
        """A body has ended: it must not hold anything."""
        try:
            self.dep.check_no_locks_held(self.here.context)
        except LockdepError as error:
            self._report_failure(error)  # raised here it would hide what the body has raised


class LockdepLock(LockBase):
    """A spinlock or mutex that is watched."""

    __slots__ = ("_class", "_dep", "_here", "_id", "_inner", "_locks", "locked", "name")

    def __init__(self, locks: LockdepLocks, inner: api.Lock, kind: str, subclass: int = 0) -> None:
        self._locks = locks
        self._dep = locks.dep
        self._here = locks.here
        self._class = locks.dep.lock_class(inner.name, kind, subclass)
        self._inner = inner
        self._id = id(inner)  # the same at every level
        self.name = inner.name
        self.locked: Callable[[], bool] = inner.locked

    def acquire(self) -> None:
        me = self._here
        self._dep.acquire(me.context, self._class, self._id, me.how(), here())
        try:
            self._inner.acquire()
        except BaseException:
            self._dep.release(me.context, self._class, self._id)
            raise

    def trylock(self) -> bool:
        if not self._inner.trylock():
            return False
        me = self._here
        try:
            self._dep.acquire(me.context, self._class, self._id, me.how() | TRYLOCK, here())
        except BaseException:
            self._inner.release()
            raise
        return True

    def release(self) -> None:
        self._dep.release(self._here.context, self._class, self._id)
        self._inner.release()

    def nested(self, subclass: int) -> LockdepLock:
        """See :func:`concmem.runtime.api.nested`."""
        return LockdepLock(self._locks, self._inner, self._class.kind, subclass)

    @property
    def holder(self) -> object:
        """The holder, where the lock inside knows it."""
        return getattr(self._inner, "holder", None)


class LockdepRwSem:
    """A reader-writer lock that is watched."""

    __slots__ = ("_class", "_dep", "_here", "_inner", "downgrade", "locked", "name")

    def __init__(self, locks: LockdepLocks, inner: FreeRwSem) -> None:
        self._dep = locks.dep
        self._here = locks.here
        self._class = locks.dep.lock_class(inner.name, "rwsem")
        self._inner = inner
        self.name = inner.name
        # Who holds it as a reader must no more take it again than who holds it as a writer.
        self.downgrade: Callable[[], None] = inner.downgrade
        self.locked: Callable[[], bool] = inner.locked

    def read(self) -> _Side:
        return _Side(self, self._inner.read(), READ)

    def write(self) -> _Side:
        return _Side(self, self._inner.write(), 0)

    def down(self, side: AbstractContextManager[object], how: int) -> None:
        """Take one side of it."""
        me = self._here
        self._dep.acquire(me.context, self._class, id(self), me.how() | how, here())
        try:
            side.__enter__()
        except BaseException:
            self._dep.release(me.context, self._class, id(self))
            raise

    def up(self) -> None:
        """About to be given up."""
        self._dep.release(self._here.context, self._class, id(self))


class _Side:
    """One ``with`` of a :class:`LockdepRwSem`."""

    __slots__ = ("_how", "_inner", "_sem")

    def __init__(self, sem: LockdepRwSem, inner: AbstractContextManager[object], how: int) -> None:
        self._sem = sem
        self._inner = inner
        self._how = how

    def __enter__(self) -> None:
        self._sem.down(self._inner, self._how)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sem.up()
        self._inner.__exit__(kind, error, traceback)
