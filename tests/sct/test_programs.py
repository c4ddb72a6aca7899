"""The calibrated programs have the points of an independent model, and need what the table says."""

from __future__ import annotations

from functools import cache
from math import sqrt

import pytest

from concmem import explore, sct
from concmem.errors import BadArgument
from concmem.explore.runner import Runner
from concmem.sct import BENCHMARKS, Measurement

from . import model

NAMES = list(BENCHMARKS)

LARGE = "wronglock_3"
"""Too many schedules to run them all."""

POS_RUNS = 2500
"""Of the model, from which it estimates the probability under POS."""

SMALL = [name for name in NAMES if name != LARGE]


@cache
def exact(name: str, scheduler: str) -> float:
    """The probability of the bug in one execution, from the model."""
    program, benchmark = model.PROGRAMS[name](), BENCHMARKS[name]
    if scheduler == "random":
        return model.probability_random(program)
    if scheduler == "urw":
        return model.probability_urw(program, benchmark.events)
    if scheduler == "pos":
        return model.probability_pos(program, POS_RUNS, seed=1)
    return model.probability_pct(program, int(scheduler[-1]), benchmark.steps)


CELLS = [
    (name, scheduler)
    for name in NAMES
    for scheduler in sct.COLUMNS
    # 120 orders of five tasks times 625 pairs of changes, of 26 steps each.
    if (name, scheduler) != (LARGE, "pct-3")
]


@pytest.mark.parametrize("name", SMALL)
def test_schedules_are_those_of_the_model(name: str) -> None:
    """Depth-first search runs as many schedules as the model has, and as many fail."""
    expected = list(model.outcomes(model.PROGRAMS[name]()))
    benchmark = BENCHMARKS[name]
    scheduler = explore.DFS()
    scheduler.reset(0)
    found = []
    with Runner(benchmark.program, benchmark.tasks).session() as runner:
        while (execution := runner.run_once(scheduler)) is not None:
            finding = execution.finding
            found.append(finding is not None)
            assert finding is None or finding.kind == benchmark.kind
    assert (len(found), sum(found)) == (len(expected), sum(expected))


@pytest.mark.parametrize(("name", "scheduler"), CELLS)
def test_the_table_is_the_models(name: str, scheduler: str) -> None:
    """The expected means, of 4,000 executions each, are within 3 standard errors of the exact ones."""
    probability, mean = exact(name, scheduler), BENCHMARKS[name].means[scheduler]
    if mean is None:
        assert probability == 0
        return
    executions = 10**9 if scheduler != "pos" else POS_RUNS
    failures = round(probability * executions)
    measurement = Measurement(name, scheduler, executions, failures, 0.0, mean)
    assert measurement.agrees, (
        f"{1 / probability:.2f}, not {mean}: {measurement.sigmas:+.1f} sigmas"
    )


@pytest.mark.parametrize(("name", "scheduler"), CELLS)
def test_schedulers_find_the_bugs_as_often_as_in_the_model(name: str, scheduler: str) -> None:
    """
    The share of failures in 400 executions is within 4 standard errors of the probability.

    A scheduler that is right would fail that with one seed of 16,000.
    """
    executions = 400
    probability = exact(name, scheduler)
    failures = sct.measure(BENCHMARKS[name], scheduler, executions, seed=1).failures
    variance = probability * (1 - probability)
    # For POS the model has only an estimate, too.
    error = sqrt(variance / executions + (variance / POS_RUNS if scheduler == "pos" else 0))
    assert abs(failures / executions - probability) <= 4 * error


def test_the_cell_that_the_model_is_too_slow_for() -> None:
    """Measured and expected mean differ by less than 3 standard errors."""
    assert sct.measure(BENCHMARKS[LARGE], "pct-3", executions=1000).agrees


