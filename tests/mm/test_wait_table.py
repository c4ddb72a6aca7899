"""Page locks: one holder, waiters that are woken, and none that is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import LockMisuse
from concmem.machine import Machine
from concmem.runtime.jitter import JitterRuntime

from .helpers import WAIT, alloc, free, on_cpu


@pytest.fixture(params=["free", "jitter"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with four CPUs."""
    with Machine(cpus=4, memory="16M", runtime=request.param, seed=5) as machine:
        yield machine


def test_mutual_exclusion(m: Machine) -> None:
    """Four CPUs add to a number in memory 100 times each, under one page's lock: none is lost."""
    page = alloc(m)
    address = m.page_address(page)
    m.memory.write_u64(address, 0)

    def body() -> None:
        for _ in range(100):
            m.lock_page(page)
            value = m.memory.read_u64(address)
            m.runtime.cpu_relax()
            m.memory.write_u64(address, value + 1)
            m.unlock_page(page)

    m.run([body] * 4)
    assert m.memory.read_u64(address) == 400
    assert page.flags == 0
    free(m, page)


def test_trylock(m: Machine) -> None:
    """trylock never waits, whoever has the lock."""
    page = alloc(m)
    assert on_cpu(m, m.trylock_page, page, cpu=0)
    assert not on_cpu(m, m.trylock_page, page, cpu=0)
    assert not on_cpu(m, m.trylock_page, page, cpu=1)
    on_cpu(m, m.unlock_page, page, cpu=2)
    assert on_cpu(m, m.trylock_page, page, cpu=1)
    on_cpu(m, m.unlock_page, page)


def test_waiters_are_woken(m: Machine) -> None:
    """An unlock wakes all who wait for the page, lockers and lookers, one locker after another."""
    page = alloc(m)
    on_cpu(m, m.lock_page, page)

    def lock_and_unlock() -> None:
        m.lock_page(page)
        m.unlock_page(page)

    waiters = [m.submit(1, m.wait_on_page_locked, page)]
    waiters += [m.submit(cpu, lock_and_unlock) for cpu in (2, 3)]
    # They may still be on their way: whether they wait or come late must make no difference.
    on_cpu(m, m.unlock_page, page)
    for waiter in waiters:
        waiter.result(WAIT)
    assert page.flags == 0


def test_time_out(m: Machine) -> None:
    """wait_on_page_locked gives up after its time, and says so; the lock is not touched."""
    page = alloc(m)
    on_cpu(m, m.lock_page, page)
    assert on_cpu(m, m.wait_on_page_locked, page, 0.01, cpu=1) is False
    assert not on_cpu(m, m.trylock_page, page)
    on_cpu(m, m.unlock_page, page)
    assert on_cpu(m, m.wait_on_page_locked, page, 0.01, cpu=1) is True
    assert page.flags == 0


def test_unlock_of_an_unlocked_page(m: Machine) -> None:
    """Only a locked page can be unlocked."""
    page = alloc(m)
    with pytest.raises(LockMisuse, match=f"pfn:{page.pfn:#x}.*is not locked"):
        on_cpu(m, m.unlock_page, page)
    assert page.flags == 0
    free(m, page)


def test_pages_that_share_a_bucket(m: Machine) -> None:
    """16 MiB have 16 buckets: locks of all pages of an order-6 block are still independent."""
    page = alloc(m, 6)
    pages = [m.pfn_to_page(page.pfn + i) for i in range(64)]
    table = page.zone.wait_table
    assert len({id(table.bucket(p)) for p in pages}) < 64
    for each in pages:
        assert on_cpu(m, m.trylock_page, each)
    waiter = m.submit(1, m.lock_page, pages[7])
    for each in reversed(pages):
        on_cpu(m, m.unlock_page, each)
    waiter.result(WAIT)
    on_cpu(m, m.unlock_page, pages[7])
    assert not any(each.flags for each in pages)


def test_a_handler_may_unlock_a_page() -> None:
    """I/O ends in interrupts, which unlock pages: none may come while this CPU has the bucket."""
    runtime = JitterRuntime(1, hesitation=0.0)
    with Machine(memory="16M", runtime=runtime) as m:
        page = alloc(m)
        came: list[bool] = []

        def body() -> None:
            bucket = page.zone.wait_table.bucket(page)
            with bucket.lock:
                m.runtime.cpus[0].post_interrupt(lambda: came.append(bucket.lock.locked()))
                m.runtime.cpu_relax()
                assert came == []
            m.runtime.cpu_relax()

        on_cpu(m, body)
        assert came == [False]


def test_handlers_that_unlock_while_others_lock(m: Machine) -> None:
    """Pages locked on CPU 0 and unlocked by interrupts on CPU 1, which locks others meanwhile."""
    pages = [alloc(m) for _ in range(8)]
    mine = alloc(m)

    def submit_io() -> None:
        for _ in range(20):
            for page in pages:
                m.lock_page(page)
                m.call_on(1, lambda page=page: m.unlock_page(page), wait=False)
            for page in pages:
                m.wait_on_page_locked(page)

    def work() -> None:
        for _ in range(300):
            m.lock_page(mine)
            m.unlock_page(mine)

    m.run([submit_io, work])
    assert not any(page.flags for page in pages)
