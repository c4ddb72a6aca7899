"""
Footprints: what a step touches, and so whether two steps of different CPUs commute.

A step is an operation and everything up to the next one: what it reads and writes under a lock it holds, the
end of a body, the return from an interrupt, the first steps-to-be of a body that it starts. Two steps of
different CPUs commute unless one writes what the other one reads or writes. What is touched is

- the object of an operation: a variable, a lock, a queue, a semaphore, a field; a failed ``trylock`` and a reader
  that gets a semaphore at once only read it;
- parts of a CPU: ``flags``, whether it takes interrupts; ``due``, those that wait for it; ``jobs``, its bodies;
- what there is once: ``clock``, the order of time-outs; ``budget``, how many may come early; ``kthreads``;
- *everything*, for ``cpu_relax`` (who yields waits for all that could run: so each step of each other CPU
  matters), ``stop_machine``, a look at the clock, and kinds that are not known here.

A kind that is new is therefore safe before it is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from concmem.explore import operation as op
from concmem.explore.jobs import Job
from concmem.explore.locks import ControlledLock
from concmem.explore.rwsem import ControlledRwSem
from concmem.explore.stop import Stops

if TYPE_CHECKING:
    from concmem.explore.task import ControlledCpu, Task

Key: TypeAlias = "int | tuple[str, int] | str"
"""The number of an object, see `Names`; a part of a CPU; or something that there is once."""


class Names:
    """
    Numbers for the objects of one execution, in the order in which they are met.

    Objects are made afresh for each execution. Two executions with the same first steps give the same numbers
    to what they have met until then.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self.objects: list[Any] = []
        """By number. Keeps them alive, so that no other one can have the same ``id``."""

    def of(self, obj: object) -> int:
        """The number of *obj*, a new one if it was not met before."""
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._numbers[id(obj)] = len(self.objects)
            self.objects.append(obj)
        return number


class Footprint:
    """What one step touches."""

    __slots__ = (
        "everything",
        "gives",
        "joins",
        "kind",
        "needs",
        "reads",
        "spinner",
        "takes",
        "writes",
    )

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """Of the operation that the step begins with."""
        self.reads: set[Key] = set()
        self.writes: set[Key] = set()
        self.needs: set[Key] = set()
        """Of these, locks that have to be free, or the step would not be possible."""
        self.takes: set[Key] = set()
        """Locks that are held afterwards."""
        self.gives: set[Key] = set()
        """Locks that are free afterwards."""
        self.joins: set[Key] = set()
        """What has to be done before: a body, an interrupt."""
        self.everything = False
        self.spinner = -1
        """Of an interrupt: the task on top of which it comes (`Task.index`), if that spins for a lock."""

    def conflicts(self, other: Footprint) -> bool:
        """Whether the order of two such steps of different CPUs can matter."""
        return (
            self.everything
            or other.everything
            or not self.writes.isdisjoint(other.writes)
            or not self.writes.isdisjoint(other.reads)
            or not self.reads.isdisjoint(other.writes)
        )

    def add(self, task: Task, kind: str, obj: Any, names: Names, budgets: bool) -> None:
        """*task* does this in the step. *budgets*: time-outs may come early, or sleepers wake for no reason."""
        if kind in _READS:
            self.reads.add(names.of(obj))
        elif kind in _WRITES:
            self.writes.add(names.of(obj))
        elif kind in _SPECIAL:
            _SPECIAL[kind](self, task, obj, names)
            if budgets and kind is op.WAIT:
                self.reads.add("budget")
        else:
            self.everything = True

    def add_interrupt(self, main: Task, names: Names) -> None:
        """The step takes an interrupt, on top of *main*: it could not if that was spinning with irqs off."""
        for obj in interrupted_objects(main):
            if isinstance(obj, ControlledLock):
                self.add_spinning(main, names.of(obj))
            else:
                self.reads.add(names.of(obj))
        if main.resting is not None:
            # It may come to spin as soon as it has rested, and that is up to everybody.
            self.everything = True

    def add_spinning(self, main: Task, lock: int) -> None:
        """The step comes on top of *main*, which spins for *lock* with interrupts off once that is taken."""
        self.reads.add(lock)
        self.needs.add(lock)
        self.spinner = main.index

    def add_return(self, cpu: ControlledCpu) -> None:
        """The step ends an interrupt; a body that was started meanwhile begins."""
        self.writes.add(("flags", cpu.number))
        self.reads.add(("jobs", cpu.number))

    def add_early_end(self, kind: str) -> None:
        """The step is a time-out that comes early, or a wake-up for no reason."""
        self.writes.add("budget")
        if kind is op.TIMEOUT:
            self.writes.add("clock")


