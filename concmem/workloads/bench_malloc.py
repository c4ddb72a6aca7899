"""Benchmarks of malloc in a process."""

from __future__ import annotations

from time import thread_time

from concmem.errors import ConcmemError
from concmem.machine import Machine
from concmem.runtime.interpreter import has_gil
from concmem.user.process import UserProcess
from concmem.workloads.bench_tools import (
    EFFORT,
    Body,
    Measure,
    in_floors,
    make_measure,
    scaling,
)

SIZE = 24
"""Bytes of a small chunk, which the tcache serves."""


def _process(machine: Machine) -> UserProcess:
    process = machine.process()
    if not isinstance(process, UserProcess):
        raise ConcmemError(f"{process!r} has no malloc")
    return process


def _churn(process: UserProcess, size: int, pairs: int) -> Body:
    """A body that allocates and frees one chunk, *pairs* times."""

    def body() -> float:
        malloc, free = process.malloc, process.free
        start = thread_time()
        for _ in range(pairs):
            free(malloc(size))
        return thread_time() - start

    return body


def bench_malloc_pair() -> Measure:
    """A malloc/free pair that the tcache serves, in floors."""
    with Machine(cpus=1, memory="64M") as machine:
        body = _churn(_process(machine), SIZE, EFFORT.pairs)
        ratios = in_floors(machine, body, EFFORT.pairs)
    return make_measure(f"malloc/free pair, {SIZE} bytes, tcache", ratios, "floors", "at most 10")


def bench_arena_pair() -> Measure:
    """The same for a size above the tcache's: the arena's mutex, bins and merging."""
    pairs = EFFORT.pairs // 10
    with Machine(cpus=1, memory="64M") as machine:
        ratios = in_floors(machine, _churn(_process(machine), 2000, pairs), pairs)
    return make_measure("malloc/free pair, 2000 bytes, arena", ratios, "floors", "(shows the cost)")


def bench_malloc_scaling() -> Measure:
    """Work of 2 threads of one process per second over that of 1, each on its tcache."""
    with Machine(cpus=2, memory="64M", pin=True) as machine:
        body = _churn(_process(machine), SIZE, EFFORT.churn_pairs)
        ratios = scaling(machine, body, EFFORT.churn_pairs)
    goal = "(a GIL: about 1)" if has_gil() else "at least 1.7"
    return make_measure("work of 2 CPUs / 1 CPU, malloc from tcaches", ratios, "x", goal)
