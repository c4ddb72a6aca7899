"""
Searches by a bound that grows: every schedule of cost 0, then of cost 1, and so on, each exactly once.

What a choice costs is up to the subclass. A prefix whose next choice would go over the bound is kept for the next
bound, so nothing is run twice and each schedule runs at its exact cost. The search is exhaustive when no prefix
was kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from concmem.errors import Nondeterminism
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution

Prefix = tuple[int, ...]
"""The choices from the beginning, as numbers; 0 is the free one."""


class BoundedSearch(Scheduler):
    """
    Depth first within a bound, then the next bound.

    Args:
        limit: the highest bound; ``None``: until everything was covered.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit

    def reset(self, seed: int) -> None:
        self.bound = None
        self._at_bound = 0
        self._stack: list[Prefix] = [()]
        """Prefixes to run within the bound of now, the last one first."""
        self._kept: dict[int, list[Prefix]] = {}
        """Prefixes that cost more, by their cost."""

    def begin(self, execution: Execution) -> bool:
        while not self._stack:
            self.bound = self._at_bound
            if not self._kept or (self._limit is not None and self._at_bound >= self._limit):
                return False
            self._at_bound += 1
            self._stack = self._kept.pop(self._at_bound, [])[::-1]
        self._prefix = self._stack.pop()
        self._choices: list[int] = []
        self._cost = 0
        self.start(execution)
        return True

    def start(self, execution: Execution) -> None:
        """A new execution: forget what the costs of the last one depended on."""

    @abstractmethod
    def options(self, enabled: Sequence[Task], current: Task) -> list[tuple[Task, int]]:
        """The tasks that may be chosen, with the cost of each; the first one is free."""

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        options = self.options(enabled, current)
        depth = len(self._choices)
        if depth < len(self._prefix):
            number = self._prefix[depth]
            if number >= len(options):
                raise Nondeterminism(
                    f"step {depth}: choice {number} was there before, now there are {len(options)}: "
                    "the program does not depend on its schedule alone"
                )
        else:
            number = 0
            self._keep_others(options)
        task, cost = options[number]
        self._choices.append(number)
        self._cost += cost
        self.chosen(task)
        return task

    def chosen(self, task: Task) -> None:
        """*task* takes the next step."""

    def _keep_others(self, options: list[tuple[Task, int]]) -> None:
        """The other choices here are prefixes to run later."""
        done = tuple(self._choices)
        for number in range(len(options) - 1, 0, -1):
            cost = self._cost + options[number][1]
            prefix = (*done, number)
            if cost <= self._at_bound:
                self._stack.append(prefix)
            else:
                self._kept.setdefault(cost, []).append(prefix)

    @property
    def exhaustive(self) -> bool:
        return not self._kept
