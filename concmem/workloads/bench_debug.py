"""Benchmarks of debugging: what it costs where it is off, and where all of it is on."""

from __future__ import annotations

from time import process_time, thread_time

from concmem.machine import Machine
from concmem.mm.slub_fast_path import Alloc, Free, make_alloc, make_free
from concmem.workloads.bench_tools import EFFORT, Body, Measure, make_measure
from concmem.workloads.scenario import Phase, Scenario
from concmem.workloads.stress import run_stress

SIZE = 64
"""Bytes of an object."""


def _pairs(alloc: Alloc, free: Free, pairs: int) -> Body:
    """A body that allocates and frees one object, *pairs* times."""

    def body() -> float:
        start = thread_time()
        for _ in range(pairs):
            free(alloc())  # type: ignore[arg-type]  # memory does not run out here
        return thread_time() - start

    return body


def bench_debug_off() -> Measure:
    """A pair of a cache that could be debugged and is not, over the bare fast paths."""
    with Machine(cpus=1, memory="256M") as machine:
        cache = machine.kmem_cache_create("bench", SIZE)
        slub, offset = machine.kernel.slab.slub, cache.cpu_slab.offset
        bare = _pairs(make_alloc(cache, slub, offset), make_free(cache, slub, offset), EFFORT.pairs)
        off = _pairs(cache.alloc, cache.free, EFFORT.pairs)

        def rounds() -> list[float]:
            bare()
            return [off() / bare() for _ in range(EFFORT.rounds)]

        (ratios,) = machine.run([rounds])
        assert ratios is not None
    return make_measure("cache pair, debugging off / without", ratios, "x", "at most 1.05")


def bench_debug_on() -> Measure:
    """A pair of a cache with ``slab_debug=FZPU`` on a machine that also debugs its pages, over a plain one."""
    pairs = max(1, EFFORT.pairs // 10)
    options = {"slab_debug": "FZPU", "page_poison": True, "page_owner": True}
    with (
        Machine(cpus=1, memory="256M") as plain,
        Machine(cpus=1, memory="256M", **options) as debugged,  # type: ignore[arg-type]
    ):
        ratios = _in_turns(plain, debugged, pairs)
    return make_measure("cache pair, slab_debug=FZPU / plain", ratios, "x", "at most 12")


def bench_checked() -> Measure:
    """The same of a checked machine (``kasan=True``)."""
    pairs = max(1, EFFORT.pairs // 10)
    with (
        Machine(cpus=1, memory="256M") as plain,
        Machine(cpus=1, memory="256M", kasan=True) as checked,
    ):
        ratios = _in_turns(plain, checked, pairs)
    return make_measure("cache pair, kasan / plain", ratios, "x", "at most 12")


def bench_debugged_run() -> Measure:
    """CPU time of a slab workload with everything on, over the same without."""
    ops = max(1, EFFORT.pairs // 5)
    plain = Scenario((Phase("slab-churn"),), cpus=1, memory="64M", ops=ops, runtime="free")
    debugged = plain.changed(slab_debug="FZPU", page_poison=True, page_owner=True, kasan=True)

    def seconds(scenario: Scenario) -> float:
        with scenario.boot(lockstat=False) as machine:
            start = process_time()
            run_stress(machine, scenario)
            return process_time() - start

    rounds = -(-EFFORT.rounds // 3)
    ratios = [seconds(debugged) / seconds(plain) for _ in range(rounds)]
    return make_measure("slab-churn, all of debugging / none", ratios, "x", "")


def _in_turns(plain: Machine, other: Machine, pairs: int) -> list[float]:
    """Time on *other* over time on *plain*, round after round."""
    bodies = []
    for machine in (plain, other):
        cache = machine.kmem_cache_create("bench", SIZE)
        bodies.append(_pairs(cache.alloc, cache.free, pairs))

    def ratio() -> float:
        seconds = [
            m.submit(0, body).result() for m, body in zip((plain, other), bodies, strict=True)
        ]
        return seconds[1] / seconds[0]

    ratio()
    return [ratio() for _ in range(EFFORT.rounds)]
