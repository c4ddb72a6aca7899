"""
Iterative delay bounding (Emmi, Qadeer, Rakamaric, POPL 2011).

The base scheduler is deterministic: a task goes on as long as it can, then comes the next one in turn. A delay
skips the task whose turn it is. With few delays there are still fewer schedules than with few preemptions, as
nothing is free; in return, a bug among many tasks may need many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.schedulers.bounded import Bounded
from concmem.explore.task import Task


class DelayBounding(Bounded):
    """All schedules without delay (there is one), then all with one, and so on. To skip j tasks costs j."""

    name: ClassVar[str] = "db"
    bounds: ClassVar[str] = "delays"

    def choices(self, enabled: Sequence[Task], current: Task) -> int:
        return len(enabled) - 1

    def take(self, enabled: Sequence[Task], current: Task, choice: int) -> Task:
        turn = next((i for i, task in enumerate(enabled) if task.index >= current.index), 0)
        return enabled[(turn + choice) % len(enabled)]

    def costing(self, choices: int, cost: int) -> range:
        return range(cost, cost + 1) if 0 < cost <= choices else range(0)

    def dearest(self, choices: int) -> int:
        return choices
