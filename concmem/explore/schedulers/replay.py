"""Replay: what a recorded schedule says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from concmem.errors import ReplayDiverged
from concmem.explore.operation import name_of
from concmem.explore.schedule import Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class Replay(Scheduler):
    """
    One schedule.

    After its last deviation it goes on with the default, so it may also be the beginning of a schedule.

    Args:
        strict: raise `ReplayDiverged` where the schedule asks for a choice that is not there;
            otherwise take the default instead.
    """

    name: ClassVar[str] = "replay"

    def __init__(self, schedule: Schedule | str, strict: bool = True) -> None:
        self.schedule = Schedule.parse(schedule)
        self._strict = strict

    def begin(self, execution: Execution) -> bool:
        self._execution = execution
        self._deviations = dict(self.schedule.deviations)
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        # Steps of the execution, not calls: interrupts that were due are taken without being asked.
        k = self._deviations.pop(self._execution.step, None) if self._deviations else None
        default = current if current.enabled else enabled[0]
        if k is None:
            return default
        others = [task for task in enabled if task is not default]
        if k < len(others):
            return others[k]
        if not self._strict:
            return default
        there = ", ".join(f"{task.name} to {task.kind} {name_of(task.object)}" for task in enabled)
        raise ReplayDiverged(
            f"step {self._execution.step}: the schedule {self.schedule} switches to other choice {k}, but "
            f"only {len(others)} besides {default.name} can go on: {there}"
        )

    def finish(self) -> None:
        """
        The execution is over.

        Raises:
            ReplayDiverged: the schedule is not.
        """
        if self._strict and self._deviations:
            step, k = min(self._deviations.items())
            raise ReplayDiverged(
                f"step {step}: the schedule {self.schedule} switches to other choice {k}, but the "
                f"execution ended after {self._execution.step} steps"
            )
