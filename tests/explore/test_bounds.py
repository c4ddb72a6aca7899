"""Iterative bounding: every schedule once, in the order of its cost, compared with brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import Any, ClassVar, NamedTuple

import pytest

from concmem import explore
from concmem.errors import BadArgument
from concmem.explore import (
    DFS,
    ControlledRuntime,
    DelayBounding,
    PreemptionBounding,
    Program,
    Scheduler,
)
from concmem.explore.runner import MakeProgram, Runner
from concmem.explore.schedulers.bounded import Bounded
from concmem.explore.task import Task

from .programs import abba, counter, mutual_exclusion


class Choice(NamedTuple):
    """What there was to choose from, and what was chosen, by `Task.index`."""

    enabled: tuple[int, ...]
    current: int
    chosen: int


class Recorder(Scheduler):
    """Notes the choices of another scheduler."""

    name: ClassVar[str] = "recorder"

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        scheduler.reset(0)
        self.begin = scheduler.begin  # type: ignore[method-assign]
        self.end = scheduler.end  # type: ignore[method-assign]
        self.choices: list[Choice] = []

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        chosen = self._scheduler.choose(enabled, current)
        indexes = tuple(task.index for task in enabled)
        self.choices.append(Choice(indexes, current.index, chosen.index))
        return chosen


Run = tuple[Choice, ...]


def search(program: MakeProgram, scheduler: Scheduler, most: int = 20_000) -> list[Run]:
    """The choices of all executions."""
    recorder = Recorder(scheduler)
    runs: list[Run] = []
    with Runner(program).session() as runner:
        while runner.run_once(recorder) is not None:
            runs.append(tuple(recorder.choices))
            recorder.choices.clear()
            assert len(runs) < most
    return runs


def preemptions(run: Run) -> int:
    """Switches away from a task that could go on."""
    return sum(each.current in each.enabled and each.chosen != each.current for each in run)


def delays(run: Run) -> int:
    """Tasks that were skipped, counted from the current one in a round."""
    skipped = 0
    for enabled, current, chosen in run:
        turn = current
        while turn != chosen:
            skipped += turn in enabled
            turn = turn + 1 if turn < max(enabled) else min(enabled)
    return skipped


def random_program(seed: int) -> MakeProgram:
    """Two or three bodies, of locks, cells and yields, and sometimes an interrupt or a body that is started."""

    def program(rt: ControlledRuntime) -> Program:
        rng = Random(seed)
        lock, x = rt.spinlock("lock", irqsave=True), rt.cell(0, "x")

        def access() -> None:
            x.value += 1

        def section() -> None:
            with lock:
                pass

        def body(operations: list[Callable[[], Any]]) -> Callable[[], None]:
            def run() -> None:
                for operation in operations:
                    operation()

            return run

        nr_bodies = rng.choice((2, 2, 3))
        kinds = [access, section, rt.cond_resched, rt.cpu_relax]
        bodies = [body(rng.choices(kinds, k=4 - nr_bodies)) for _ in range(nr_bodies)]
        if rng.random() < 0.3:
            bodies[0] = body([lambda: rt.submit(nr_bodies, section), access])
            return Program([*bodies, None])
        interrupts = [(0, rt.cond_resched)] if rng.random() < 0.4 else []
        return Program(bodies, interrupts=interrupts)

    return program


BOUNDED = [(PreemptionBounding, preemptions), (DelayBounding, delays)]

Cost = Callable[[Run], int]


@pytest.mark.parametrize(("make", "cost"), BOUNDED)
@pytest.mark.parametrize("seed", range(8))
def test_every_schedule_once_by_cost(make: Callable[[], Bounded], cost: Cost, seed: int) -> None:
    """The same schedules as depth-first search, each once, none before a cheaper one."""
    program = random_program(seed)
    everything = search(program, DFS())
    assert len(set(everything)) == len(everything)
    scheduler = make()
    runs = search(program, scheduler)
    assert Counter(runs) == Counter(everything)
    costs = list(map(cost, runs))
    assert all(a <= b for a, b in pairwise(costs))
    assert scheduler.exhaustive
    assert scheduler.bound is not None
    assert scheduler.bound >= costs[-1]


@pytest.mark.parametrize(("make", "cost"), BOUNDED)
@pytest.mark.parametrize("seed", [1, 3, 4])
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_limit(make: Callable[[int], Bounded], cost: Cost, seed: int, limit: int) -> None:
    """Nothing above it, everything below; exhausted only where it cut nothing off."""
    program = random_program(seed)
    everything = search(program, DFS())
    outcome = explore.check(program, make(limit), executions=20_000)
    below = [run for run in everything if cost(run) <= limit]
    assert outcome.failure is None
    assert outcome.executions == len(below)
    assert outcome.exhausted is (len(below) == len(everything))
    assert outcome.ended_by == ("exhausted" if outcome.exhausted else "scheduler")
    assert outcome.bound == min(limit, max(map(cost, everything)))


def test_bound_is_the_deepest_finished() -> None:
    """It is told while the next one is on, and a limit of executions is no end of a bound."""
    program = random_program(0)
    runs = search(program, PreemptionBounding())
    for executions in range(1, len(runs)):
        outcome = explore.check(program, "pb", executions=executions)
        assert not outcome.exhausted
        assert outcome.ended_by == "executions"
        # Whatever comes next is at least as dear, and the bound before that is finished.
        last = preemptions(runs[executions - 1])
        assert outcome.bound == (last - 1 if last else None)


def test_failures_come_at_their_exact_bound() -> None:
    """A bug that needs one preemption is found when all schedules without any have passed."""
    for program in (counter, abba):
        for scheduler in ("pb", "db"):
            outcome = explore.check(program, scheduler, shrink=False)
            assert outcome.failure is not None
            assert outcome.bound == 0
            assert outcome.failure.preemptions >= 1


def test_summary_says_what_was_covered() -> None:
    """In words: what is counted, and that there is more."""
    program = random_program(1)
    outcome = explore.check(program, PreemptionBounding(0))
    assert "Every schedule with at most 0 preemptions was covered." in str(outcome)
    assert "Not exhausted" in str(outcome)
    outcome = explore.check(program, DelayBounding(1))
    assert "Every schedule with at most 1 delay was covered." in str(outcome)
    # Whoever comes first has the lock until it ends: two schedules, and no preemption anywhere.
    outcome = explore.check(mutual_exclusion, PreemptionBounding(0))
    assert (outcome.executions, outcome.bound) == (2, 0)
    assert "Exhausted" in str(outcome)


@pytest.mark.parametrize("make", [PreemptionBounding, DelayBounding])
def test_bad_limit(make: Callable[[int], Bounded]) -> None:
    """It is named."""
    with pytest.raises(BadArgument, match="limit"):
        make(-1)
