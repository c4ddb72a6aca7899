"""Depth-first search: every schedule, each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from concmem.errors import Nondeterminism
from concmem.explore.scheduler import Scheduler
from concmem.explore.task import Task

if TYPE_CHECKING:
    from concmem.explore.execution import Execution


class DFS(Scheduler):
    """All schedules; the default one first, then those that differ from it as late as possible."""

    name: ClassVar[str] = "dfs"

    def reset(self, seed: int) -> None:
        self._nodes: list[list[int]] = []
        """For each step: the choice taken, and how many there are."""
        self._begun = False

    def begin(self, execution: Execution) -> bool:
        nodes = self._nodes
        if self._begun:
            while nodes and nodes[-1][0] + 1 >= nodes[-1][1]:
                nodes.pop()
            if not nodes:
                return False
            nodes[-1][0] += 1
        self._begun = True
        self._depth = 0
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        depth = self._depth
        self._depth = depth + 1
        nodes = self._nodes
        if depth == len(nodes):
            nodes.append([0, len(enabled)])
            choice = 0
        else:
            choice, nr = nodes[depth]
            if nr != len(enabled):
                raise Nondeterminism(
                    f"step {depth}: {nr} tasks were enabled before, now {len(enabled)} are: the "
                    "program does not depend on its schedule alone"
                )
        default = current if current.enabled else enabled[0]
        if choice == 0:
            return default
        others = [task for task in enabled if task is not default]
        return others[choice - 1]

    def end(self, execution: Execution) -> None:
        cut_short = execution.finding is not None or execution.scheduler_error is not None
        if self._depth < len(self._nodes) and not cut_short:
            raise Nondeterminism(
                f"step {self._depth}: the execution ended, which went on under the same choices before: "
                "the program does not depend on its schedule alone"
            )

    @property
    def exhaustive(self) -> bool:
        return True
