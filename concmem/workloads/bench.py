"""
Speed and memory as ratios measured in one run, so that they mean the same on every host.

The *floor* is what an interpreter needs for the least that an allocator could do: one method call
that pops a Python list and one that appends to it. Rounds of the things compared take turns, and
the median of the rounds' ratios counts, so that a host whose speed drifts does not decide.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter, thread_time
from typing import Final

from concmem.machine import Machine

ROUNDS: Final = 15
PAIRS: Final = 10_000
BOOTS: Final = 7
CHURN_PAIRS: Final = 20_000


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


class _Stack:
    """The floor: two methods around a list."""

    def __init__(self) -> None:
        self.items: list[object] = [object()]

    def pop(self) -> object:
        return self.items.pop()

    def push(self, item: object) -> None:
        self.items.append(item)


def _time_floor(pairs: int) -> float:
    """CPU seconds of *pairs* floors, on this thread."""
    stack = _Stack()
    pop, push = stack.pop, stack.push
    start = thread_time()
    for _ in range(pairs):
        push(pop())
    return thread_time() - start


def _churn(machine: Machine, pairs: int) -> Callable[[], float]:
    """Local churn: a body that allocates and frees one page of order 0, *pairs* times."""

    def body() -> float:
        alloc_pages, free_pages = machine.alloc_pages, machine.free_pages
        start = thread_time()
        for _ in range(pairs):
            free_pages(alloc_pages())  # type: ignore[arg-type]  # memory does not run out here
        return thread_time() - start

    return body


def _measure(name: str, ratios: list[float], unit: str, goal: str) -> Measure:
    return Measure(name, median(ratios), min(ratios), max(ratios), unit, goal)


def bench_pair(pagesets: bool = True) -> Measure:
    """An order-0 allocate/free pair in floors, both measured on the same CPU thread in turns."""
    with Machine(cpus=1, memory="256M", pagesets=pagesets) as machine:

        def body() -> list[float]:
            churn = _churn(machine, PAIRS)
            return [churn() / _time_floor(PAIRS) for _ in range(ROUNDS)]

        (ratios,) = machine.run([body])
    assert ratios is not None
    name = "order-0 allocate/free pair" + ("" if pagesets else ", page sets off")
    return _measure(name, ratios, "floors", "at most 10" if pagesets else "(shows the loss)")


def _boot_seconds(memory: str) -> float:
    start = perf_counter()
    machine = Machine(cpus=4, memory=memory)
    seconds = perf_counter() - start
    machine.close()
    return seconds


def bench_boot() -> Measure:
    """How much longer 16 GiB take to boot than 64 MiB."""
    _boot_seconds("64M")
    ratios = [_boot_seconds("16G") / _boot_seconds("64M") for _ in range(BOOTS)]
    return _measure("boot 16 GiB / boot 64 MiB", ratios, "x", "at most 3")


def bench_idle_memory() -> Measure:
    """MiB of host memory that an idle 16 GiB machine takes more than an idle 64 MiB one."""
    import psutil

    process = psutil.Process()
    used = {}
    for memory in ("64M", "16G"):
        gc.collect()
        before = process.memory_full_info().uss
        with Machine(cpus=4, memory=memory):
            used[memory] = process.memory_full_info().uss - before
    more = [(used["16G"] - used["64M"]) / (1 << 20)]
    return _measure("idle 16 GiB - idle 64 MiB", more, "MiB", "at most 40")


def bench_scaling(pagesets: bool = True) -> Measure:
    """Work of 2 CPUs per second over that of 1, on local churn."""
    with Machine(cpus=2, memory="256M", pagesets=pagesets, pin=True) as machine:
        pairs = CHURN_PAIRS if pagesets else CHURN_PAIRS // 8
        body = _churn(machine, pairs)

        def rate(cpus: int) -> float:
            start = perf_counter()
            machine.run([body] * cpus)
            return cpus * pairs / (perf_counter() - start)

        rate(2)
        ratios = [rate(2) / rate(1) for _ in range(ROUNDS)]
    name = "work of 2 CPUs / 1 CPU, local churn" + ("" if pagesets else ", page sets off")
    free_threaded = not getattr(sys, "_is_gil_enabled", lambda: True)()
    goal = "at least 1.7" if free_threaded else "(a GIL: about 1)"
    return _measure(name, ratios, "x", goal if pagesets else "(shows the loss)")


BENCHMARKS: Final[tuple[Callable[[], Measure], ...]] = (
    bench_pair,
    lambda: bench_pair(pagesets=False),
    bench_boot,
    bench_idle_memory,
    bench_scaling,
    lambda: bench_scaling(pagesets=False),
)
"""In the order of the table."""
