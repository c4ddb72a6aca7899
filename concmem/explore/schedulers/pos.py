"""
POS: partial order sampling (Yuan, Yang, Gu, CAV 2018).

Each *pending event* has a random priority, and the enabled one of the highest is executed. Then its task, whose
pending event is another one now, and all that were in conflict with it get new priorities. What is independent
keeps its own: so all orders of a few conflicting events are about as likely, however many independent ones
there are beside them.
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
    """A random priority for each pending event, new where events conflict."""

    name: ClassVar[str] = "pos"

    def __init__(self) -> None:
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._random = Random(f"pos/{seed}").random

    def begin(self, execution: Execution) -> bool:
        self.priorities: dict[Task, float] = {}
        """Of each task's pending event, once it was looked at."""
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        priorities, draw = self.priorities, self._random
        best, highest = current, -1.0
        for task in enabled:
            priority = priorities.get(task)
            if priority is None:
                priority = priorities[task] = draw()
            if priority > highest:
                best, highest = task, priority
        obj = best.object
        # Who waits for a lock is not enabled and not looked at, so nothing is known of its priority yet, and
        # the release of the lock need not change that.
        if obj is not None:
            for task in enabled:
                if task.object is obj and conflict(task.kind, obj, best.kind, obj):
                    priorities[task] = draw()
        priorities[best] = draw()
        return best
