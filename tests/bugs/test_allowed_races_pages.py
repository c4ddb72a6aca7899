"""
Races that are allowed: what a detector must not call a bug.

Linux reads some numbers without the lock that protects them, on purpose: an estimate that is a moment old does no
harm there. The model says so at the field (``lockless_reads``), and no detector complains. That the race really
takes place is shown by the same program with a field that is declared without it: then it is a data race.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.free_area import FreeArea
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NOWARN, RECLAIM
from concmem.mm.mempool import Mempool
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.zone import ZONE_BELOW_HIGH, ZONE_BOOSTED_WATERMARK
from concmem.runtime.api import split_guard
from concmem.runtime.guarded import guards_of

pytestmark = pytest.mark.timeout(120)

Classes = Mapping[type, type]
Workload = Callable[[ControlledRuntime, Classes], Program]


def strict(cls: type, field: str) -> type:
    """*cls*, with the lock that protects *field* asked of readers, too."""
    guards = guards_of(cls)
    lock, lockless = split_guard(guards[field])
    assert lockless
    body: dict[str, Any] = {"__guarded_by__": {**guards, field: lock}}
    if hasattr(cls, "__slots__"):
        body["__slots__"] = ()
    return type(f"Strict{cls.__name__}", (cls,), body)


def watermark_tests(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU allocates near the mark, and asks for large blocks; another takes and gives small ones."""
    m = Machine(memory="2M", pagesets=False, runtime=rt, classes=classes)
    gfp = GFP_KERNEL & ~RECLAIM | NOWARN
    m.run(
        [lambda: (m.alloc_pages(8), m.alloc_pages(0))]
    )  # what is left begins with a block of order 1

    def large() -> None:
        page = m.alloc_pages(1, gfp)
        if page is not None:
            m.free_pages(page, 1)

    def small() -> None:
        page = m.alloc_pages(0, GFP_ATOMIC)
        assert page is not None
        m.free_pages(page)

    return Program([large, small], verify=m.verify)


def buddyinfo(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU shows how many blocks are free, as ``/proc/buddyinfo`` does; another splits and merges them."""
    m = Machine(memory="2M", pagesets=False, runtime=rt, classes=classes)

    def show() -> None:
        m.procfs.read("buddyinfo")

    def churn() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        m.free_pages(page)

    return Program([show, churn], verify=m.verify)


def pageset_drain(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU drains page sets, looking which have pages; another fills its own."""
    m = Machine(memory="2M", runtime=rt, classes=classes)

    def drain() -> None:
        m.drain_all_pages()

    def churn() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        m.free_pages(page)

    return Program([drain, churn], verify=m.verify)


def pageset_limits(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU changes the limits of page sets, and another the zone's marks, while a third uses its set."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    zone = m.zones[-1]

    def tune() -> None:
        for pcp in zone.pageset.all():
            pcp.set_sizes(batch=3, high_min=6, high_max=6)

    def show() -> None:
        zone.pageset.of(2).statistics()

    def churn() -> None:
        pages = [m.alloc_pages(0) for _ in range(3)]
        for page in pages:
            assert page is not None
            m.free_pages(page)

    return Program([tune, show, churn], verify=m.verify)


def vmstat(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU adds up what all CPUs have not told yet; another changes what it has not told."""
    m = Machine(memory="2M", pagesets=False, runtime=rt, classes=classes)
    zone = m.zones[-1]

    def add_up() -> None:
        assert zone.nr_free_pages_snapshot() >= 0

    def churn() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        m.free_pages(page)

    return Program([add_up, churn], verify=m.verify)


def mempool(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs allocate and free: `free` looks at the number in reserve without the lock."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    (pool,) = m.run([lambda: m.mempool_create(2, lambda _gfp: object(), lambda _element: None)])
    assert pool is not None

    def use() -> None:
        pool.free(pool.alloc())

    def full() -> None:
        assert pool.curr_nr == pool.min_nr

    return Program([use, use], full)


RACES = [
    pytest.param(watermark_tests, FreeArea, "nr_free", id="watermark tests"),
    pytest.param(buddyinfo, FreeArea, "nr_free", id="buddyinfo"),
    pytest.param(pageset_drain, PerCpuPageset, "count", id="drain: count"),
    pytest.param(pageset_limits, PerCpuPageset, "count", id="statistics: count"),
    pytest.param(pageset_limits, PerCpuPageset, "high", id="statistics: high"),
    pytest.param(pageset_limits, PerCpuPageset, "nr_free", id="statistics: nr_free"),
    pytest.param(vmstat, PerCpuPageset, "vm_stat_diff", id="vmstat"),
    pytest.param(mempool, Mempool, "curr_nr", id="mempool_free"),
]


@pytest.mark.parametrize("scheduler", ["random", "pct"])
@pytest.mark.parametrize(
    "workload",
    [watermark_tests, buddyinfo, pageset_drain, pageset_limits, vmstat, mempool],
    ids=lambda workload: workload.__name__,
)
def test_the_detectors_are_silent(workload: Workload, scheduler: str) -> None:
    outcome = explore.check(lambda rt: workload(rt, {}), scheduler, 20, seed=0)
    assert outcome.failure is None, outcome.failure


@pytest.mark.parametrize(("workload", "cls", "field"), RACES)
def test_the_race_takes_place(workload: Workload, cls: type, field: str) -> None:
    """Who does not say that readers need no lock is told of it."""
    classes = {cls: strict(cls, field)}
    outcome = explore.check(lambda rt: workload(rt, classes), "random", 50, seed=0, shrink=False)
    assert outcome.failure is not None
    assert outcome.failure.kind == "data-race"
    assert f".{field}: " in str(outcome.failure.error)


def test_flags_of_a_zone_are_set_and_cleared_by_anybody() -> None:
    """``ZONE_BELOW_HIGH``, ``ZONE_BOOSTED_WATERMARK``: single bits of one word, none is lost."""

    def workload(rt: ControlledRuntime) -> Program:
        m = Machine(memory="2M", runtime=rt)
        zone = m.zones[-1]
        zone.set_flag(ZONE_BOOSTED_WATERMARK)

        def flags() -> None:
            assert zone.below_high()
            assert not zone.flags.value & ZONE_BOOSTED_WATERMARK

        return Program(
            [
                lambda: zone.set_flag(ZONE_BELOW_HIGH),
                lambda: zone.clear_flag(ZONE_BOOSTED_WATERMARK),
            ],
            flags,
        )

    outcome = explore.check(workload, "dfs", 200)
    assert outcome.failure is None, outcome.failure
    assert outcome.exhausted
