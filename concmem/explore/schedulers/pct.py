"""
PCT: probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi, Nagarakatte, ASPLOS 2010).

Tasks have distinct random priorities, and the enabled task of the highest one runs. At *d* - 1 random steps the
running task's priority drops below all initial ones. Each execution finds a bug of depth *d* with a
probability of at least 1/(n k^(d-1)), for n tasks and k steps. A bug that needs more constraints than that may
never be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar, Final

from concmem.errors import BadArgument
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

FIRST_STEPS: Final = 1000
"""The number of steps that is guessed for the first execution."""

_NEVER: Final = 1 << 62


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
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._random = Random(f"pct/{seed}").random
        self._steps = self._fixed_steps or 0
        self._drawn_from: Counter[int] = Counter()
        """How many executions drew their changes from so many steps."""

    def begin(self, execution: Execution) -> bool:
        self._execution = execution
        self._version = -1
        self._priorities: dict[Task, float] = {}
        self._lowest = 0.0
        steps = self._steps or FIRST_STEPS
        self._drawn_from[steps] += 1
        # After step c_i the priority is i. Not sorted: the order of the steps is random, too. A change after
        # the last step would change nothing, so the last one is no choice.
        last = max(1, steps - 1)
        drawn = [(1 + int(self._random() * last), i) for i in range(1, self.depth)]
        self._changes = sorted(drawn, reverse=True)
        """Those to come, the next one last."""
        self._next_change = self._changes[-1][0] if drawn else _NEVER
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        execution = self._execution
        if execution.version == self._version and execution.step < self._next_change:
            return self._best  # nobody came, went or has another priority
        return self._choose_again(enabled, current)

    def _choose_again(self, enabled: Sequence[Task], current: Task) -> Task:
        priorities = self._priorities
        while self._execution.step >= self._next_change:
            # `current` has taken that step.
            _, priorities[current] = self._changes.pop()
            self._next_change = self._changes[-1][0] if self._changes else _NEVER
        if current.resting is not None:  # it has yielded
            self._lowest -= 1.0
            priorities[current] = self._lowest
        best, highest = current, -1e18
        for task in enabled:
            priority = priorities.get(task)
            if priority is None:
                # Distinct with probability 1, in random order, and above all that changes lower to.
                priority = priorities[task] = self.depth + self._random()
            if priority > highest:
                best, highest = task, priority
        self._best = best
        self._version = self._execution.version
        return best

    def end(self, execution: Execution) -> None:
        if self._fixed_steps is None and execution.step > self._steps:
            self._steps = execution.step

    def probability(self, executions: int, steps: int, tasks: int) -> float | None:
        """As the base class; executions whose changes could not fall on all of *steps* promise nothing."""
        if not tasks or not steps:
            return None
        missed = 1.0
        for drawn_from, times in self._drawn_from.items():
            if drawn_from >= steps:
                missed *= (1 - 1 / (tasks * drawn_from ** (self.depth - 1))) ** times
        return 1 - missed
