"""
A check for the checks: does a program do the same under the same schedule?

Everything here depends on that: replay, shrinking, exhaustive search. Host time, host randomness, the order of
sets, threads of the program's own and state that outlives an execution are what usually breaks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from concmem.errors import Nondeterminism, ScheduleAbandoned
from concmem.explore.operation import NOTES
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.random_walk import RandomWalk
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

Step = tuple[str, str | None, str]
"""Name of the task, kind of the operation, name of the object."""


class NondeterminismCheck(Scheduler):
    """
    Another scheduler, each of whose schedules is executed twice.

    Raises:
        Nondeterminism: out of the check, when the second execution does something else.

    Args:
        scheduler: the other one; by default a random walk.
    """

    name: ClassVar[str] = "nondeterminism"

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        self.scheduler = scheduler if scheduler is not None else RandomWalk()
        self._first: list[Step] | None = None
        """The steps of the first of two executions; ``None``: this is the first."""

    def reset(self, seed: int) -> None:
        self.scheduler.reset(seed)
        self._first = None

    def begin(self, execution: Execution) -> bool:
        self._execution = execution
        more = self._first is not None or self.scheduler.begin(execution)
        self.bound = self.scheduler.bound
        return more

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        if self._first is None:
            return self.scheduler.choose(enabled, current)
        step = self._execution.step
        if step >= len(self._first):
            if self._was_abandoned:
                raise ScheduleAbandoned
            now = ", ".join(map(_words, map(_pending, enabled)))
            raise Nondeterminism(
                f"step {step}: the execution ended there before, and now goes on: {now}"
            )
        before = self._first[step]
        for task in enabled:
            if _pending(task) == before:
                return task
        now = ", ".join(map(_words, map(_pending, enabled)))
        raise Nondeterminism(
            f"step {step}: was {_words(before)} before, and now there is only {now}"
        )

    def end(self, execution: Execution) -> None:
        if self._first is None:
            self.scheduler.end(execution)
            self._first = _steps(execution.trace)
            self._was_abandoned = execution.scheduler_error is not None
            return
        first, second = self._first, _steps(execution.trace)
        self._first = None
        for step, (before, now) in enumerate(zip(first, second, strict=False)):
            if before != now:
                raise Nondeterminism(
                    f"step {step}: was {_words(before)} before, is now {_words(now)}"
                )
        broken_off = execution.scheduler_error is not None and not self._was_abandoned
        if len(first) != len(second) and not broken_off:
            longer = max(first, second, key=len)
            step = min(len(first), len(second))
            raise Nondeterminism(
                f"step {step}: the execution ended {'there before' if longer is second else 'there now'}, "
                f"and the other one went on: {_words(longer[step])}"
            )

    @property
    def exhaustive(self) -> bool:
        return self.scheduler.exhaustive

    def probability(self, executions: int, steps: int, tasks: int) -> float | None:
        return self.scheduler.probability((executions + 1) // 2, steps, tasks)


def _name(obj: Any) -> str:
    """As `operation.name_of`, without addresses, which differ."""
    return str(getattr(obj, "name", "")) or type(obj).__name__


def _pending(task: Task) -> Step:
    return task.name, task.kind, _name(task.object)


def _steps(trace: list[Any]) -> list[Step]:
    return [
        (trace[i].name, trace[i + 1], _name(trace[i + 2]))
        for i in range(0, len(trace), 3)
        if trace[i] is not None and trace[i + 1] not in NOTES
    ]


def _words(step: Step) -> str:
    return " ".join(map(str, step))
