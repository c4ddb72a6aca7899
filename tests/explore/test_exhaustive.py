"""
The correct model under every schedule: nothing is found, and the whole space was covered.

The numbers of executions are those of docs/explanation/controlled-mode.md.
"""

from __future__ import annotations

from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm import gfp
from concmem.mm.mempool import Mempool
from concmem.mm.vmstat import VmEvents


def mempool_two_waiters(rt: ControlledRuntime) -> Program:
    """Two CPUs want the one element of a pool whose allocator has none."""
    elements = ["element"]

    def make() -> Mempool:
        alloc = lambda _gfp: elements.pop() if elements else None  # noqa: E731
        return Mempool(rt, VmEvents(rt), 1, alloc, elements.append)

    (pool,) = rt.run([make])[:1]
    assert pool is not None
    rt.watch(pool)

    def body() -> None:
        element = pool.alloc()
        assert element == "element"
        pool.free(element)

    def after() -> None:
        assert pool.curr_nr == 1

    return Program([body, body], after)


def fast_path_and_interrupt(rt: ControlledRuntime) -> Program:
    """A CPU allocates and frees one object; one interrupt does the same on top of it, anywhere."""
    m = Machine(cpus=1, memory="2M", runtime=rt)
    cache = m.kmem_cache_create("objects", 512)
    m.run([lambda: cache.free(cache.alloc() or 0)])  # there is a CPU slab

    def pair() -> None:
        address = cache.alloc(gfp.GFP_ATOMIC)
        assert address is not None
        m.memory.write(address, b"mine" * 16)
        m.memory.write(address, b"mine" * 16)
        cache.free(address)

    return Program([pair], interrupts=[(0, pair)], verify=m.verify)


def buddies(rt: ControlledRuntime) -> Program:
    """Two CPUs free the two halves of one block: they merge, whoever comes last."""
    m = Machine(cpus=2, memory="2M", pagesets=False, runtime=rt)
    (page,) = m.run([lambda: m.alloc_pages(1)])[:1]
    assert page is not None
    m.run([lambda: m.split_page(page)])
    other = m.pfn_to_page(page.pfn + 1)
    free = [area.nr_free for area in m.zones[0].free_area]
    bodies: list[Any] = [lambda: m.free_pages(page), lambda: m.free_pages(other)]

    def after() -> None:
        assert m.zones[0].free_area[0].nr_free == free[0]
        m.verify()

    return Program(bodies, after)


def remote_free(rt: ControlledRuntime) -> Program:
    """CPU 1 frees an object of CPU 0's slab while CPU 0 allocates from it."""
    m = Machine(cpus=2, memory="2M", runtime=rt)
    cache = m.kmem_cache_create("objects", 512)
    (first,) = m.run([cache.alloc])
    assert first is not None
    taken: list[int | None] = []
    bodies: list[Any] = [
        lambda: taken.append(cache.alloc(gfp.GFP_ATOMIC)),
        lambda: cache.free(first),
    ]

    def after() -> None:
        assert taken[0] is not None
        m.verify()
        m.run([lambda: cache.free(taken[0])])
        m.verify()

    return Program(bodies, after)


EXECUTIONS = {
    mempool_two_waiters: 6,
    fast_path_and_interrupt: 11,
    buddies: 2,
    remote_free: 1,
}


@pytest.mark.parametrize("program", EXECUTIONS, ids=lambda program: program.__name__)
def test_whole_space(program: Any) -> None:
    """DPOR ends with "exhausted" and nothing found."""
    outcome = explore.check(program, "dpor", executions=10**6)
    assert outcome.failure is None, str(outcome.failure)
    assert outcome.exhausted
    # Fewer may mean that something is missed, more that less is left out.
    assert outcome.executions == EXECUTIONS[program]
