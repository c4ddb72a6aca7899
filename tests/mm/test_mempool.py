"""Memory pools: the reserve, waiting, time-outs, resizing, and what is refused."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from concmem.errors import BadArgument, BadFree, DoubleFree, NotACpu, PoolBusy, SleepInAtomic
from concmem.machine import Machine
from concmem.mm.gfp import DIRECT_RECLAIM, GFP_ATOMIC, GFP_KERNEL
from concmem.mm.mempool import Mempool

RUNTIMES = ["free", "jitter"]


class Source:
    """An allocator with a budget, that knows who has what."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.made = 0
        self.live: set[int] = set()
        self.calls: list[int] = []

    def alloc(self, gfp: int) -> int | None:
        self.calls.append(gfp)
        if len(self.live) >= self.budget:
            return None
        self.made += 1
        self.live.add(self.made)
        return self.made

    def free(self, element: int) -> None:
        self.live.remove(element)


def on(m: Machine, fn: Any, *args: Any, cpu: int = 0) -> Any:
    return m.submit(cpu, fn, *args).result(30)


@pytest.fixture(params=RUNTIMES)
def m(request: pytest.FixtureRequest) -> Any:
    with Machine(cpus=3, memory="16M", runtime=request.param) as machine:
        yield machine


def pool_of(m: Machine, budget: int, min_nr: int, **options: Any) -> tuple[Mempool, Source]:
    source = Source(budget)
    pool = on(m, lambda: m.mempool_create(min_nr, source.alloc, source.free, **options))
    return pool, source


def test_the_reserve_comes_first(m: Machine) -> None:
    """The seed's order: what is in reserve, then the allocator."""
    pool, source = pool_of(m, 100, 3)
    assert (pool.curr_nr, pool.min_nr, source.made) == (3, 3, 3)
    elements = [on(m, pool.alloc) for _ in range(5)]
    assert sorted(elements) == [1, 2, 3, 4, 5]
    assert (pool.curr_nr, source.made) == (0, 5)
    for element in elements:
        on(m, pool.free, element)
    assert pool.curr_nr == 3
    assert len(source.live) == 3  # the others went back to the allocator
    on(m, pool.destroy)
    assert not source.live


def test_the_allocator_comes_first_on_request(m: Machine) -> None:
    """Linux's order keeps the reserve until the allocator fails."""
    pool, source = pool_of(m, 4, 3, allocator_first=True)
    first = on(m, pool.alloc)
    assert (first, pool.curr_nr) == (4, 3)
    second = on(m, pool.alloc)
    assert second in {1, 2, 3}
    assert pool.curr_nr == 2
    for element in (first, second):
        on(m, pool.free, element)
    assert pool.curr_nr == 3
    assert len(source.live) == 3


def test_creation_records_how_many_it_got(m: Machine) -> None:
    """Without memory for all, the pool starts with what there was, and fills up by frees."""
    pool, source = pool_of(m, 2, 5)
    assert (pool.min_nr, pool.curr_nr) == (5, 2)
    elements = [on(m, pool.alloc) for _ in range(2)]
    assert on(m, pool.alloc, GFP_ATOMIC) is None
    source.budget = 10
    elements += [on(m, pool.alloc) for _ in range(5)]
    for element in elements:
        on(m, pool.free, element)
    assert pool.curr_nr == 5


def test_gfp_flags_of_the_attempts(m: Machine) -> None:
    """First without sleeping, then with what the caller allows; never with the last reserves."""
    pool, source = pool_of(m, 1, 1)
    taken = on(m, pool.alloc)
    source.calls.clear()
    assert on(m, pool.alloc, GFP_KERNEL, 0) is None
    assert [bool(gfp & DIRECT_RECLAIM) for gfp in source.calls] == [False, True]
    source.calls.clear()
    assert on(m, pool.alloc, GFP_ATOMIC) is None
    assert not any(gfp & DIRECT_RECLAIM for gfp in source.calls)
    on(m, pool.free, taken)


