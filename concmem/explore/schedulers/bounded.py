"""
Iterative bounding: all schedules in the order of what they cost, each once.

A base scheduler takes a default at each step. Other choices cost something, or are free; what a schedule costs is
the sum. Bound 0 is everything that costs nothing, bound 1 everything that costs 1, and so on, until no schedule
was cut off: then all were run.

A schedule is the list of its deviations from the default. The one that it comes from lacks the last of them, and
is no dearer. So it is enough to remember, of each execution, which choices there were after its last deviation.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from concmem.errors import BadArgument, Nondeterminism
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class Deviation(NamedTuple):
    """A choice that is not the default."""

    step: int
    choice: int
    """From 1, in the scheduler's order."""
    choices: int
    """What there was to choose from, see `Bounded.choices`."""


class _Run(NamedTuple):
    """An execution that was, as far as it leads to others."""

    deviations: tuple[Deviation, ...]
    first: int
    """The first step after the last deviation."""
    choices: array[int]
    """At each step from `first` on."""


class Bounded(Scheduler):
    """
    Everything that costs 0, then what costs 1, and so on.

    Args:
        limit: the last bound; by default there is none.
    """

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 0:
            raise BadArgument(f"limit: must not be negative, got {limit}")
        self._limit = limit
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.bound = None
        self.exploring = 0
        """The bound that executions have now."""
        self._exhausted = False
        self._schedules = self._search()

    def begin(self, execution: Execution) -> bool:
        deviations = next(self._schedules, None)
        if deviations is None:
            return False
        self._deviations = deviations
        self._due = 0
        """Which of them comes next."""
        self._next = deviations[0].step if deviations else -1
        self._step = 0
        self._choices: list[int] = []
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        step = self._step
        self._step = step + 1
        choices = self.choices(enabled, current) if len(enabled) > 1 else 0
        self._choices.append(choices)
        if step == self._next:
            return self._deviate(enabled, current, choices)
        return current if current.enabled else self.take(enabled, current, 0)

    def _deviate(self, enabled: Sequence[Task], current: Task, choices: int) -> Task:
        step, choice, expected = self._deviations[self._due]
        if choices != expected:
            raise Nondeterminism(
                f"step {step}: there were {abs(expected)} other choices before, now there are "
                f"{abs(choices)}: the program does not depend on its schedule alone"
            )
        self._due += 1
        more = self._due < len(self._deviations)
        self._next = self._deviations[self._due].step if more else -1
        return self.take(enabled, current, choice)

    # -- which schedules there are

    def _search(self) -> Iterator[tuple[Deviation, ...]]:
        """The deviations of each execution; goes on when that has ended."""
        levels: list[list[_Run]] = []
        dearest = 0  # of all schedules that are known of
        while self.exploring <= dearest:
            if self._limit is not None and self.exploring > self._limit:
                return
            level: list[_Run] = []
            for start in self._starts(levels):
                todo = [start]
                while todo:
                    deviations = todo.pop()
                    yield deviations
                    run = self._ended(deviations)
                    todo += self._children(run, 0)
                    dearest = max(
                        dearest, self.exploring + max(map(self.dearest, run.choices), default=0)
                    )
                    level.append(run)
            levels.append(level)
            self.bound = self.exploring
            self.exploring += 1
        self._exhausted = True

    def _starts(self, levels: list[list[_Run]]) -> Iterator[tuple[Deviation, ...]]:
        """What costs `exploring` because of its last deviation."""
        if not levels:
            yield ()
        for cost, level in enumerate(levels):
            for run in level:
                yield from self._children(run, self.exploring - cost)
            # Those that lead to something dearer still.
            level[:] = [
                run
                for run in level
                if cost + max(map(self.dearest, run.choices), default=0) > self.exploring
            ]

    def _children(self, run: _Run, cost: int) -> Iterator[tuple[Deviation, ...]]:
        """*run*, with one more deviation that costs so much."""
        for i, choices in enumerate(run.choices):
            for choice in self.costing(choices, cost):
                yield (*run.deviations, Deviation(run.first + i, choice, choices))

    def _ended(self, deviations: tuple[Deviation, ...]) -> _Run:
        first = deviations[-1].step + 1 if deviations else 0
        return _Run(deviations, first, array("h", self._choices[first:]))

    def end(self, execution: Execution) -> None:
        cut_short = execution.finding is not None or execution.scheduler_error is not None
        if self._due < len(self._deviations) and not cut_short:
            raise Nondeterminism(
                f"step {self._step}: the execution ended, which went on under the same choices before: "
                "the program does not depend on its schedule alone"
            )

    @property
    def exhaustive(self) -> bool:
        """Whether nothing was cut off by a limit."""
        return self._exhausted

    # -- what a bound is

    @abstractmethod
    def choices(self, enabled: Sequence[Task], current: Task) -> int:
        """How many choices there are besides the default, and what they cost, as one number. 0: none."""

    @abstractmethod
    def take(self, enabled: Sequence[Task], current: Task, choice: int) -> Task:
        """The default, which is choice 0, or another one. The default is to stay on *current* if it is enabled."""

    @abstractmethod
    def costing(self, choices: int, cost: int) -> range:
        """Which of *choices*, besides the default, cost exactly *cost*."""

    @abstractmethod
    def dearest(self, choices: int) -> int:
        """What the dearest of *choices* costs."""
