"""
Iterative preemption bounding (CHESS: Musuvathi, Qadeer, PLDI 2007).

A preemption is a switch away from a task that could go on. Most bugs need few, and there are not many schedules
with few: all of them are run, first those without any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.schedulers.bounded import Bounded
from concmem.explore.task import Task


class PreemptionBounding(Bounded):
    """
    All schedules without preemption, then all with one, and so on.

    To switch costs 1 where the current task could go on, an interrupt of its own CPU included. It is free where
    that waits, has yielded or has ended; all orders are tried there.
    """

    name: ClassVar[str] = "pb"
    bounds: ClassVar[str] = "preemptions"

    def choices(self, enabled: Sequence[Task], current: Task) -> int:
        """Positive: they are preemptions; negative: they are free."""
        others = len(enabled) - 1
        return others if current.enabled else -others

    def take(self, enabled: Sequence[Task], current: Task, choice: int) -> Task:
        default = current if current.enabled else enabled[0]
        if not choice:
            return default
        return [task for task in enabled if task is not default][choice - 1]

    def costing(self, choices: int, cost: int) -> range:
        if cost > 1 or (choices > 0) != (cost == 1):
            return range(0)
        return range(1, abs(choices) + 1)

    def dearest(self, choices: int) -> int:
        return 1 if choices > 0 else 0