def test_a_waiter_is_woken_by_a_free(m: Machine) -> None:
    """It really sleeps: its CPU takes interrupts meanwhile, and the free ends its sleep."""
    pool, _ = pool_of(m, 1, 1)
    taken = on(m, pool.alloc)
    waiter = m.submit(1, pool.alloc)
    while m.statistics().events["mempool_alloc_waited"] == 0:
        on(m, m.runtime.cond_resched, cpu=2)
    assert m.call_on(1, m.smp_processor_id) == 1
    assert not waiter.done()
    on(m, pool.free, taken)
    assert waiter.result(30) == taken
    on(m, pool.free, taken, cpu=1)
    assert pool.curr_nr == 1


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_a_time_out(m: Machine, timeout: float) -> None:
    """Nothing comes: None, and the pool is as it was."""
    pool, _ = pool_of(m, 1, 1)
    taken = on(m, pool.alloc)
    assert on(m, pool.alloc, GFP_KERNEL, timeout) is None
    on(m, pool.free, taken)
    assert on(m, pool.alloc, GFP_KERNEL, timeout) == taken
    on(m, pool.free, taken)


def test_a_pool_that_keeps_nothing(m: Machine) -> None:
    """Nothing is allocated ahead; what comes back is handed to who waits, and only one is kept."""
    pool, source = pool_of(m, 2, 0)
    assert (pool.curr_nr, pool.min_nr, source.made) == (0, 0, 0)
    first, second = on(m, pool.alloc), on(m, pool.alloc)
    waiter = m.submit(1, pool.alloc)
    while not m.events.sum()["mempool_alloc_waited"]:
        assert not waiter.done()
    on(m, pool.free, second)
    assert waiter.result(30) == second
    on(m, pool.free, first)
    on(m, pool.free, second)
    assert (pool.curr_nr, source.live) == (1, {first})
    on(m, pool.destroy)
    assert not source.live


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("allocator_first", [False, True])
@pytest.mark.parametrize(("cpus", "elements"), [(2, 1), (4, 1), (4, 3)])
def test_starving_cpus_never_hang(
    runtime: str, allocator_first: bool, cpus: int, elements: int
) -> None:
    """More CPUs than elements: each gets its turn, nobody has another's, all come back."""
    with Machine(cpus=cpus, memory="16M", runtime=runtime) as m:
        pool, source = pool_of(m, elements, elements, allocator_first=allocator_first)
        holders: Counter[int] = Counter()
        most = [0] * cpus

        def body(cpu: int) -> int:
            got = 0
            for _ in range(60):
                element = pool.alloc()
                holders[element] += 1
                assert holders[element] == 1, "two owners"
                most[cpu] = max(most[cpu], sum(holders.values()))
                m.runtime.cpu_relax()
                holders[element] -= 1
                pool.free(element)
                got += 1
            return got

        assert m.run([lambda cpu=cpu: body(cpu) for cpu in range(cpus)]) == [60] * cpus
        assert max(most) <= elements
        assert pool.curr_nr == pool.min_nr == elements
        assert pool.nr_out == 0
        assert len(source.live) == elements
        m.verify()


def test_frees_from_interrupts(m: Machine) -> None:
    """free never sleeps; alloc may not wait there."""
    pool, _ = pool_of(m, 2, 2)
    taken = [on(m, pool.alloc) for _ in range(2)]
    waiter = m.submit(1, pool.alloc)
    m.call_on(0, lambda: pool.free(taken[0]))
    assert waiter.result(30) == taken[0]
    with pytest.raises(SleepInAtomic, match="mempool_alloc"):
        m.call_on(0, pool.alloc)
    assert m.call_on(0, lambda: pool.alloc(GFP_ATOMIC)) is None
    for element in taken:
        on(m, pool.free, element)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_resize_under_load(runtime: str) -> None:
    """The reserve follows min_nr while CPUs allocate, wait and free."""
    with Machine(cpus=4, memory="16M", runtime=runtime) as m:
        pool, source = pool_of(m, 6, 2)

        def churn(cpu: int) -> None:
            rng = Random(cpu)
            for _ in range(60):
                element = pool.alloc()
                if rng.random() < 0.5:
                    m.runtime.cpu_relax()
                pool.free(element)

        def resizer() -> None:
            rng = Random(9)
            for _ in range(40):
                pool.resize(rng.randint(1, 6))
            pool.resize(4)

        m.run([lambda: churn(0), lambda: churn(1), lambda: churn(2), resizer])
        assert pool.min_nr == 4
        on(m, pool.resize, 4)  # fills up what frees had no reason to
        assert pool.curr_nr == 4
        assert len(source.live) == 4
        on(m, pool.destroy)
        assert not source.live


