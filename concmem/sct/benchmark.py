"""The programs with what is known of them, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from concmem.explore import Census, ControlledRuntime, Program
from concmem.sct.programs import (
    BuggyProgram,
    account,
    bluetooth_driver,
    deadlock01,
    lazy01,
    reorder_n,
    stringbuffer,
    twostage,
    wronglock_3,
)

EXPECTED_EXECUTIONS: Final = 4000
"""How many executions each number in `Benchmark.means` comes from."""

COLUMNS: Final = ("random", "pct-2", "pct-3", "pos", "urw")
"""The schedulers that `Benchmark.means` knows."""


@dataclass(frozen=True)
class Benchmark:
    """One program, its twin, and what schedulers are expected to need for its bug."""

    name: str
    program: BuggyProgram
    kind: str
    """Of the failure: ``assertion`` or ``deadlock``."""
    events: tuple[int, ...]
    """Steps of each task, the main body first; they are the weights of `URW`."""
    preemptions: int
    """The fewest that show the bug."""
    delays: int
    """The fewest that show the bug, see `DelayBounding`."""
    means: Mapping[str, float | None]
    """For each of `COLUMNS`, the mean number of executions until the bug shows; ``None``: it never does."""

    @property
    def tasks(self) -> int:
        """How many there are, with the main body."""
        return len(self.events)

    @property
    def steps(self) -> int:
        """Of one execution, as the `steps` of `PCT`."""
        return sum(self.events)

    @property
    def census(self) -> Census:
        """`events`, for schedulers that would count them first."""
        return Census(dict(enumerate(self.events)), dict.fromkeys(range(1, self.tasks), 0))

    def corrected(self, rt: ControlledRuntime) -> Program:
        """The twin without the bug."""
        return self.program(rt, correct=True)


def _benchmark(
    program: BuggyProgram, events: tuple[int, ...], bounds: tuple[int, int],
    *means: float | None, kind: str = "assertion",
) -> Benchmark:  # fmt: skip
    by_scheduler = dict(zip(COLUMNS, means, strict=True))
    return Benchmark(program.__name__, program, kind, events, *bounds, by_scheduler)


# Program, steps of each task, fewest (preemptions, delays); executions with random, PCT-2, PCT-3, POS, URW.
_ALL: Final = (
    _benchmark(account, (3, 2, 2, 2), (0, 1), 8.9, 5.3, 6.7, 6.2, 4.8),
    _benchmark(bluetooth_driver, (5, 6), (1, 1), 16.1, 20.1, 16.9, 11.4, 12.2),
    _benchmark(deadlock01, (4, 4, 4), (1, 1), 2.7, 10.4, 6.3, 4.0, 2.0, kind="deadlock"),
    _benchmark(lazy01, (6, 2, 2, 2), (0, 0), 1.7, 1.7, 1.6, 1.8, 2.4),
    _benchmark(reorder_n(3), (6, 2, 2, 3), (1, 2), 36.7, 33.1, 21.3, 17.4, 10.4),
    _benchmark(twostage, (4, 6, 6), (1, 1), 40.4, 7.3, 4.6, 10.4, 31.5),
    _benchmark(wronglock_3, (8, 6, 4, 4, 4), (1, 1), 3.2, 16.7, 9.2, 3.3, 3.6),
    _benchmark(stringbuffer, (7, 4), (2, 2), 14.8, None, 46.0, 12.7, 8.3),
)

BENCHMARKS: Final = {each.name: each for each in _ALL}
"""By name."""
