"""
Controlled mode: what a scheduling point and a switch cost, and how many executions a second there are.

By CPU time of the process: one thread runs at a time, on one host CPU, so that on a quiet host this is the
time by the clock, and on a busy one what others take is not counted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import process_time
from typing import TYPE_CHECKING, Final

from concmem.workloads.bench_tools import EFFORT, Measure, make_measure

if TYPE_CHECKING:
    from concmem.explore import ControlledRuntime, Execution, Program, Scheduler
    from concmem.explore.task import Task

PAIRS = 10
"""Acquire/release pairs of each of two CPUs: 40 points."""


@contextmanager
def on_one_host_cpu() -> Iterator[None]:
    """This thread, and those that it starts, as controlled mode keeps its own."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def raw_hand_over(count: int) -> float:
    """Seconds of a hand-over between two threads by a lock for each: the least there is in Python."""
    mine, theirs = threading.Lock(), threading.Lock()
    mine.acquire()
    theirs.acquire()

    def other() -> None:
        for _ in range(count):
            theirs.acquire()
            mine.release()

    thread = threading.Thread(target=other)
    thread.start()
    start = process_time()
    for _ in range(count):
        theirs.release()
        mine.acquire()
    seconds = process_time() - start
    thread.join()
    return seconds / (2 * count)


def two_cpus(rt: ControlledRuntime) -> Program:
    """Two CPUs of ten acquire/release pairs each."""
    from concmem.explore import Program

    lock = rt.spinlock("lock")

    def body() -> None:
        for _ in range(PAIRS):
            lock.acquire()
            lock.release()

    return Program([body, body])


def points(rt: ControlledRuntime) -> Program:
    """One CPU that writes a cell a thousand times."""
    from concmem.explore import Program

    cell = rt.cell(0, "cell")

    def body() -> None:
        for number in range(1000):
            cell.value = number

    return Program([body])


def turns(rt: ControlledRuntime) -> Program:
    """Two CPUs that write a cell three hundred times each."""
    from concmem.explore import Program

    cell = rt.cell(0, "cell")

    def body() -> None:
        for number in range(300):
            cell.value = number

    return Program([body, body])


def slub_churn(rt: ControlledRuntime) -> Program:
    """A machine with 2 CPUs: caches, remote frees and kmalloc, 200 to 500 points."""
    from concmem.explore import Program
    from concmem.machine import Machine

    m = Machine(memory="16M", runtime=rt)
    cache = m.kmem_cache_create("objects", 256)
    passed: list[list[int]] = [[], []]

    def body(cpu: int) -> None:
        kept = [cache.alloc() for _ in range(6)]
        passed[cpu].extend(address for address in kept[:3] if address is not None)
        for address in kept[3:]:
            if address is not None:
                cache.free(address)
        other = passed[1 - cpu]
        while other:
            cache.free(other.pop())
        address = m.kmalloc(100)
        if address is not None:
            m.kfree(address)

    return Program([lambda: body(0), lambda: body(1)], verify=m.verify)


def _seconds(
    program: Callable[[ControlledRuntime], Program], scheduler: str | Scheduler, executions: int
) -> tuple[float, int]:
    """Seconds and steps of an execution."""
    from concmem import explore

    start = process_time()
    outcome = explore.check(program, scheduler, executions, shrink=False)
    seconds = process_time() - start
    assert outcome.failure is None, outcome.failure
    assert outcome.executions == executions
    return seconds / executions, outcome.steps // executions


def bench_point() -> Measure:
    """A scheduling point that goes on with the same CPU, the access itself included."""
    executions = max(1, EFFORT.pairs // 500)
    micros = []
    for _ in range(EFFORT.rounds):
        seconds, steps = _seconds(points, "random", executions)
        micros.append(seconds / steps * 1e6)
    return make_measure("scheduling point, the same CPU goes on", micros, "us", "at most 3")


def bench_switch() -> Measure:
    """A hand-over to another CPU at every step, against one by two locks."""
    from concmem.explore import Scheduler

    class Alternate(Scheduler):
        """Always another CPU, if one can go on."""

        name = "alternate"

        def begin(self, execution: Execution) -> bool:
            return True

        def choose(self, enabled: Sequence[Task], current: Task) -> Task:
            return enabled[0] if enabled[-1] is current else enabled[-1]

    executions = max(1, EFFORT.pairs // 1000)
    ratios = []
    for _ in range(EFFORT.rounds):
        with on_one_host_cpu():
            raw = raw_hand_over(EFFORT.pairs // 4)
        seconds, steps = _seconds(turns, Alternate(), executions)
        ratios.append(seconds / steps / raw)
    return make_measure("switch / raw hand-over by two locks", ratios, "times", "at most 2")


def _rate(program: Callable[[ControlledRuntime], Program], scheduler: str) -> list[float]:
    executions = max(1, EFFORT.pairs // 20)
    return [1 / _seconds(program, scheduler, executions)[0] for _ in range(EFFORT.rounds)]


def bench_random() -> Measure:
    """Executions a second: two CPUs of ten acquire/release pairs each, random."""
    return make_measure(
        "2 CPUs, 40 points, random", _rate(two_cpus, "random"), "/s", "at least 5000"
    )


def bench_pct() -> Measure:
    """The same under PCT."""
    return make_measure("2 CPUs, 40 points, pct", _rate(two_cpus, "pct"), "/s", "at least 15000")


def bench_machine() -> Measure:
    """Executions a second on a machine, which boots for each of them."""
    executions = max(1, EFFORT.pairs // 200)
    rates = []
    steps = 0
    for _ in range(EFFORT.rounds):
        seconds, steps = _seconds(slub_churn, "random", executions)
        rates.append(1 / seconds)
    return make_measure(f"machine, SLUB churn of {steps} points", rates, "/s", "at least 300")


BENCHMARKS: Final[tuple[Callable[[], Measure], ...]] = (
    bench_point,
    bench_switch,
    bench_random,
    bench_pct,
    bench_machine,
)
"""In the order of the table."""
