"""
How many executions schedulers need for a bug, and whether that is what they are expected to need.

Executions of a random scheduler are independent of each other, so the number of them until a bug shows is
geometrically distributed: with *f* failures in *n* executions its mean is n/f, within a standard error of
about a share 1/sqrt(f) of that. The expected means come from 4,000 executions each, so they are no better.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import sqrt
from time import perf_counter
from typing import Final

from concmem.errors import BadArgument
from concmem.explore import (
    DFS,
    DPOR,
    PCT,
    POS,
    SURW,
    URW,
    DelayBounding,
    PreemptionBounding,
    RandomWalk,
    Scheduler,
)
from concmem.explore.runner import Runner
from concmem.explore.schedulers.census import PILOTS
from concmem.sct.benchmark import EXPECTED_EXECUTIONS, Benchmark

MOST: Final = 100_000
"""Executions after which a systematic search is given up."""

SIGMAS: Final = 3.0
"""So many standard errors of a difference are chance."""


def _pct(depth: int, benchmark: Benchmark) -> Scheduler:
    return PCT(depth, steps=benchmark.steps)


RANDOM: Final[dict[str, Callable[[Benchmark], Scheduler]]] = {
    "random": lambda _: RandomWalk(),
    "pct-2": partial(_pct, 2),
    "pct-3": partial(_pct, 3),
    "pos": lambda _: POS(),
    "urw": lambda benchmark: URW(benchmark.census),
    "surw": lambda _: SURW(),
}
"""Schedulers whose executions are independent of each other."""

SYSTEMATIC: Final[dict[str, Callable[[Benchmark], Scheduler]]] = {
    "pb": lambda _: PreemptionBounding(),
    "db": lambda _: DelayBounding(),
    "dfs": lambda _: DFS(),
    "dpor": lambda _: DPOR(),
}
"""Schedulers that leave nothing out, or nothing that matters."""


@dataclass(frozen=True)
class Measurement:
    """One scheduler on one program."""

    benchmark: str
    scheduler: str
    executions: int
    failures: int
    seconds: float
    expected: float | None = None
    """The expected mean; for systematic schedulers the expected bound."""
    never: bool = False
    """Whether it is expected to find nothing."""
    bound: int | None = None
    """The bound at which the bug was found, for schedulers that have bounds."""

    @property
    def mean(self) -> float | None:
        """Executions until the bug shows; ``None``: it never did."""
        return self.executions / self.failures if self.failures else None

    @property
    def sigmas(self) -> float | None:
        """
        How far the share of failures is from the expected one, in standard errors of the difference.

        ``None``: nothing is expected, or that nothing is found.
        """
        if self.expected is None or self.scheduler in SYSTEMATIC:
            return None
        found = self.failures / self.executions
        # The expected mean is rounded to one decimal: any of those that it may have been.
        low, high = 1 / (self.expected + 0.05), 1 / (self.expected - 0.05)
        expected = min(max(found, low), high)
        n, m = self.executions, EXPECTED_EXECUTIONS
        both = (self.failures + expected * m) / (n + m)
        error = sqrt(both * (1 - both) * (1 / n + 1 / m))
        return (found - expected) / error if error else 0.0

    @property
    def agrees(self) -> bool | None:
        """Whether it is as expected, within sampling error; ``None``: nothing is expected."""
        if self.never:
            return self.failures == 0
        if self.scheduler in SYSTEMATIC:
            return None if self.expected is None else self.bound == self.expected
        return None if self.sigmas is None else abs(self.sigmas) <= SIGMAS


def measure(
    benchmark: Benchmark,
    scheduler: str | Scheduler,
    executions: int = EXPECTED_EXECUTIONS,
    seed: int = 0,
) -> Measurement:
    """
    Run *benchmark* under the scheduler of that name, or under a random one of your own.

    One of `RANDOM` has *executions*, and a few more before that are not counted: some schedulers need them to
    learn the program. One of `SYSTEMATIC` goes on until it finds the bug.

    Raises:
        BadArgument: there is no such scheduler.
    """
    if isinstance(scheduler, Scheduler):
        return _measure_random(benchmark, scheduler.name, scheduler, executions, seed)
    if scheduler in RANDOM:
        policy = RANDOM[scheduler](benchmark)
        return _measure_random(benchmark, scheduler, policy, executions, seed)
    if scheduler in SYSTEMATIC:
        return _measure_systematic(benchmark, scheduler)
    names = ", ".join((*RANDOM, *SYSTEMATIC))
    raise BadArgument(f"scheduler: there is no {scheduler!r}, only {names}")


def _measure_random(
    benchmark: Benchmark, name: str, policy: Scheduler, executions: int, seed: int
) -> Measurement:
    policy.reset(seed)
    failures = 0
    start = perf_counter()
    with Runner(benchmark.program, benchmark.tasks).session() as runner:
        for _ in range(PILOTS):
            runner.run_once(policy)
        for _ in range(executions):
            failures += _has_failed(runner, policy, benchmark)
    expected = benchmark.means.get(name)
    never = expected is None and name in benchmark.means
    seconds = perf_counter() - start
    return Measurement(benchmark.name, name, executions, failures, seconds, expected, never=never)


def _measure_systematic(benchmark: Benchmark, scheduler: str) -> Measurement:
    policy = SYSTEMATIC[scheduler](benchmark)
    policy.reset(0)
    executions, failed = 0, False
    start = perf_counter()
    with Runner(benchmark.program, benchmark.tasks).session() as runner:
        while not failed and executions < MOST:
            executions += 1
            failed = _has_failed(runner, policy, benchmark)
    expected = {"pb": benchmark.preemptions, "db": benchmark.delays}.get(scheduler)
    found_at = None
    if failed and expected is not None:
        found_at = 0 if policy.bound is None else policy.bound + 1
    return Measurement(
        benchmark.name,
        scheduler,
        executions,
        failed,
        perf_counter() - start,
        expected,
        bound=found_at,
    )


def _has_failed(runner: Runner, policy: Scheduler, benchmark: Benchmark) -> bool:
    execution = runner.run_once(policy)
    if execution is None:
        raise BadArgument(f"scheduler: {policy.name} has run out of schedules of {benchmark.name}")
    finding = execution.finding
    if finding is None:
        return False
    assert finding.kind == benchmark.kind, f"{benchmark.name}: {finding}"
    return True
