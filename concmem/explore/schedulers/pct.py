"""
PCT: probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte, ASPLOS 2010).

Tasks have distinct random priorities, and the enabled task of the highest one runs. At *d* - 1 random steps the
running task's priority drops below all initial ones. Each execution finds a bug of depth *d* with a
probability of at least 1/(n k^(d-1)), for n tasks and k steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar

from concmem.errors import BadArgument
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class PCT(Scheduler):
    """
    Random priorities, with a few changes.

    Args:
        depth: the bug depth to look for, at least 1; *depth* - 1 changes of priority.
        steps: the number of steps k to draw the changes from; by default the most that an execution of
            this check has had, and 1000 before the first one has ended.
    """

    name: ClassVar[str] = "pct"

    def __init__(self, depth: int = 3, steps: int | None = None) -> None:
        if depth < 1:
            raise BadArgument(f"depth: must be at least 1, got {depth}")
        if steps is not None and steps < 1:
            raise BadArgument(f"steps: must be at least 1, got {steps}")
        self.depth = depth
        self._fixed_steps = steps
        self._steps = steps or 0
        self._random = Random(0)

    def reset(self, seed: int) -> None:
        self._random = Random(f"pct/{seed}")
        self._steps = self._fixed_steps or 0

    def begin(self, execution: Execution) -> bool:
        self._execution = execution
        self._version = -1
        self._priorities: dict[Task, float] = {}
        self._lowest = 0.0
        self._step = 0
        # Not sorted: the i-th one drawn lowers to priority i.
        rng = self._random.random
        steps = max(1, (self._steps or 1000) - 1)  # a change after the last step changes nothing
        self._changes = {
            1 + int(rng() * steps): priority for priority in range(self.depth - 1, 0, -1)
        }
        self._next_change = min(self._changes, default=1 << 62)
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        step = self._step  # done so far, the last of them by `current`
        self._step = step + 1
        if self._execution.version == self._version and step < self._next_change:
            return self._best  # nothing has changed, so nothing changes
        return self._choose_again(step, enabled, current)

    def _choose_again(self, step: int, enabled: Sequence[Task], current: Task) -> Task:
        priorities = self._priorities
        change = self._changes.pop(step, None)
        if change is not None:
            priorities[current] = change
            self._next_change = min(self._changes, default=1 << 62)
        if current.resting is not None:  # it has yielded
            self._lowest -= 1.0
            priorities[current] = self._lowest
        best, highest = None, -1e18
        for task in enabled:
            priority = priorities.get(task)
            if priority is None:
                # Distinct with probability 1, and above all that changes lower to.
                priority = priorities[task] = self.depth + self._random.random()
            if priority > highest:
                best, highest = task, priority
        assert best is not None
        self._best = best
        self._version = self._execution.version
        return best

    def end(self, execution: Execution) -> None:
        if self._fixed_steps is None and execution.step > self._steps:
            self._steps = execution.step

    def probability(self, executions: int, steps: int, tasks: int) -> float | None:
        if not tasks or not steps:
            return None
        each = 1 / (tasks * max(1, steps) ** (self.depth - 1))
        return float(1 - (1 - each) ** executions)
