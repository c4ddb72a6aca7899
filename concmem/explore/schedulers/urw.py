"""
URW: uniform random walk over interleavings (Zhao and others, ASPLOS 2025).

A pilot run counts how many steps each task takes. Then a task is picked with a probability in proportion to the
steps it has left, those of bodies that it has yet to start included: every interleaving is as likely as any
other, if the counts are right and nothing blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from concmem.explore import operation as op
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


PILOTS: Final = 20
"""Executions from which steps are counted. One may take a short way, and the longest counts."""


class StepCounts:
    """How many steps of each task an execution had, by `Task.index`, and who started whom."""

    def __init__(self) -> None:
        self.steps: Counter[int] = Counter()
        self.started: dict[int, int] = {}
        """The starter of a task that was started by one."""

    def learn(self, execution: Execution) -> None:
        """Take the longest that any execution had."""
        counts: Counter[int] = Counter()
        trace = execution.trace
        for position in range(0, len(trace), 3):
            task, kind, obj = trace[position : position + 3]
            if task is None or kind in op.NOTES:
                continue
            counts[task.index] += 1
            if kind is op.SPAWN:
                self.started[obj.main.index] = task.index
        for index, count in counts.items():
            self.steps[index] = max(self.steps[index], count)

    def weights(self) -> dict[int, int]:
        """The steps of each task, with those that it has yet to start."""
        weights = dict(self.steps)
        for child, parent in self.started.items():
            seen = {child}
            while parent not in seen:
                seen.add(parent)
                weights[parent] = weights.get(parent, 0) + self.steps[child]
                if parent not in self.started:
                    break
                parent = self.started[parent]
        return weights


class URW(Scheduler):
    """Each enabled task in proportion to the steps that it has left."""

    name: ClassVar[str] = "urw"

    def __init__(self) -> None:
        self._random = Random(0).random

    def reset(self, seed: int) -> None:
        self._random = Random(f"urw/{seed}").random
        self._counts = StepCounts()
        self._pilots = PILOTS

    def begin(self, execution: Execution) -> bool:
        self._left = self._counts.weights()
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        left = self._left
        weights = [max(1, left.get(task.index, 1)) for task in enabled]
        at = self._random() * sum(weights)
        chosen = enabled[-1]
        for task, weight in zip(enabled, weights, strict=True):
            at -= weight
            if at < 0:
                chosen = task
                break
        self._step(chosen)
        return chosen

    def _step(self, task: Task) -> None:
        """*task* takes a step; if it starts another one, that one's steps are its own from now on."""
        left = self._left
        index = task.index
        if index in left:
            left[index] -= 1
            if task.kind is op.SPAWN:
                left[index] -= left.get(task.object.main.index, 0)

    def end(self, execution: Execution) -> None:
        if self._pilots:
            self._pilots -= 1
            self._counts.learn(execution)
