"""Benchmarks of the page allocator, and of a machine as a whole."""

from __future__ import annotations

import gc
from time import perf_counter, thread_time

from concmem.machine import Machine
from concmem.runtime.interpreter import has_gil
from concmem.workloads.bench_tools import (
    EFFORT,
    Body,
    Measure,
    in_floors,
    make_measure,
    scaling,
    time_floor,
)


def _churn(machine: Machine, pairs: int) -> Body:
    """Local churn: a body that allocates and frees one page of order 0, *pairs* times."""

    def body() -> float:
        alloc_pages, free_pages = machine.alloc_pages, machine.free_pages
        start = thread_time()
        for _ in range(pairs):
            free_pages(alloc_pages())  # type: ignore[arg-type]  # memory does not run out here
        return thread_time() - start

    return body


def bench_pair(pagesets: bool = True) -> Measure:
    """An order-0 allocate/free pair in floors."""
    with Machine(cpus=1, memory="256M", pagesets=pagesets) as machine:
        ratios = in_floors(machine, _churn(machine, EFFORT.pairs), EFFORT.pairs)
    name = "order-0 allocate/free pair" + ("" if pagesets else ", page sets off")
    return make_measure(name, ratios, "floors", "at most 10" if pagesets else "(shows the loss)")


def _boot_seconds(memory: str) -> float:
    start = perf_counter()
    machine = Machine(cpus=4, memory=memory)
    seconds = perf_counter() - start
    machine.close()
    return seconds


def bench_boot() -> Measure:
    """How much longer 16 GiB take to boot than 64 MiB."""
    _boot_seconds("64M")
    ratios = [_boot_seconds("16G") / _boot_seconds("64M") for _ in range(EFFORT.boots)]
    return make_measure("boot 16 GiB / boot 64 MiB", ratios, "x", "at most 3")


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
    return make_measure("idle 16 GiB - idle 64 MiB", more, "MiB", "at most 40")


def bench_host() -> Measure:
    """The same as the next ones for work that shares nothing at all: no more can come of two CPUs."""
    with Machine(cpus=2, memory="64M", pin=True) as machine:
        pairs = EFFORT.churn_pairs * 4
        ratios = scaling(machine, lambda: time_floor(pairs), pairs)
    return make_measure("work of 2 CPUs / 1 CPU, floors only", ratios, "x", "(the host's limit)")


def bench_scaling(pagesets: bool = True) -> Measure:
    """Work of 2 CPUs per second over that of 1, on local churn."""
    pairs = EFFORT.churn_pairs if pagesets else EFFORT.churn_pairs // 8
    with Machine(cpus=2, memory="256M", pagesets=pagesets, pin=True) as machine:
        ratios = scaling(machine, _churn(machine, pairs), pairs)
    name = "work of 2 CPUs / 1 CPU, local churn" + ("" if pagesets else ", page sets off")
    goal = "(a GIL: about 1)" if has_gil() else "at least 1.7"
    return make_measure(name, ratios, "x", goal if pagesets else "(shows the loss)")
