"""
What an execution consists of: how many events each task has, and on what. For schedulers that weigh tasks.

Tasks are known by `Task.index`, objects by their names, so that the counts of one execution serve the next.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from concmem.explore import operation as op
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


PILOTS: Final = 20
"""Executions of which events are counted."""


def started_by(kind: str | None, obj: Any) -> Task | None:
    """The task that such an operation starts: a body, or the interrupts of a CPU."""
    if kind is op.SPAWN:
        task: Task = obj.main
        return task
    if kind is op.SEND:
        return getattr(obj, "irq", None)  # none for an interrupt to all CPUs
    return None


@dataclass(frozen=True)
class Census:
    """How many events there are in an execution."""

    events: Mapping[int, int]
    """Of each task."""
    starters: Mapping[int, int] = field(default_factory=dict)
    """For each task that does nothing before another one starts it: which one that is."""
    accesses: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """For each name of an object: of each task, the events on it that others could see."""

    @classmethod
    def of(cls, execution: Execution) -> Census:
        """Count what is in the trace of *execution*."""
        events: Counter[int] = Counter()
        starters: dict[int, int] = {}
        accesses: dict[str, Counter[int]] = {}
        trace = execution.trace
        for position in range(0, len(trace), 3):
            task, kind, obj = trace[position : position + 3]
            if kind in op.NOTES or task is None:
                continue
            events[task.index] += 1
            if kind in op.LOCAL or obj is None:
                continue
            accesses.setdefault(op.name_of(obj), Counter())[task.index] += 1
            child = started_by(kind, obj)
            if child is not None and child.index not in events:
                starters.setdefault(child.index, task.index)
        return cls(events, starters, accesses)

    def longest(self, other: Census) -> Census:
        """Of each count the larger one."""
        names = {**self.accesses, **other.accesses}
        accesses = {
            name: _longest(self.accesses.get(name, {}), other.accesses.get(name, {}))
            for name in names
        }
        starters = {**other.starters, **self.starters}
        return Census(_longest(self.events, other.events), starters, accesses)

    def shared(self) -> dict[str, Mapping[int, int]]:
        """`accesses` of what more than one task has accessed."""
        return {name: counts for name, counts in self.accesses.items() if len(counts) > 1}


def _longest(counts: Mapping[int, int], others: Mapping[int, int]) -> dict[int, int]:
    return {
        index: max(counts.get(index, 0), others.get(index, 0)) for index in {**counts, **others}
    }


class Weights(dict[int, int]):
    """
    By `Task.index`, what is left for each task to do, with what is left for the tasks that it is still to start.

    Args:
        counts: of each task alone.
        starters: see `Census.starters`.
        least: no weight is less, whatever was counted.
    """

    def __init__(
        self, counts: Mapping[int, int], starters: Mapping[int, int], least: int = 0
    ) -> None:
        self._least = least
        self.unborn = dict(starters)
        """Tasks that have not been started: who will."""

        def with_children(index: int) -> int:
            children = (child for child, starter in starters.items() if starter == index)
            return counts.get(index, 0) + sum(map(with_children, children))

        for index in {*counts, *starters, *starters.values()}:
            self[index] = max(least, with_children(index))

    def __missing__(self, index: int) -> int:
        return self._least

    def done(self, task: Task) -> None:
        """*task* has one event less."""
        left = self[task.index]
        if left > self._least:
            self[task.index] = left - 1

    def start(self, task: Task) -> Task | None:
        """*task* does its pending operation; the task that this starts for the first time."""
        child = started_by(task.kind, task.object)
        if child is None:
            return None
        starter = self.unborn.pop(child.index, None)
        if starter is None:
            return None
        self[starter] = max(self._least, self[starter] - self[child.index])
        return child

    def draw(self, tasks: Sequence[Task], point: float) -> Task:
        """The one of *tasks* at *point*, which is 0 to 1, when each has as much room as its weight."""
        total = 0
        for task in tasks:
            total += self[task.index]
        point *= total
        for task in tasks:
            point -= self[task.index]
            if point < 0:
                break
        return task


class Piloted(Scheduler):
    """
    A scheduler that counts before it chooses.

    The first execution is a pilot: the default schedule. If that fails or is broken off, so are its counts, and
    random walks follow until one comes to its end. It may have taken a short way, so the longest counts of the
    first `PILOTS` executions are used.

    Args:
        census: the counts, if they are known: then there is no pilot.
    """

    def __init__(self, census: Census | None = None) -> None:
        self._known = census
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.random = Random(f"{self.name}/{seed}").random
        self.census = self._known
        """What was counted, once something was."""
        self._begun = 0

    def begin(self, execution: Execution) -> bool:
        self._begun += 1
        if self.census is not None:
            self.prepare(self.census)
        return True

    def choose_as_pilot(self, enabled: Sequence[Task], current: Task) -> Task:
        """To be called from `choose` while there is no `census`."""
        if self._begun == 1:
            return current if current.enabled else enabled[0]
        return enabled[int(self.random() * len(enabled))]

    @abstractmethod
    def prepare(self, census: Census) -> None:
        """An execution begins that is no pilot."""

    def end(self, execution: Execution) -> None:
        if self._known is not None or (self._begun > PILOTS and self.census is not None):
            return
        # A check after the end may have failed; else all bodies have come to theirs.
        finding = execution.finding
        failed = finding is not None and finding.task is not None
        if failed or execution.unfinished or execution.scheduler_error is not None:
            return
        census = Census.of(execution)
        self.census = census if self.census is None else self.census.longest(census)