def test_a_larger_reserve_wakes_waiters(m: Machine) -> None:
    """What resize adds is for those who wait, too."""
    pool, source = pool_of(m, 1, 1)
    taken = on(m, pool.alloc)
    waiter = m.submit(1, pool.alloc)
    while m.statistics().events["mempool_alloc_waited"] == 0:
        on(m, m.runtime.cond_resched, cpu=2)
    source.budget = 3
    on(m, pool.resize, 2)
    other = waiter.result(30)
    assert other != taken
    for element in (taken, other):
        on(m, pool.free, element)
    assert pool.curr_nr == 2


def test_pools_of_caches_kmalloc_and_pages(m: Machine) -> None:
    """Real allocators underneath: everything goes back."""
    cache = m.kmem_cache_create("pooled", 200)
    pools = [
        on(m, m.mempool_create, 4, cache),
        on(m, m.mempool_create_kmalloc_pool, 4, 1000),
        on(m, m.mempool_create_page_pool, 4, 2),
    ]
    for pool in pools:
        elements = [on(m, pool.alloc, cpu=1) for _ in range(10)]
        assert len({id(e) if not isinstance(e, int) else e for e in elements}) == 10
        for element in elements:
            on(m, pool.free, element, cpu=2)
        assert pool.curr_nr == 4
    m.verify()
    for pool in pools:
        on(m, pool.destroy)
    on(m, cache.destroy)
    m.verify()


def test_bad_input(m: Machine) -> None:
    """Each is refused by name; nothing is lost."""
    for min_nr in (-1, 1.5, True):
        with pytest.raises(BadArgument, match=r"^min_nr: "):
            pool_of(m, 9, min_nr)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match=r"^free: "):
        on(m, m.mempool_create, 1, lambda gfp: 1)
    pool, _ = pool_of(m, 9, 2)
    other, _ = pool_of(m, 9, 2)
    element = on(m, pool.alloc)
    with pytest.raises(BadFree, match=r"^element: cpu0 frees"):
        on(m, other.free, element + 100)
    with pytest.raises(BadArgument, match=r"^timeout: "):
        on(m, pool.alloc, GFP_KERNEL, -1)
    with pytest.raises(BadArgument, match=r"^gfp: "):
        on(m, pool.alloc, "x")
    with pytest.raises(BadArgument, match=r"^min_nr: "):
        on(m, pool.resize, 0)
    with pytest.raises(PoolBusy, match="1 elements are missing"):
        on(m, pool.destroy)
    on(m, pool.free, element)
    with pytest.raises(BadFree):
        on(m, pool.free, element)
    on(m, pool.free, None)
    assert pool.curr_nr == 2
    with pytest.raises(NotACpu):
        pool.destroy()
    on(m, pool.destroy)
    for use in (pool.alloc, pool.destroy, lambda: pool.resize(3)):
        with pytest.raises(PoolBusy, match="destroyed"):
            on(m, use)


def test_an_element_of_a_cache_freed_past_the_pool(m: Machine) -> None:
    """The cache takes it back; the pool's own free of it is then the second one, and refused."""
    cache = m.kmem_cache_create("pooled", 200)
    pool = on(m, m.mempool_create, 1, cache, None, None, True)
    element = on(m, pool.alloc)
    on(m, cache.free, element)
    with pytest.raises(DoubleFree):
        on(m, pool.free, element)


def test_resize_needs_a_cpu(m: Machine) -> None:
    """It is refused before anything is changed."""
    pool, _ = pool_of(m, 9, 3)
    with pytest.raises(NotACpu):
        pool.resize(5)
    assert (pool.min_nr, pool.curr_nr) == (3, 3)
