"""
Iterative preemption bounding (CHESS; Musuvathi, Qadeer, PLDI 2007).

All schedules without a preemption, then those with one, and so on. Taking a task away from a CPU that could go
on costs 1; every other switch is free. An interrupt costs 1 as well: it comes on top of what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.schedulers.bounded import BoundedSearch
from concmem.explore.task import Task


class PreemptionBounding(BoundedSearch):
    """By the number of preemptions."""

    name: ClassVar[str] = "pb"

    def options(self, enabled: Sequence[Task], current: Task) -> list[tuple[Task, int]]:
        if current.enabled:
            return [(current, 0), *((task, 1) for task in enabled if task is not current)]
        return [(task, 0) for task in enabled]
