"""What DPOR claims at its end, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from concmem import explore
from concmem.errors import ScheduleAbandoned
from concmem.explore import ControlledRuntime, Program
from concmem.explore.runner import Limits, Runner, failure_from

from .programs import abba, counter, lost_wakeup


def failures(program: Callable[[ControlledRuntime], Program], most: int = 2000) -> set[Any]:
    """The kind and the error of each failure that DPOR finds, to its end."""
    found = set()
    scheduler = explore.DPOR()
    runner = Runner(program, limits=Limits(max_steps=300))
    with runner.session():
        for _ in range(most):
            execution = runner.run_once(scheduler)
            if execution is None:
                assert scheduler.exhaustive
                return found
            failure = failure_from(execution)
            if failure is not None:
                found.add((failure.kind, str(failure.error).partition("\n")[0]))
    raise AssertionError("no end")


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_each_cpu_fails_once_as_the_first(order: tuple[int, ...]) -> None:
    """A failure ends an execution: the others, which share nothing with it, are met all the same."""

    def program(rt: ControlledRuntime) -> Program:
        cells = [rt.cell(0, f"cell{i}") for i in range(3)]

        def body(i: int) -> None:
            cells[i].value = 1
            assert not cells[i].value, f"body {i}"

        return Program([lambda i=i: body(i) for i in order])

    assert failures(program) == {("assertion", f"body {i}") for i in range(3)}


def test_a_failure_behind_a_failure() -> None:
    """The second body fails at its end only, long after the first one would have."""

    def program(rt: ControlledRuntime) -> Program:
        x, y = rt.cell(0, "x"), rt.cell(0, "y")

        def soon() -> None:
            assert x.value, "soon"

        def late() -> None:
            for _ in range(3):
                y.value += 1
            assert y.value != 3, "late"

        return Program([soon, late])

    assert failures(program) == {("assertion", "soon"), ("assertion", "late")}


def test_deadlock_and_lost_wakeup_are_no_pass() -> None:
    """What only some schedules meet is found, and "exhausted" is not said."""
    for program, kind in ((abba, "deadlock"), (lost_wakeup, "lost-wakeup")):
        outcome = explore.check(program, "dpor", shrink=False)
        assert outcome.failure is not None
        assert outcome.failure.kind == kind
        assert not outcome.exhausted


def test_spinning_ends() -> None:
    """Who yields waits for all others: few executions, and each outcome."""
    values = set()

    def program(rt: ControlledRuntime) -> Program:
        flag, x = rt.cell(0, "flag"), rt.cell(0, "x")

        def spin() -> None:
            while not flag.value:
                rt.cpu_relax()
            values.add(x.value)

        def set_flag() -> None:
            flag.value = 1
            x.value = 1

        return Program([spin, set_flag])

    outcome = explore.check(program, "dpor", executions=100)
    assert outcome.exhausted
    assert values == {0, 1}


def test_spinning_for_ever_is_a_failure() -> None:
    """Nobody sets the flag: a livelock, and no pass."""

    def program(rt: ControlledRuntime) -> Program:
        flag = rt.cell(0, "flag")

        def spin() -> None:
            while not flag.value:
                rt.cpu_relax()

        return Program([spin])

    outcome = explore.check(program, "dpor", max_steps=200, shrink=False)
    assert outcome.failure is not None
    assert outcome.failure.kind == "livelock"
    assert not outcome.exhausted


def test_a_step_limit_is_no_proof() -> None:
    """An execution that was cut off is a failure."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.atomic(0, "x")

        def body() -> None:
            for _ in range(20):
                x.inc()

        return Program([body, body])

    outcome = explore.check(program, "dpor", max_steps=30, shrink=False)
    assert outcome.failure is not None
    assert outcome.failure.kind == "step-limit"
    assert not outcome.exhausted


def test_what_others_break_off_is_a_gap() -> None:
    """Whoever breaks an execution off in its stead: the rest is run, but "exhausted" is not said."""

    class Impatient(explore.DPOR):
        executions = 0

        def begin(self, execution: Any) -> bool:
            self.executions += 1
            return super().begin(execution)

        def choose(self, enabled: Any, current: Any) -> Any:
            if self.executions == 2 and self._depth == 3:
                raise ScheduleAbandoned
            return super().choose(enabled, current)

    def program(rt: ControlledRuntime) -> Program:
        x = rt.atomic(0, "x")
        return Program([lambda: (x.inc(), x.inc()), x.inc, x.inc])

    whole = explore.check(program, explore.DPOR())
    assert whole.exhausted
    impatient = explore.check(program, Impatient())
    assert impatient.ended_by == "scheduler"
    assert not impatient.exhausted
    assert impatient.executions > 2


def test_a_scheduler_can_be_used_again() -> None:
    """One object, two checks: the second one begins from nothing."""
    scheduler = explore.DPOR()
    for _ in range(2):
        outcome = explore.check(counter, scheduler, shrink=False)
        assert outcome.failure is not None
        assert (outcome.failure.kind, outcome.executions) == ("assertion", 2)


def test_time_counts_where_it_is_looked_at() -> None:
    """A program that looks at the clock: all that it can see, as depth-first search does."""
    seen: dict[str, set[Any]] = {"dfs": set(), "dpor": set()}
    for name, values in seen.items():

        def program(rt: ControlledRuntime, values: set[Any] = values) -> Program:
            x = rt.cell(0, "x")

            def look() -> None:
                x.value = 1
                values.add(rt.clock_ns())

            return Program([look, lambda: [x.value for _ in range(3)]])

        assert explore.check(program, name).exhausted
    assert seen["dpor"] == seen["dfs"]
    assert len(seen["dfs"]) > 1
