"""
Programs as data: operations that were recorded, each with the moments at which it is preempted.

Without preemptions operations run one after the other, in the order in which they were recorded. An operation carries
its own preemptions: after so many of *its* points, not after so many steps of the execution. So one that does nothing
for a bug can be left out and all others still do the same, which is what lets Hypothesis shrink program and schedule
together.

What was executed has a schedule like any other, which :func:`concmem.explore.replay` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, NoReturn

from concmem.explore import (
    ControlledRuntime,
    Failure,
    Replay,
    ReplayDiverged,
    Schedule,
    Scheduler,
    replay,
    shrink,
)
from concmem.explore import operation as op
from concmem.explore.runner import Limits, MakeProgram, Runner, failure_from
from concmem.explore.task import Task

EXPLAIN_SECONDS = 3.0
"""For the simplest schedule of a failure that is about to be shown."""


class Preemption(NamedTuple):
    """Where an operation is preempted, and for how long."""

    after: int
    """So many points of the operation come before, 0 and up. If it has fewer, nothing happens."""
    operations: int = 1
    """So many operations of other CPUs end before it goes on, if there are so many."""
    to: int = 0
    """Who goes on: of the others that could, the one of this number, counted round and round."""


class Result(NamedTuple):
    """What operation *number* of a recording gives, once it has run."""

    number: int


@dataclass
class Operation:
    """One call on one CPU."""

    cpu: int
    function: Callable[..., Any]
    """Called with the subject, and the arguments."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """A `Result` among them stands for the result; another CPU's is waited for."""
    preemptions: Sequence[Preemption] = ()


