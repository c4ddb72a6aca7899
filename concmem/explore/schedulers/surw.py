"""
SURW: selectively uniform random walk (Zhao and others, ASPLOS 2025).

Each execution is uniform over the orders of the operations on *one* object, drawn in proportion to how often it
is used. An *intended* task is drawn by how many of these operations each has left. A random walk goes on, but a
task that is about to do one of them and is not the intended one is held back. When the intended one has done its
operation, all are released and the next one is drawn. If all that could run are held back, one of them is drawn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from concmem.explore import operation as op
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class SURW(Scheduler):
    """Uniform over the orders of the operations on one object at a time."""

    name: ClassVar[str] = "surw"

    def __init__(self) -> None:
        self._random = Random(0).random

    def reset(self, seed: int) -> None:
        self._random = Random(f"surw/{seed}").random
        self._uses: dict[str, Counter[int]] = {}
        """For each object's name: operations of each task, as the pilot saw them."""

    def begin(self, execution: Execution) -> bool:
        self._intended: int | None = None
        self._interesting = self._draw_object()
        self._left = dict(self._uses.get(self._interesting, ()))
        return True

    def _draw_object(self) -> str:
        totals = {name: counts.total() for name, counts in self._uses.items() if len(counts) > 1}
        at = self._random() * sum(totals.values())
        for name, total in totals.items():
            at -= total
            if at < 0:
                return name
        return ""

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        if not self._interesting:
            return enabled[int(self._random() * len(enabled))]
        if self._intended is None:
            self._intended = self._draw_task(list(self._left))
        free = [task for task in enabled if not self._is_held_back(task)]
        if not free:
            self._intended = self._draw_task([task.index for task in enabled])
            free = [task for task in enabled if not self._is_held_back(task)]
        chosen = free[int(self._random() * len(free))]
        if self._is_interesting(chosen):
            self._left[chosen.index] = self._left.get(chosen.index, 0) - 1
            self._intended = None
        return chosen

    def _is_interesting(self, task: Task) -> bool:
        return task.kind not in op.LOCAL and op.name_of(task.object) == self._interesting

    def _is_held_back(self, task: Task) -> bool:
        return task.index != self._intended and self._is_interesting(task)

    def _draw_task(self, indices: list[int]) -> int:
        """One of *indices*, in proportion to the interesting operations it has left."""
        weights = [max(0, self._left.get(index, 0)) for index in indices]
        if not any(weights):
            weights = [1] * len(indices)
        at = self._random() * sum(weights)
        for index, weight in zip(indices, weights, strict=True):
            at -= weight
            if at < 0:
                return index
        return indices[-1]

    def end(self, execution: Execution) -> None:
        if self._uses:
            return
        uses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        trace: list[Any] = execution.trace
        for position in range(0, len(trace), 3):
            task, kind, obj = trace[position : position + 3]
            if task is not None and obj is not None and kind not in op.NOTES | op.LOCAL:
                uses[op.name_of(obj)][task.index] += 1
        self._uses = dict(uses)
