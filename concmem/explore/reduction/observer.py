"""What happened in each step of an execution, as it is seen between two choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.execution import STEP_NS
from concmem.explore.locks import ControlledLock
from concmem.explore.reduction.footprint import Footprint, Names, interrupted_objects
from concmem.explore.reduction.history import Actor, Event, History
from concmem.explore.reduction.tree import Pending

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task

MARGIN: Final = 4
"""Times are far apart if more so than what steps take, so many times over."""


class ModelTime:
    """
    How a program uses the model time, which a step takes as well.

    Usually only the *order* matters in which time-outs are set: they are equally long, or longer by much more
    than what the steps take. Where that is not so, or the program looks at the clock and sets time-outs too,
    each step of anybody matters to who sets one (`is_exact`).
    """

    def __init__(self) -> None:
        self.is_exact = False
        self._closest = 1 << 62
        """Nanoseconds between a time and what it was compared with."""
        self._clock_was_read = self._deadline_was_set = False

    def look(self, kind: str, obj: Any) -> bool:
        """The running task looks at the time; whether each step of others matters to that."""
        if kind is op.CLOCK:
            self._clock_was_read = True
            return True
        self._deadline_was_set = True
        self._closest = min(self._closest, abs(obj))
        return self.is_exact

    def fired(self, execution: Execution) -> None:
        """A time-out came when nobody could go on."""
        fired = execution.fired
        assert fired is not None
        for other in execution.timers:
            if other.timeout != fired.timeout:
                apart = abs((other.deadline or 0) - (fired.deadline or 0))
                self._closest = min(self._closest, apart)

    def is_too_coarse(self, steps: int) -> bool:
        """Whether the order is not all that matters, after an execution of so many *steps*."""
        return (
            not self.is_exact
            and self._deadline_was_set
            and (self._clock_was_read or self._closest < MARGIN * steps * STEP_NS)
        )


class _Seen(NamedTuple):
    """A task before a step of another CPU."""

    enabled: bool
    blocked: Any
    resting: int


class Observer:
    """Looks at one execution at each choice."""

    def __init__(self, execution: Execution, time: ModelTime) -> None:
        self._execution = execution
        self._time = time
        self.names = Names()
        self.history = History()
        self._budgets = bool(execution.early_timeouts or execution.spurious_wakeups)
        self._start = 0
        """Where the step of now begins in the trace."""

    def pending(self, enabled: Sequence[Task]) -> Pending:
        """Who could go on, and with what."""
        names = self.names
        for task in enabled:
            if task.kind is op.IRQ:
                for obj in interrupted_objects(task.cpu.main):
                    names.of(obj)
        return {task.index: (task.kind or "", names.of(task.object)) for task in enabled}

    def fires(self, task: Task) -> bool:
        """Whether *task* goes on because its time-out came when nobody could go on."""
        execution = self._execution
        fires = (
            task.kind is op.TIMEOUT
            and execution.fired is not None
            and execution.fired.task is task
            and all(each.task is not task for each in execution.early_sleepers)
        )
        if fires:
            self._time.fired(execution)
        return fires

    def before(self, chosen: Task, after_all: bool) -> None:
        """*chosen* takes the next step, which is one that was not taken before."""
        self._chosen = chosen
        self._footprint = footprint = Footprint(chosen.kind or "")
        if chosen.kind is op.IRQ:
            footprint.add_interrupt(chosen.cpu.main, self.names)
        elif chosen.kind in (op.TIMEOUT, op.SPURIOUS) and not after_all:
            footprint.add_early_end(chosen.kind)
            footprint.everything = self._time.is_exact
        if self._execution.stops.stopper is chosen:  # nobody else may go on until it has done
            footprint.everything = True
        self._seen = {
            task: _Seen(task.enabled, task.blocked, len(task.resting or ()))
            for cpu in self._execution.cpus
            if cpu is not chosen.cpu
            for task in (cpu.main, cpu.irq)
            if task.kind is not None
        }

    def start(self) -> None:
        """The next entry of the trace is the beginning of a step."""
        self._start = len(self._execution.trace)
        self._execution.looks.clear()

    def again(self, event: Event, after_all: bool) -> None:
        """The step was *event*, as in the execution before."""
        trace, names = self._execution.trace, self.names
        for position in range(self._start + 2, len(trace), 3):
            names.of(trace[position])
        for _, obj in self._execution.looks:
            names.of(obj)
        self.history.take_in(event, after_all)

    def event(self, number: int, end: int | None = None) -> Event:
        """
        The step that was taken, as event *number*.

        Args:
            end: of the trace, if the execution has ended.
        """
        execution, names, footprint = self._execution, self.names, self._footprint
        task, cpu = self._chosen, self._chosen.cpu
        trace = execution.trace
        enables: list[int] = []
        for position in range(self._start, len(trace) if end is None else end, 3):
            actor, kind, obj = trace[position : position + 3]
            names.of(obj)
            footprint.add(actor, kind, obj, names, self._budgets)
            if actor.cpu is not cpu:  # its body begins
                enables.append(actor.index)
        if self._start == end:  # cut off before it was taken
            footprint.everything = True
        for kind, obj in execution.looks:
            names.of(obj)
            footprint.add(task, kind, obj, names, self._budgets)
            if kind is not op.PEEK and self._time.look(kind, obj):
                footprint.everything = True
        if task.is_irq and (end is not None or not cpu.in_interrupt):
            footprint.add_return(cpu)
        last = self.history.last.get(cpu.number)
        time = last.time + 1 if last is not None else 1
        event = Event(number, Actor(task.index, cpu.number, task.is_irq), footprint, time)
        event.enables = enables if end is not None else enables + self._enabled()
        return event

    def _enabled(self) -> list[int]:
        """Whose next step has the last one made possible, other than by releasing a lock?"""
        return [
            task.index
            for cpu in self._execution.cpus
            if cpu is not self._chosen.cpu
            for task in (cpu.main, cpu.irq)
            if task.kind is not None and task.kind is not op.IRQ and self._was_enabled(task)
        ]

    def _was_enabled(self, task: Task) -> bool:
        seen = self._seen.get(task)
        if seen is None:  # it had nothing to do
            return True
        if seen.resting:
            return len(task.resting or ()) != seen.resting
        if seen.blocked is not None:
            return task.blocked is not seen.blocked and not isinstance(seen.blocked, ControlledLock)
        return task.enabled and not seen.enabled