@pytest.mark.parametrize("name", NAMES)
def test_bounds(name: str) -> None:
    """Iterative bounding finds each bug at the least bound, which the model's shortest path gives."""
    benchmark, program = BENCHMARKS[name], model.PROGRAMS[name]()
    assert model.fewest(program, model.preemptions) == benchmark.preemptions
    assert model.fewest(program, model.delays) == benchmark.delays
    assert sct.measure(benchmark, "pb").bound == benchmark.preemptions
    assert sct.measure(benchmark, "db").bound == benchmark.delays


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_bounds_of_reorder(n: int) -> None:
    """Among more and more tasks one preemption stays enough; the delays that are needed grow with them."""
    program = model.reorder(n)
    assert model.fewest(program, model.preemptions) == 1
    assert model.fewest(program, model.delays) == n - 1
    outcome = explore.check(sct.reorder_n(n), "db", shrink=False)
    assert outcome.failure is not None
    assert outcome.bound == n - 2, "covered without a failure"
    if n < 5:  # beyond, there are thousands of orders without preemption
        outcome = explore.check(sct.reorder_n(n), "pb", shrink=False)
        assert outcome.failure is not None
        assert outcome.bound == 0


@pytest.mark.parametrize("name", SMALL)
def test_twins_are_correct(name: str) -> None:
    """Every schedule of the corrected programs passes."""
    outcome = explore.check(BENCHMARKS[name].corrected, "dfs")
    assert outcome.failure is None, str(outcome.failure)
    assert outcome.exhausted


@pytest.mark.parametrize("scheduler", ["pct", "pos", "db"])
def test_the_large_twin_is_correct(scheduler: str) -> None:
    """The corrected program with the most schedules passes those that are run."""
    # Its wrong version fails after 3 to 17 of them.
    outcome = explore.check(BENCHMARKS[LARGE].corrected, scheduler, executions=400)
    assert outcome.failure is None, str(outcome.failure)


@pytest.mark.timeout(300)  # a busy host makes each of the many hand-overs wait
def test_pct_is_honest() -> None:
    """A bug of depth 3 is never found by looking for depth 2."""
    benchmark = BENCHMARKS["stringbuffer"]
    assert sct.measure(benchmark, "pct-2", executions=5000).failures == 0
    # Each execution finds it with 1/50: none of 400 with 0.03 %.
    assert sct.measure(benchmark, "pct-3", executions=400).failures > 0


def test_failures_replay() -> None:
    """What is found is a failure like any other: it shrinks to the fewest preemptions, and replays."""
    for benchmark in BENCHMARKS.values():
        # Each execution finds it with at least 1/16: none of 1,000 with less than 1e-27.
        outcome = explore.check(benchmark.program, "pos", executions=1000)
        assert outcome.failure is not None
        again = explore.replay(benchmark.program, outcome.failure.schedule).failure
        assert again is not None
        assert again.identity == outcome.failure.identity


def test_agreement() -> None:
    """What counts as sampling error, and what does not."""

    def agrees(failures: int, expected: float | None, never: bool = False) -> bool | None:
        return Measurement("name", "pos", 4000, failures, 1.0, expected, never).agrees

    # Both means come from 4,000 executions: 400 and 100 failures, each give or take its root.
    assert [agrees(n, 10.0) for n in (300, 340, 400, 460, 500)] == [False, True, True, True, False]
    assert [agrees(n, 40.0) for n in (50, 65, 100, 140, 160)] == [False, True, True, True, False]
    assert [agrees(n, None, never=True) for n in (0, 1)] == [True, False]
    assert agrees(10, None) is None
    assert Measurement("name", "db", 7, 1, 1.0, 2, bound=2).agrees
    assert not Measurement("name", "db", 7, 1, 1.0, 2, bound=1).agrees
    assert not Measurement("name", "db", 7, 0, 1.0, 2).agrees
    assert Measurement("name", "dfs", 7, 1, 1.0).agrees is None


def test_unknown_scheduler() -> None:
    """The names are in the message."""
    with pytest.raises(BadArgument, match="pct-2"):
        sct.measure(BENCHMARKS["account"], "pct")


def test_scheduler_of_ones_own() -> None:
    """A random one is measured like the others; one that ends is refused."""
    benchmark = BENCHMARKS["lazy01"]
    mine = sct.measure(benchmark, explore.RandomWalk(), 100, seed=1)
    assert (mine.scheduler, mine.failures) == (
        "random",
        sct.measure(benchmark, "random", 100, seed=1).failures,
    )
    with pytest.raises(BadArgument, match="rr has run out"):
        sct.measure(benchmark, explore.RoundRobin())
