"""What every scheduler is: a policy that picks the next task at each scheduling point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task


class Scheduler(ABC):
    """
    A policy: which task takes the next step.

    One object serves all executions of one check. For each execution `begin` is called, then
    `choose` before each step, then `end`.
    """

    name: ClassVar[str]

    bounds: ClassVar[str] = "deviations"
    """What `bound` counts."""

    bound: int | None = None
    """The deepest bound that has been covered completely, for schedulers that have bounds."""

    def reset(self, seed: int) -> None:  # noqa: B027
        """A new check begins. All random decisions are to follow from *seed*."""

    def begin(self, execution: Execution) -> bool:
        """
        A new execution begins; no task has run yet.

        Returns:
            False when there is nothing left to explore: everything under the scheduler's bound was.
        """
        return True

    @abstractmethod
    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        """
        Who takes the next step.

        Called on whichever CPU's thread is running; must not use primitives of the runtime.

        Args:
            enabled: the tasks whose pending operation (``task.kind``, ``task.object``) would not block,
                in the order CPUs, interrupts, kernel threads. Never empty. Not to be changed, or kept.
            current: who took the last step. It may be enabled or not; one that is not has blocked,
                yielded or ended.

        Returns:
            One of *enabled*.

        Raises:
            ScheduleAbandoned: this execution need not go on: others cover it.
        """

    def end(self, execution: Execution) -> None:  # noqa: B027
        """The execution has ended, well or not; its ``trace`` is complete."""

    @property
    def exhaustive(self) -> bool:
        """Whether ``begin() -> False`` means that the whole space of schedules was covered."""
        return False

    def probability(self, executions: int, steps: int, tasks: int) -> float | None:
        """
        A lower bound of the probability that a bug of the scheduler's depth would have been found.

        *steps* and *tasks*: the most that one execution had. ``None`` for schedulers without one.
        """
        return None
