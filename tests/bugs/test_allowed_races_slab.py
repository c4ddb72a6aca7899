"""
Races that are meant: the detectors stay silent about them, and everything else stays right.

For each: both outcomes of the race come up, none of them is a failure, and where the model says so in
`__guarded_by__`, the same access is found as soon as it is said no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.memory import pfn_to_virt
from concmem.runtime.api import THIS_CPU

pytestmark = pytest.mark.timeout(60)

NR_EXECUTIONS = 80

Classes = dict[type, type]
Race = Callable[[ControlledRuntime, Classes, set[Any]], Program]


def colour_next(rt: ControlledRuntime, classes: Classes, seen: set[Any]) -> Program:
    """03d1d43a1262: who makes a slab takes the next colour without a lock."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8160)
    assert cache.colour == 2

    def after() -> None:
        slabs = set(m.mem_map.slabs.values())
        seen.add(len({slab.s_mem - pfn_to_virt(slab.pfn) for slab in slabs}))

    return Program([cache.alloc, cache.alloc], after, verify=m.verify)


def nr_partial(rt: ControlledRuntime, classes: Classes, seen: set[Any]) -> Program:
    """Allocation looks whether the node has a slab before it takes list_lock."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: list[int] = []
    m.run([None, lambda: objects.extend(cache.alloc_bulk(2))])

    def flush() -> None:
        m.slab.cpu_slabs.flush_cpu_slab(cache)

    def after() -> None:
        seen.add(cache.node[0].nr_slabs)

    return Program([cache.alloc, flush], after, verify=m.verify)


def statistics(rt: ControlledRuntime, classes: Classes, seen: set[Any]) -> Program:
    """Statistics of slabs that CPUs change meanwhile."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)
    m.run([None, cache.alloc])

    def read() -> None:
        seen.add(cache.statistics().cpus[1].slab_objects)

    def flush() -> None:
        m.slab.cpu_slabs.flush_cpu_slab(cache)

    return Program([read, flush], verify=m.verify)


def flush_all(rt: ControlledRuntime, classes: Classes, seen: set[Any]) -> Program:
    """A flush looks whether a CPU has anything before it interrupts it."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)

    def after() -> None:
        seen.add(cache.cpu_slab.of(1).page is None)

    return Program([cache.flush_all, cache.alloc], after, verify=m.verify)


class _StrictNode(KmemCacheNode):
    """Says that nobody looks at nr_partial without list_lock."""

    __slots__ = ()
    __guarded_by__ = {**KmemCacheNode.__guarded_by__, "nr_partial": "list_lock"}


class _StrictCpu(KmemCacheCpu):
    """Says that nobody looks at another CPU's slab."""

    __slots__ = ()
    __guarded_by__ = {**KmemCacheCpu.__guarded_by__, "page": THIS_CPU}


def check(race: Race, classes: Classes, seen: set[Any]) -> explore.Outcome:
    return explore.check(
        lambda rt: race(rt, classes, seen), "pos", NR_EXECUTIONS, seed=0, shrink=False
    )


@pytest.mark.parametrize(
    ("race", "outcomes"),
    [
        (colour_next, {1, 2}),
        (nr_partial, {1, 2}),
        (statistics, {0, 4}),
        (flush_all, {True, False}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_allowed_race_is_no_failure(race: Race, outcomes: set[Any]) -> None:
    """Whoever wins it."""
    seen: set[Any] = set()
    outcome = check(race, {}, seen)
    assert outcome.failure is None, outcome.failure
    assert seen == outcomes


@pytest.mark.parametrize(
    ("race", "base", "strict", "place"),
    [
        (nr_partial, KmemCacheNode, _StrictNode, "nr_partial"),
        (statistics, KmemCacheCpu, _StrictCpu, "page"),
        (flush_all, KmemCacheCpu, _StrictCpu, "page"),
    ],
)
def test_it_is_seen_where_it_is_not_allowed(
    race: Race, base: type, strict: type, place: str
) -> None:
    """So the silence above is the annotation's."""
    failure = check(race, {base: strict}, set()).failure
    assert failure is not None
    assert failure.kind == "data-race"
    assert place in failure.place
