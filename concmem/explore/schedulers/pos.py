"""
POS: partial order sampling (Yuan, Yang, Gu, CAV 2018).

Every pending operation has a random priority, and the enabled one of the highest runs. Then the operations that
conflict with it (the same object, not both reads) get new priorities, and so does the next operation of the task
that ran. So among conflicting operations each order is likely, however many others there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

from concmem.explore.operation import conflict
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class POS(Scheduler):
    """Random priorities of pending operations, drawn again on conflicts."""

    name: ClassVar[str] = "pos"

    def __init__(self) -> None:
        self._random = Random(0).random

    def reset(self, seed: int) -> None:
        self._random = Random(f"pos/{seed}").random

    def begin(self, execution: Execution) -> bool:
        self._priorities: dict[Task, float] = {}
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        priorities, random = self._priorities, self._random
        chosen, highest = enabled[0], -1.0
        for task in enabled:
            priority = priorities.get(task)
            if priority is None:
                priority = priorities[task] = random()
            if priority > highest:
                chosen, highest = task, priority
        del priorities[chosen]  # its next operation is another one
        kind, obj = chosen.kind, chosen.object
        assert kind is not None
        # Blocked tasks too: what they wait to do conflicts as well.
        for task in list(priorities):
            if task.kind is not None and conflict(kind, obj, task.kind, task.object):
                del priorities[task]
        return chosen
