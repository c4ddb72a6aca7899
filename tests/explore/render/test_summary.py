"""What an outcome says it means, for every scheduler."""

from __future__ import annotations

import re

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Outcome, Program
from concmem.explore.schedulers import SCHEDULERS

from ..programs import counter, mutual_exclusion


def increments(rt: ControlledRuntime) -> Program:
    """Correct, and with many more schedules than are run here."""
    x = rt.atomic(0, "x")

    def body() -> None:
        for _ in range(12):
            x.inc()

    return Program([body, body, body])


def text_of(outcome: Outcome) -> str:
    """In one line."""
    return " ".join(outcome.to_text(1000).split())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_pass_says_how_much_was_run(scheduler: str) -> None:
    """Executions, steps, scheduler and seed, and what cannot be found."""
    outcome = explore.check(increments, scheduler, executions=50, seed=7)
    text = text_of(outcome)
    assert re.match(rf"Nothing found: {outcome.executions} executions? of 36 steps in ", text)
    assert f"scheduler {scheduler}, seed 7." in text
    assert "memory orders weaker than sequential consistency" in text
    assert ("Exhausted" in text) == outcome.exhausted


@pytest.mark.parametrize("scheduler", sorted(set(SCHEDULERS) & {"dfs", "pb", "db", "dpor"}))
def test_exhausted(scheduler: str) -> None:
    """Only where there is no other schedule."""
    text = text_of(explore.check(mutual_exclusion, scheduler))
    assert "Exhausted: " in text
    assert "Not exhausted" not in text


@pytest.mark.parametrize(("scheduler", "unit"), [("pb", "preemption"), ("db", "delay")])
def test_bounds(scheduler: str, unit: str) -> None:
    """Which bound was covered, and what the bound is of."""
    outcome = explore.check(increments, scheduler, executions=100)
    text = text_of(outcome)
    assert outcome.bound is not None
    assert f"Every schedule with at most {outcome.bound} {unit}" in text
    assert "Not exhausted, since the number of executions was limited" in text


def test_a_bound_that_was_given() -> None:
    """That the scheduler stops at its limit is not the end of all schedules."""
    outcome = explore.check(increments, explore.PreemptionBounding(1), executions=10_000)
    assert not outcome.exhausted
    text = text_of(outcome)
    assert "Every schedule with at most 1 preemption was covered." in text
    assert "Not exhausted, since the scheduler's bound was limited" in text


def test_odds_of_pct() -> None:
    """The bound of the paper, computed here once more: 1 - (1 - 1 / (n k^(d-1)))^runs."""
    for runs in (5, 2000):
        outcome = explore.check(increments, explore.PCT(depth=2, steps=36), executions=runs)
        missed = (1 - 1 / (3 * 36)) ** runs
        text = text_of(outcome)
        if runs == 5:
            assert (
                f"A bug of depth 2 would have been found with odds of at least 1 in {1 / (1 - missed):.0f}:"
                in text
            )
        else:
            assert (
                f"A bug of depth 2 would have been missed with odds of at most 1 in {1 / missed:,.0f}."
                in text
            )


def test_random_promises_nothing() -> None:
    """How many schedules were different is all that is known."""
    outcome = explore.check(increments, "random", executions=50)
    text = text_of(outcome)
    assert f"{outcome.coverage.schedules} different schedules of an unknown number" in text
    assert "no bound" in text


def test_why_it_ended() -> None:
    """By a limit of time, or by the user."""
    outcome = explore.check(increments, "random", executions=10**9, seconds=0.05)
    assert "since the time was limited" in text_of(outcome)
    outcome.ended_by = "interrupt"
    assert "since it was interrupted" in text_of(outcome)


def test_what_was_switched_on_is_not_said_to_be_missing() -> None:
    """Time-outs and wake-ups without a reason are not looked for unless asked; detectors are unless not."""
    text = text_of(explore.check(mutual_exclusion, "dfs"))
    assert "time-outs that come early" in text
    assert "spurious wake-ups" in text
    assert "data races" not in text
    text = text_of(
        explore.check(
            mutual_exclusion, "dfs", early_timeouts=1, spurious_wakeups=1, detectors={"lockdep"}
        )
    )
    assert "time-outs" not in text
    assert "spurious" not in text
    assert "data races" in text


def test_replay_of_a_pass() -> None:
    """One schedule says nothing about others."""
    outcome = explore.replay(counter, "v1:")
    assert "passes under this schedule; that says nothing about others" in text_of(outcome)


def test_how_a_failure_was_found() -> None:
    """Which execution, and how much simpler the schedule was made; before the line to replay."""
    outcome = explore.check(counter, "random", seed=3)
    assert outcome.failure is not None
    before = len(explore.Schedule.parse(outcome.failure.original_schedule).deviations)
    text = text_of(outcome)
    found = f"Found by execution {outcome.failure.executions} of scheduler random, seed 3, after "
    assert found in text
    assert re.search(
        rf"; shrunk from {before} deviations? to 1 \(1 preemption\)\.|; its schedule has 1 deviation",
        text,
    )
    assert str(outcome).splitlines()[-1] == outcome.failure.replay_line


def test_parts_that_were_left_out() -> None:
    """Shrinking may drop operations; that is said."""

    def program(rt: ControlledRuntime) -> Program:
        x, y = rt.cell(0, "x"), rt.cell(0, "y")

        def add() -> None:
            value = x.value
            x.value = value + 1
            if x.value != value + 1:
                raise AssertionError("overtaken")

        def other() -> None:
            y.value = y.value + 1

        return Program([[other, add, other], [other, add, other]])

    outcome = explore.check(program, "random")
    assert outcome.failure is not None
    assert "-" in outcome.failure.schedule
    assert re.search(r", and \d parts? of the program left out\.", text_of(outcome))
