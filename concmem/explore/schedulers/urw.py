"""
URW: uniform random walk (Zhao et al., "Selectively Uniform Concurrency Testing", ASPLOS 2025).

A plain random walk prefers interleavings in which tasks take turns evenly, whatever they have left to do. Here a
task is chosen with a probability in proportion to the events that it, and the tasks it is still to start, have
left. So every interleaving is equally likely, if the counts are exact and nothing blocks. The counts come from
the first executions, the pilots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from concmem.explore.schedulers.census import Census, Piloted, Weights
from concmem.explore.task import Task


class URW(Piloted):
    """Each enabled task in proportion to what it has left to do."""

    name: ClassVar[str] = "urw"

    def prepare(self, census: Census) -> None:
        # At least 1: who goes on has something to do.
        self._weights = Weights(census.events, census.starters, least=1)

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        if self.census is None:
            return self.choose_as_pilot(enabled, current)
        weights = self._weights
        task = enabled[0] if len(enabled) == 1 else weights.draw(enabled, self.random())
        if weights.unborn:
            weights.start(task)
        weights.done(task)
        return task
