"""
Delay bounding (Emmi, Qadeer, Rakamaric, POPL 2011).

The scheduler below is round robin without preemption: the current task as long as it can, then the next in order.
Passing over *j* enabled tasks costs *j* delays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.schedulers.bounded import BoundedSearch
from concmem.explore.task import Task


class DelayBounding(BoundedSearch):
    """By the number of delays."""

    name: ClassVar[str] = "db"

    def options(self, enabled: Sequence[Task], current: Task) -> list[tuple[Task, int]]:
        if current.enabled:
            first = enabled.index(current)
        else:
            first = next((i for i, task in enumerate(enabled) if task.index > current.index), 0)
        return [
            (enabled[(first + delays) % len(enabled)], delays) for delays in range(len(enabled))
        ]
