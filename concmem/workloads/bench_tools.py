"""
What all benchmarks share: the floor, how long they take, and their result.

The *floor* is what an interpreter needs for the least that an allocator could do: one method call that
pops a Python list and one that appends to it. Rounds of the things compared take turns, and the median
of the rounds' ratios counts, so that a host whose speed drifts does not decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.machine import Machine

Body = Callable[[], float]
"""What a CPU does; it returns its CPU seconds."""


@dataclass
class Effort:
    """How much is measured; tests take less."""

    rounds: int = 15
    pairs: int = 10_000
    """Allocations, each with its free, of one round on one CPU."""
    boots: int = 7
    churn_pairs: int = 20_000
    """The same, where CPUs run side by side."""


EFFORT = Effort()


@dataclass(frozen=True)
class Measure:
    """One ratio, with the goal it is held against."""

    name: str
    ratio: float
    low: float
    """Smallest and largest of the rounds."""
    high: float
    unit: str
    goal: str


def make_measure(name: str, ratios: list[float], unit: str, goal: str) -> Measure:
    """The median of *ratios*, with its range."""
    return Measure(name, median(ratios), min(ratios), max(ratios), unit, goal)


class _Stack:
    """The floor: two methods around a list."""

    def __init__(self) -> None:
        self.items: list[object] = [object()]

    def pop(self) -> object:
        return self.items.pop()

    def push(self, item: object) -> None:
        self.items.append(item)


def time_floor(pairs: int) -> float:
    """CPU seconds of *pairs* floors, on this thread."""
    stack = _Stack()
    pop, push = stack.pop, stack.push
    start = thread_time()
    for _ in range(pairs):
        push(pop())
    return thread_time() - start


def in_floors(machine: Machine, body: Body, pairs: int) -> list[float]:
    """The time of *body*, which does *pairs* pairs, in floors: both in turns on the same CPU."""

    def rounds() -> list[float]:
        body()
        return [body() / time_floor(pairs) for _ in range(EFFORT.rounds)]

    (ratios,) = machine.run([rounds])
    assert ratios is not None
    return ratios


def scaling(machine: Machine, body: Body, pairs: int) -> list[float]:
    """Work of 2 CPUs per second over that of 1, by the clock, in turns."""

    def rate(cpus: int) -> float:
        start = perf_counter()
        machine.run([body] * cpus)
        return cpus * pairs / (perf_counter() - start)

    rate(2)
    return [rate(2) / rate(1) for _ in range(EFFORT.rounds)]
