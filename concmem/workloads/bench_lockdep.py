"""Benchmarks of the lock validator: the same work with it and without it."""

from __future__ import annotations

from time import perf_counter, thread_time

from concmem.machine import Machine
from concmem.workloads.bench_tools import EFFORT, Body, Measure, make_measure


def _pairs(machine: Machine, pairs: int) -> Body:
    """A body of *pairs* order-0 allocations, each with its free."""

    def body() -> float:
        alloc_pages, free_pages = machine.alloc_pages, machine.free_pages
        start = thread_time()
        for _ in range(pairs):
            free_pages(alloc_pages())  # type: ignore[arg-type]  # memory does not run out here
        return thread_time() - start

    return body


def bench_lockdep_pair() -> Measure:
    """An order-0 pair through the page set, which tries one lock for each half, by CPU time."""

    def seconds(machine: Machine) -> float:
        (result,) = machine.run([_pairs(machine, EFFORT.pairs)])
        assert result is not None
        return result

    with (
        Machine(cpus=1, memory="64M") as plain,
        Machine(cpus=1, memory="64M", lockdep=True) as validated,
    ):
        seconds(plain), seconds(validated)
        ratios = [seconds(validated) / seconds(plain) for _ in range(EFFORT.rounds)]
    return make_measure("order-0 pair, lockdep on / off", ratios, "x", "(shows the cost)")


def bench_lockdep_contended() -> Measure:
    """Two CPUs that take the zone's lock for each page and for each free, by the clock."""
    pairs = EFFORT.churn_pairs // 8

    def seconds(machine: Machine) -> float:
        start = perf_counter()
        machine.run([_pairs(machine, pairs)] * 2)
        return perf_counter() - start

    with (
        Machine(cpus=2, memory="64M", pagesets=False) as plain,
        Machine(cpus=2, memory="64M", pagesets=False, lockdep=True) as validated,
    ):
        seconds(plain), seconds(validated)
        ratios = [seconds(validated) / seconds(plain) for _ in range(EFFORT.rounds)]
    name = "2 CPUs at one zone lock, lockdep on / off"
    return make_measure(name, ratios, "x", "(shows the cost)")
