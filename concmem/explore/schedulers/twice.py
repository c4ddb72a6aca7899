"""A wrapper that runs each schedule twice, to find programs that depend on more than their schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from concmem.errors import Nondeterminism
from concmem.explore import operation as op
from concmem.explore.schedule import Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.replay import Replay
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

Steps = list[tuple[str, str, str]]


class Twice(Scheduler):
    """
    Every schedule of *inner*, and then the same once more.

    Raises:
        Nondeterminism: the second execution does something else; the message says at which step.
    """

    name: ClassVar[str] = "twice"

    def __init__(self, inner: Scheduler) -> None:
        self._inner = inner
        self._again: Replay | None = None
        self._first: Steps = []

    def reset(self, seed: int) -> None:
        self._inner.reset(seed)
        self._again = None

    def begin(self, execution: Execution) -> bool:
        return (self._again or self._inner).begin(execution)

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        return (self._again or self._inner).choose(enabled, current)

    def end(self, execution: Execution) -> None:
        if self._again is None:
            self._inner.end(execution)
            if execution.scheduler_error is None:
                self._first = _steps(execution)
                self._again = Replay(Schedule(tuple(execution.deviations)), strict=False)
            return
        self._again = None
        second = _steps(execution)
        for number, (a, b) in enumerate(zip(self._first, second, strict=False), 1):
            if a != b:
                raise Nondeterminism(
                    f"step {number}: {' '.join(a)} at first, then {' '.join(b)} under the same "
                    "schedule: the program depends on more than its schedule"
                )
        if len(second) != len(self._first):
            raise Nondeterminism(
                f"{len(self._first)} steps at first, then {len(second)} under the same schedule: "
                "the program depends on more than its schedule"
            )

    @property
    def exhaustive(self) -> bool:
        return self._inner.exhaustive


def _steps(execution: Execution) -> Steps:
    trace = execution.trace
    return [
        (trace[i].name, trace[i + 1], op.name_of(trace[i + 2]))
        for i in range(0, len(trace), 3)
        if trace[i] is not None and trace[i + 1] not in op.NOTES
    ]