class _Slot:
    """Where the result of an operation will be, and who waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = False
        self.value: Any = None
        self.waiters: list[Task] = []

    def describe(self) -> str:
        return f"{self.name}, which has not run"


LAST = 1 << 30
"""After all operations: interrupts and kernel threads, as long as there is something else to do."""


class Marked(Scheduler):
    """One operation after the other, as they were recorded, but for their preemptions."""

    name: ClassVar[str] = "marked"

    def __init__(self) -> None:
        # All by CPU.
        self._number: dict[int, int] = {}
        """The operation that it is at, or about to begin."""
        self._marks: dict[int, dict[int, Preemption]] = {}
        """Where that is preempted, by how many points come before."""
        self._done: dict[int, int] = {}
        """Points of it that are done; none while it is about to begin."""
        self._held: dict[int, int] = {}
        """Preempted ones, and how many operations of others come before they go on."""

    def come_to(self, cpu: int, number: int) -> None:
        """*cpu* has ended an operation, if it had begun one, and the next is *number*."""
        if cpu in self._number:
            for held in list(self._held):
                self._held[held] -= held != cpu
                if not self._held[held]:
                    del self._held[held]
        self._number[cpu] = number
        self._marks.pop(cpu, None)
        self._done.pop(cpu, None)

    def begin_operation(self, cpu: int, preemptions: Sequence[Preemption]) -> None:
        """*cpu* begins the operation that it has come to."""
        self._marks[cpu] = {each.after: each for each in preemptions}
        self._done[cpu] = 0

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        chosen = self._next(enabled, current)
        marks = self._marks.get(chosen.index)
        if marks:
            mark = marks.pop(self._done[chosen.index], None)
            if mark is not None and len(enabled) > 1:
                self._held[chosen.index] = mark.operations
                others = [task for task in enabled if task is not chosen]
                chosen = others[mark.to % len(others)]
        if chosen.index in self._done:
            self._done[chosen.index] += 1
        return chosen

    def _next(self, enabled: Sequence[Task], current: Task) -> Task:
        """Who goes on unless it is preempted now."""
        free = [task for task in enabled if task.index not in self._held] or enabled
        if current in free and current.index in self._done:
            return current  # it is in the midst of an operation
        return min(free, key=lambda task: self._number.get(task.index, LAST))


class Recording:
    """
    Operations in the order in which they were recorded; each CPU runs its own in that order.

    An operation uses results of earlier ones only, so CPUs never wait for each other in a circle.
    """

    def __init__(self, operations: Sequence[Operation] = ()) -> None:
        self.operations = list(operations)

    def add(self, operation: Operation) -> Result:
        """Record *operation*; what stands for its result."""
        self.operations.append(operation)
        return Result(len(self.operations) - 1)

    def bodies(
        self,
        rt: ControlledRuntime,
        subject: Any,
        cpus: int,
        marked: Marked | None = None,
        at_end: Callable[[], object] = lambda: None,
    ) -> list[Callable[[], None] | None]:
        """What each CPU does to *subject*; *marked* is told where it is, *at_end* is called when it is done."""
        slots = [
            _Slot(f"{each.function.__name__} on cpu{each.cpu} (operation {number})")
            for number, each in enumerate(self.operations)
        ]

        def body(cpu: int) -> Callable[[], None] | None:
            mine = [number for number, each in enumerate(self.operations) if each.cpu == cpu]
            if not mine:
                return None

            def run() -> None:
                for number in mine:
                    each = self.operations[number]
                    if marked is not None:
                        marked.come_to(cpu, number)
                    rt.cond_resched()  # a point, so that operations begin in any order
                    if marked is not None:
                        marked.begin_operation(cpu, each.preemptions)
                    arguments = {
                        name: _resolve(rt, slots, self.operations, cpu, value)
                        for name, value in each.arguments.items()
                    }
                    _finish(rt, slots[number], each.function(subject, **arguments))
                if marked is not None:
                    marked.come_to(cpu, LAST)
                at_end()

            return run

        return [body(cpu) for cpu in range(cpus)]


def _resolve(
    rt: ControlledRuntime, slots: list[_Slot], operations: list[Operation], cpu: int, value: Any
) -> Any:
    if isinstance(value, list):
        return [_resolve(rt, slots, operations, cpu, each) for each in value]
    if not isinstance(value, Result):
        return value
    slot = slots[value.number]
    if operations[value.number].cpu != cpu:
        _wait(rt, slot)
    return slot.value


def _wait(rt: ControlledRuntime, slot: _Slot) -> None:
    """On a CPU: until another one has put something into *slot*. A point."""
    ex = rt.execution
    me = ex.current
    assert me is not None
    me.kind, me.object = op.RESUME, slot
    if slot.done:
        ex.point(me)
    else:
        slot.waiters.append(me)
        ex.block(me, slot)
        ex.wait(me)


def _finish(rt: ControlledRuntime, slot: _Slot, value: Any) -> None:
    ex = rt.execution
    slot.value = value
    slot.done = True
    ex.trace += (ex.current, op.DONE, slot)
    for task in slot.waiters:
        ex.unblock(task)
    slot.waiters.clear()


# -- running one schedule


def run_once(
    program: MakeProgram, scheduler: Scheduler, cpus: int | None, limits: Limits
) -> Failure | None:
    """One execution of *program*; what it has found."""
    runner = Runner(program, cpus, limits=limits)
    with runner.session():
        execution = runner.run_once(scheduler)
    assert execution is not None
    failure = failure_from(execution)
    if failure is not None:
        failure.options = runner.options()
        failure.executions = 1
    return failure


def explain(program: MakeProgram, failure: Failure) -> Failure:
    """The same failure with a schedule as simple as can be, and everything that happens under it."""
    try:
        return shrink(program, failure.schedule, seconds=EXPLAIN_SECONDS, **failure.options)
    except (ReplayDiverged, ValueError):
        again = replay(program, failure.schedule, **failure.options).failure
        return again if again is not None else failure


def check_schedule(
    program: MakeProgram,
    schedule: Schedule | str,
    *,
    cpus: int | None = None,
    **limits: Any,
) -> None:
    """
    Run *program* once under *schedule*, and raise what that finds.

    Unlike in :func:`concmem.explore.replay`, the schedule need not fit: where it asks for a choice that is not
    there, the CPU goes on. So it may be drawn by Hypothesis (`schedules`).

    Args:
        limits: ``max_steps``, ``early_timeouts``, ``spurious_wakeups``, ``detectors``, as of `explore.check`.

    Raises:
        AssertionError, KernelBug, ...: the error of the failure, with the table and the replay line as a note.
    """
    scheduler = Replay(Schedule.parse(schedule), strict=False)
    failure = run_once(program, scheduler, cpus, Limits(**limits))
    if failure is not None:
        raise_failure(program, failure)


class _Report:
    """The table of a failure, made when it is shown."""

    def __init__(self, program: MakeProgram, failure: Failure) -> None:
        self._program = program
        self._failure = failure

    def __repr__(self) -> str:
        return explain(self._program, self._failure).to_text()


def raise_failure(program: MakeProgram, failure: Failure) -> NoReturn:
    """
    Raise the error of *failure*.

    Hypothesis raises thousands of them while it shrinks: only the last one, which is shown, is explained. Without
    Hypothesis the explanation is a note of the error.
    """
    from hypothesis import currently_in_test_context, note

    if currently_in_test_context():
        note(_Report(program, failure))
    else:
        failure.error.add_note(explain(program, failure).to_text())
    raise failure.error
