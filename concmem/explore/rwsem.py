"""Reader-writer semaphores of the controlled mode: first come first served, handed over."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from concmem.errors import LockMisuse
from concmem.explore import operation as op
from concmem.explore.locks import assert_may_sleep
from concmem.runtime.lockdep_classes import READ

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task


class ControlledRwSem:
    """
    ``struct rw_semaphore``.

    Who cannot have it at once queues, and gets it handed over; nobody overtakes. So a reader that comes again
    while a writer waits is stuck, as in the kernel.
    """

    __slots__ = ("_ex", "_queue", "_read", "_write", "name", "owner", "readers")

    irqsave = False
    spins = False
    lockdep_kind = "rwsem"

    def __init__(self, ex: Execution, name: str) -> None:
        self._ex = ex
        self.name = name
        self.owner: Task | None = None
        """The writer."""
        self.readers: list[Task] = []
        self._queue: list[tuple[Task, bool]] = []
        self._read = _Side(self, False)
        self._write = _Side(self, True)

    def read(self) -> _Side:
        return self._read

    def write(self) -> _Side:
        return self._write

    def down(self, write: bool) -> None:
        """Take it, for writing or for reading."""
        ex = self._ex
        me = ex.current
        if me is None:
            if not self._is_free_for(write):
                ex.drive(lambda: self._is_free_for(write))
            self._grant(ex.driver, write)
            return
        assert_may_sleep(ex, me)
        me.kind, me.object = op.DOWN_WRITE if write else op.DOWN_READ, self
        ex.point(me)
        if self._is_free_for(write):
            self._grant(me, write)
        else:
            self._queue.append((me, write))
            me.kind = op.RESUME
            ex.block(me, self)
            ex.cycle(me)
            ex.wait(me)
        ex.trace += (me, op.TAKEN, self)
        if ex.lockdep is not None:
            ex.lockdep.taken(me, self, 0 if write else READ)

    def _is_free_for(self, write: bool) -> bool:
        if self._queue or self.owner is not None:
            return False
        return not (write and self.readers)

    def _grant(self, task: Task, write: bool) -> None:
        if write:
            self.owner = task
        else:
            self.readers.append(task)
        task.held.append(self)  # type: ignore[arg-type]

    def up(self) -> None:
        """Give it up, whichever way it is held."""
        ex = self._ex
        me = ex.current
        if me is not None:
            me.kind, me.object = op.UP, self
            ex.point(me)
        holder = ex.driver if me is None else me
        if self.owner is holder:
            self.owner = None
        elif holder in self.readers:
            self.readers.remove(holder)
        else:
            raise LockMisuse(f"{self.name}: released, but {holder.name} does not hold it")
        holder.held.remove(self)  # type: ignore[arg-type]
        if me is not None and ex.lockdep is not None:
            ex.lockdep.given_up(me, self)
        self._hand_over()

    def downgrade(self) -> None:
        """Writer to reader; readers at the head of the queue join."""
        ex = self._ex
        me = ex.current
        if me is not None:
            me.kind, me.object = op.UP, self
            ex.point(me)
        holder = ex.driver if me is None else me
        if self.owner is not holder:
            raise LockMisuse(f"{self.name}: downgraded, but not held for writing")
        self.owner = None
        self.readers.append(holder)
        if me is not None:
            ex.trace += (me, op.TAKEN, self)
        self._hand_over()

    def _hand_over(self) -> None:
        queue = self._queue
        while queue:
            task, write = queue[0]
            if self.owner is not None or (write and self.readers):
                return
            queue.pop(0)
            self._grant(task, write)
            self._ex.unblock(task)

    def locked(self) -> bool:
        if self.owner is not self._ex.current:
            self._ex.look(op.PEEK, self)
        return self.owner is not None or bool(self.readers)

    def holder_to_wait_for(self) -> Task | None:
        """For the circle of those who wait for each other: the writer, or the only reader."""
        if self.owner is not None:
            return self.owner
        return self.readers[0] if len(self.readers) == 1 else None

    def describe(self) -> str:
        holders = [self.owner] if self.owner is not None else self.readers
        who = ", ".join(task.name for task in holders if task is not None) or "nobody"
        return f"{self.name}, which {who} holds"

    def __repr__(self) -> str:
        return f"<rwsem {self.name}>"


class _Side:
    __slots__ = ("_sem", "_write_side")

    def __init__(self, sem: ControlledRwSem, write: bool) -> None:
        self._sem = sem
        self._write_side = write

    def __enter__(self) -> None:
        self._sem.down(self._write_side)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sem.up()
