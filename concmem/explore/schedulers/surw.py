"""
SURW: selectively uniform random walk (Zhao et al., "Selectively Uniform Concurrency Testing", ASPLOS 2025).

Few events decide whether a bug shows. Each execution picks an *interesting* object, those that are accessed often
more often, and makes the orders of the events on it equally likely: among the tasks, in proportion to the
interesting events that they have left, the one *intended* to come next is drawn. A random walk goes on from
there, except that others which are about to do an interesting event are held back until the intended one has done
its own.

Objects of one name count as one object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from concmem.explore.operation import LOCAL, name_of
from concmem.explore.schedulers.census import Census, Piloted, Weights
from concmem.explore.task import Task


class SURW(Piloted):
    """A random walk in which the order of the events on one object is uniform."""

    name: ClassVar[str] = "surw"

    def prepare(self, census: Census) -> None:
        shared = census.shared()
        self.interesting = self._pick({name: sum(each.values()) for name, each in shared.items()})
        """The name of the object of this execution; ``None``: nothing is shared."""
        self._weights = Weights(shared.get(self.interesting, {}), census.starters)
        self._is_interesting: dict[Any, bool] = {}
        self._held: set[Task] = set()
        self.intended: int | None = self._pick(self._weights)
        """The index of the task whose interesting event comes next; ``None``: nobody has one left."""

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        if self.census is None:
            return self.choose_as_pilot(enabled, current)
        held = self._held
        candidates = [task for task in enabled if task not in held] if held else list(enabled)
        while True:
            if not candidates:
                # The intended one waits for somebody who is held back.
                held.clear()
                self.intended = self._weights.draw(enabled, self.random()).index
                candidates = list(enabled)
            i = int(self.random() * len(candidates))
            task = candidates[i]
            if self.intended is None or not self._is_about_to(task):
                break
            if task.index == self.intended:
                held.clear()
                self._weights.done(task)
                self.intended = self._pick(self._weights)
                break
            held.add(task)
            del candidates[i]
        if self._weights.unborn:
            self._start(task)
        return task

    def _is_about_to(self, task: Task) -> bool:
        """Whether its pending event is an interesting one."""
        obj = task.object
        if obj is None or task.kind in LOCAL:
            return False
        known = self._is_interesting.get(obj)
        if known is None:
            known = self._is_interesting[obj] = name_of(obj) == self.interesting
        return known

    def _start(self, task: Task) -> None:
        """If *task* is intended for what its child has to do, that is to be decided between the two."""
        child = self._weights.start(task)
        if child is not None and task.index == self.intended:
            both = {each.index: self._weights[each.index] for each in (task, child)}
            self.intended = self._pick(both)

    def _pick(self, weights: Mapping[Any, int]) -> Any:
        """A key, in proportion to its weight; ``None`` if all are 0."""
        point = self.random() * sum(weights.values())
        for key, weight in weights.items():
            point -= weight
            if point < 0:
                return key
        return None
