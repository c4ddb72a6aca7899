"""Every scheduler keeps the promises of the base class; schedulers that break one are found out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, ClassVar

import pytest

from concmem.explore import (
    DFS,
    PCT,
    SCHEDULERS,
    DelayBounding,
    NondeterminismCheck,
    PreemptionBounding,
    RandomWalk,
    RoundRobin,
    Scheduler,
)
from concmem.explore.task import Task
from concmem.testing import run_scheduler_conformance_test


@pytest.mark.parametrize("name", SCHEDULERS)
def test_conforms(name: str) -> None:
    """Each scheduler that has a name."""
    run_scheduler_conformance_test(SCHEDULERS[name])


@pytest.mark.parametrize(
    "make",
    [
        lambda: PCT(depth=1),
        lambda: PCT(depth=6, steps=5),
        lambda: RoundRobin(quantum=3),
        lambda: PreemptionBounding(limit=1),
        lambda: DelayBounding(limit=2),
        lambda: NondeterminismCheck(PCT()),
        lambda: NondeterminismCheck(DFS()),
    ],
)
def test_conforms_with_arguments(make: Callable[[], Scheduler]) -> None:
    """Others than the defaults."""
    run_scheduler_conformance_test(make)


class ChoosesAnyTask(RandomWalk):
    """Remembers tasks, and chooses one of them that may have ended."""

    def begin(self, execution: Any) -> bool:
        self._seen: list[Task] = []
        return True

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        self._seen += [task for task in enabled if task not in self._seen]
        return self._seen[0]


class ChangesTheList(RandomWalk):
    """Takes what it chooses out of the list."""

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        task = super().choose(enabled, current)
        enabled.remove(task)  # type: ignore[attr-defined]
        enabled.append(task)  # type: ignore[attr-defined]
        return task


class HasItsOwnSeed(RandomWalk):
    """What it does follows from nothing that is passed to it."""

    _generator = Random(0)

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        return enabled[int(self._generator.random() * len(enabled))]


class ForgetsToReset(RandomWalk):
    """The second search goes on where the first one ended."""

    def __init__(self) -> None:
        super().__init__()
        super().reset(0)

    def reset(self, seed: int) -> None:
        pass


class PretendsToBeExhaustive(RandomWalk):
    """Ends after a few executions."""

    exhaustive: ClassVar[bool] = True  # type: ignore[assignment]

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._left = 4

    def begin(self, execution: Any) -> bool:
        self._left -= 1
        return self._left >= 0


class BeginsAgainAfterTheEnd(PretendsToBeExhaustive):
    """Ends, and then does not."""

    exhaustive: ClassVar[bool] = False  # type: ignore[assignment]

    def begin(self, execution: Any) -> bool:
        self._left -= 1
        return self._left != 0


class IsStuckAfterAFailure(RandomWalk):
    """Does not expect that executions fail."""

    def end(self, execution: Any) -> None:
        if execution.finding is not None:
            raise RuntimeError("that was not to be")


class IsStuckAfterAnAbandonedOne(RandomWalk):
    """Does not expect that executions are broken off."""

    def end(self, execution: Any) -> None:
        if execution.scheduler_error is not None:
            raise RuntimeError("that was not to be")


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        (ChoosesAnyTask, "chooses_enabled_tasks"),
        (ChangesTheList, "chooses_enabled_tasks"),
        (HasItsOwnSeed, "same_seed_same_search"),
        (ForgetsToReset, "same_seed_same_search"),
        (IsStuckAfterAFailure, "goes_on_after_failures"),
        (IsStuckAfterAnAbandonedOne, "goes_on_after_abandoned_executions"),
        (PretendsToBeExhaustive, "exhaustive_is_exhaustive"),
        (BeginsAgainAfterTheEnd, "exhaustive_is_exhaustive"),
    ],
)
def test_is_found_out(scheduler: Callable[[], Scheduler], name: str) -> None:
    """The message starts with the property that does not hold."""
    with pytest.raises(AssertionError, match=f"^{name}: "):
        run_scheduler_conformance_test(scheduler)
