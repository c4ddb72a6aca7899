"""Round robin: each enabled task in turn, a step each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task


class RoundRobin(Scheduler):
    """
    The next enabled task after the current one, every *quantum* steps.

    Args:
        quantum: steps that a task takes in a row, while it can.
    """

    name: ClassVar[str] = "rr"

    def __init__(self, quantum: int = 1) -> None:
        self._quantum = quantum
        self._left = quantum

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        self._left -= 1
        if self._left > 0 and current.enabled:
            return current
        self._left = self._quantum
        for task in enabled:
            if task.index > current.index:
                return task
        return enabled[0]
