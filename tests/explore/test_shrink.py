"""Shrinking ends, whatever simpler schedules turn out to be."""

from __future__ import annotations

from typing import Any

from concmem import explore
from concmem.bugs import find_bug
from concmem.explore.schedule import Schedule
from concmem.explore.shrink import Shrinker


def test_a_candidate_that_became_much_simpler() -> None:
    """What was executed may have fewer deviations than the candidate; the pass goes on with those."""

    class Simplifies(Shrinker):
        def _fails(self, candidate: Schedule) -> Schedule | None:
            return Schedule(((0, 0),))

    runner: Any = None
    shrinker = Simplifies(runner, Schedule(((3, 0), (5, 0), (7, 0))), ("", "", ""), 10.0)
    assert shrinker.lower()
    assert shrinker.best == Schedule(((0, 0),))


def test_another_way_to_the_same_failure() -> None:
    """Where leaving out one deviation after the other gets stuck, a fresh search finds few: one, of 71."""
    outcome = explore.check(find_bug("B71").program, "random", 200, seed=0)
    assert outcome.failure is not None
    assert len(explore.Schedule.parse(outcome.failure.schedule).deviations) == 1
    assert len(explore.Schedule.parse(outcome.failure.original_schedule).deviations) > 20
