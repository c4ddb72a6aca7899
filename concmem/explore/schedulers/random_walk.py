"""Random walk: at each step, each enabled task is as likely as any other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task


class RandomWalk(Scheduler):
    """Every enabled task with the same probability."""

    name: ClassVar[str] = "random"

    def __init__(self) -> None:
        self._random = Random(0).random

    def reset(self, seed: int) -> None:
        self._random = Random(f"random/{seed}").random

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        if len(enabled) == 1:
            return enabled[0]
        return enabled[int(self._random() * len(enabled))]
