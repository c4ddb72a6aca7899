"""Round robin: each enabled task in turn, a step each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from concmem.errors import BadArgument
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class RoundRobin(Scheduler):
    """
    The next enabled task after the current one, every *quantum* steps.

    There is one such schedule, so there is one execution.

    Args:
        quantum: steps that a task takes in a row, while it can.
    """

    name: ClassVar[str] = "rr"

    def __init__(self, quantum: int = 1) -> None:
        if quantum < 1:
            raise BadArgument(f"quantum: must be at least 1, got {quantum}")
        self._quantum = quantum
        self._left = 0
        self._begun = False

    def reset(self, seed: int) -> None:
        self._begun = False

    def begin(self, execution: Execution) -> bool:
        if self._begun:
            return False
        self._begun = True
        self._left = 0
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        self._left -= 1
        if self._left > 0 and current.enabled:
            return current
        self._left = self._quantum
        for task in enabled:
            if task.index > current.index:
                return task
        return enabled[0]