def interrupted_objects(main: Task) -> list[Any]:
    """What decides whether *main*, where it is now, lets interrupts in: its lock, its queue."""
    objects = []
    if main.kind is op.ACQUIRE and main.object.irqsave:
        objects.append(main.object)
        queue = getattr(main.blocked, "queue", None)
        if queue is not None:  # it sleeps; who wakes it makes it spin
            objects = [queue]
    return objects


# -- operations that are more than a read or a write

Special: TypeAlias = Callable[[Footprint, "Task", Any, Names], None]


def _acquire(step: Footprint, task: Task, lock: Any, names: Names) -> None:
    key = names.of(lock)
    step.writes.add(key)
    step.needs.add(key)
    step.takes.add(key)
    if lock.irqsave:
        step.writes.add(("flags", task.cpu.number))


def _release(step: Footprint, task: Task, lock: Any, names: Names) -> None:
    key = names.of(lock)
    step.writes.add(key)
    step.gives.add(key)
    if lock.irqsave:
        step.writes.add(("flags", task.cpu.number))


def _taken(step: Footprint, task: Task, obj: Any, names: Names) -> None:
    """A note. After ``trylock``, or after ``down`` of a semaphore that was free."""
    key = names.of(obj)
    if isinstance(obj, ControlledLock):
        step.writes.add(key)
        step.takes.add(key)
        if obj.irqsave:
            step.writes.add(("flags", task.cpu.number))
    elif step.kind is op.DOWN_READ:
        step.writes.discard(key)
        step.reads.add(key)


def _wait(step: Footprint, task: Task, queue: Any, names: Names) -> None:
    step.writes.add(names.of(queue))
    _release(step, task, queue.lock, names)


def _resume(step: Footprint, _task: Task, obj: Any, names: Names) -> None:
    if isinstance(obj, Stops):
        step.everything = True
    elif not isinstance(obj, ControlledRwSem):  # who hands that over makes the step possible
        step.joins.add(names.of(obj))


def _interrupt(step: Footprint, _task: Task, cpu: Any, _names: Names) -> None:
    step.writes |= {("due", cpu.number), ("flags", cpu.number)}
    step.reads.add(("jobs", cpu.number))  # a body that is started meanwhile has to wait


def _irqs_off(step: Footprint, _task: Task, cpu: Any, _names: Names) -> None:
    step.writes.add(("flags", cpu.number))


def _send(step: Footprint, task: Task, target: Any, _names: Names) -> None:
    """To one CPU, or to all of a runtime."""
    for cpu in getattr(target, "cpus", (target,)):
        step.writes.add(("due", cpu.number))
        if cpu is task.cpu:  # taken at once
            step.writes.add(("flags", cpu.number))
        else:
            step.reads.add(("flags", cpu.number))


def _spawn(step: Footprint, _task: Task, cpu: Any, _names: Names) -> None:
    step.writes.add(("jobs", cpu.number))


def _started(step: Footprint, _task: Task, cpu: Any, _names: Names) -> None:
    step.writes.add(("jobs", cpu.number))
    if cpu.is_kthread:
        step.writes.add("kthreads")


def _done(step: Footprint, task: Task, obj: Any, names: Names) -> None:
    step.writes.add(names.of(obj))
    if isinstance(obj, Job):  # a body ends with interrupts enabled, and the next one begins
        step.writes |= {("jobs", task.cpu.number), ("flags", task.cpu.number)}


def _deadline(step: Footprint, _task: Task, _ns: Any, _names: Names) -> None:
    step.writes.add("clock")


def _nothing(_step: Footprint, _task: Task, _obj: Any, _names: Names) -> None:
    """Commutes with everything."""


_READS: Final = frozenset((op.READ, op.LOAD, op.GUARDED_LOAD, op.TRYLOCK, op.PEEK))
_WRITES: Final = frozenset(
    (op.WRITE, op.UPDATE, op.STORE, op.GUARDED_STORE, op.DOWN_READ, op.DOWN_WRITE, op.UP)
) | {op.WAKE, op.TIMEOUT, op.SPURIOUS}
_SPECIAL: Final[dict[str, Special]] = {
    op.ACQUIRE: _acquire,
    op.RELEASE: _release,
    op.TAKEN: _taken,
    op.WAIT: _wait,
    op.RESUME: _resume,
    op.RESCHED: _nothing,
    op.IRQ: _interrupt,
    op.IRQ_OFF: _irqs_off,
    op.IRQ_ON: _interrupt,
    op.SEND: _send,
    op.SPAWN: _spawn,
    op.STARTED: _started,
    op.DONE: _done,
    op.DEADLINE: _deadline,
}
