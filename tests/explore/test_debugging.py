"""
Debugging under controlled mode: every schedule of a correct model is without a report; historical bugs are not.

The bugs are those that the checkers themselves had, each one override of one method. Odds: depth 2, at least
1/(n*k) for each execution, n = 2, k < 500 steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem.explore import ControlledRuntime, Program, check
from concmem.machine import Machine
from concmem.mm.debug.slub_debug_alloc import SlubDebugAlloc
from concmem.mm.debug.slub_debug_free import Chain, SlubDebugFree
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.page import Page

pytestmark = pytest.mark.timeout(300)

ALL = {"slab_debug": "FZPU", "page_poison": True, "page_owner": True}

Bodies = Callable[[Machine, KmemCache], list[Callable[[], object]]]


def program(bodies: Bodies, **options: Any) -> Callable[[ControlledRuntime], Program]:
    """Two CPUs that use a debug cache of two objects a slab; nothing may be reported."""

    def make(rt: ControlledRuntime) -> Program:
        m = Machine(cpus=2, runtime=rt, memory="16M", **options)
        c = m.kmem_cache_create("thing", 1500)

        def after() -> None:
            m.verify()
            assert m.debug_reports == []

        return Program(bodies(m, c), after, verify=m.verify)

    return make


def use(m: Machine, c: KmemCache) -> list[Callable[[], object]]:
    """Both allocate and free; objects and pages change hands."""
    handed: list[int] = []

    def body() -> None:
        own, other = c.alloc(), c.alloc()
        assert own is not None
        assert other is not None
        handed.append(other)
        m.memory.write(own, b"\0" * 1500)
        page = m.alloc_pages(0)
        assert page is not None
        c.free(own)
        m.free_pages(page)
        c.free(handed.pop())
        m.kfree(m.kmalloc(13))

    return [body, body]


def look(m: Machine, c: KmemCache) -> list[Callable[[], object]]:
    """One allocates and frees, the other looks at all slabs of the cache."""

    def body() -> None:
        addresses = [c.alloc() for _ in range(3)]
        for address in addresses:
            assert address is not None
            c.free(address)

    def validate() -> None:
        for _ in range(2):
            c.validate()

    return [body, validate]


@pytest.mark.parametrize("scheduler", ["random", "pct"])
@pytest.mark.parametrize("options", [ALL, {**ALL, "kasan": True}], ids=["bytes", "all"])
@pytest.mark.parametrize("bodies", [use, look])
def test_nothing_is_reported(bodies: Bodies, options: dict[str, Any], scheduler: str) -> None:
    """In no schedule of a few hundred."""
    outcome = check(program(bodies, **options), scheduler, executions=100)
    assert outcome, str(outcome)
    assert outcome.executions == 100


class FreeChecksOutsideListLock(SlubDebugFree):
    """
    The object is made to look free before list_lock is taken, and linked under it.

    Until Linux kernel commit 19c7ff9ecd89 ("slub: Take node lock during object free checks") (in v3.6).
    """

    def _free_locked(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page, chain: Chain, handle: int
    ) -> tuple[bool, bool]:
        if not self._free_debug_processing(s, c, slab, chain, handle):
            return False, False
        with n.list_lock:
            return True, self._link(s, c, n, slab, chain)


class CountedOutsideListLock(SlubDebugAlloc):
    """
    A new slab is counted before list_lock is taken, and put on a list under it.

    Until Linux kernel commit c7323a5ad078 ("mm/slub: restrict sysfs validation to debug caches and make it
    safe") (in v6.1).
    """

    def _alloc_single_from_new_slab(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, orig_size: int | None
    ) -> int:
        n = self._cpu_slabs.get_node(s, slab)
        n.inc_slabs_node(slab.objects)
        with n.list_lock:
            n.add_slab(slab)
            return self._alloc_single_from_slab(s, c, n, slab, orig_size)


@pytest.mark.parametrize(
    ("replaced", "mutant", "reason"),
    [
        (SlubDebugFree, FreeChecksOutsideListLock, "Redzone overwritten"),
        (SlubDebugAlloc, CountedOutsideListLock, "slabs counted but counter="),
    ],
)
def test_historical_bugs_of_the_checkers_are_found(
    replaced: type, mutant: type, reason: str
) -> None:
    """A false report: the one who looks is right, and what it sees is not what is meant."""
    make = program(look, slab_debug="FZPU,thing", classes={replaced: mutant})
    outcome = check(make, "pct", executions=2000, shrink=False)
    assert outcome.failure is not None
    assert reason in str(outcome.failure)
