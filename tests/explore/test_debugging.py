"""
Debugging under controlled mode: no schedule of a correct model leads to a report.

That reports come when they should: the bugs that the checkers themselves had are in :mod:`concmem.bugs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem.explore import ControlledRuntime, Program, check
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache

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
