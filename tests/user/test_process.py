"""malloc on real address spaces: page tables, limits, the program's own system calls, exit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from concmem.errors import BadArgument, ConcmemError, NotACpu, SegmentationFault
from concmem.machine import Machine
from concmem.units import PAGE_SIZE
from concmem.user.int_free import IntFree
from concmem.user.process import UserProcess

WAIT = 50.0


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(cpus=2, memory="32M") as machine:
        yield machine


def on(m: Machine, fn: Any, *args: Any, cpu: int = 0) -> Any:
    return m.submit(cpu, fn, *args).result(WAIT)


def user(m: Machine, **limits: Any) -> Any:
    process = m.process(**limits)
    assert isinstance(process, UserProcess)
    return process


def test_addresses_are_those_of_a_real_process(m: Machine) -> None:
    """The heap begins at start_brk; a mapped chunk is 16 bytes into a page."""
    p = user(m)
    assert on(m, p.malloc, 24) == p.mm.start_brk + 0x2A0
    assert on(m, p.brk, 0) == p.mm.start_brk + 0x21000
    assert on(m, p.malloc, 200_000) % 4096 == 16
    m.verify()


def test_events_of_the_flowcharts(m: Machine) -> None:
    """Growing and trimming the heap, mapping and unmapping are counted once each."""
    p = user(m)

    def body() -> None:
        chunks = [p.malloc(100_000) for _ in range(4)]
        p.free(p.malloc(1 << 20))
        for chunk in chunks:
            p.free(chunk)
        p.malloc_trim()

    on(m, body)
    events = m.events.sum()
    counts = p.heap.libc.threads.of(0).counts
    assert events["user_malloc_brk"] == counts["brk"] >= 2
    assert events["user_malloc_mmap"] == events["user_free_mapped"] == 1
    assert events["user_free_heap"] == counts["brk_shrink"] >= 1
    m.verify()


def test_limits(m: Machine) -> None:
    """RLIMIT_DATA stops the break, RLIMIT_AS everything; then there is no memory, and no error."""
    p = user(m, rlimit_data=200 << 10)

    def fill(p: Any, size: int) -> int:
        nr = 0
        while p.malloc(size) is not None:
            nr += 1
            assert nr < 10_000
        return nr

    assert on(m, fill, p, 10_000) >= 10
    m.verify()
    p = user(m, rlimit_as=4 << 20)
    assert on(m, fill, p, 10_000) > 100
    m.verify()


def test_unmapping_behind_the_back_of_malloc(m: Machine) -> None:
    """A program that unmaps its heap gets a segmentation fault, not another page's contents."""
    p = user(m)

    def body() -> None:
        chunk = p.malloc(100)
        p.free(chunk)
        p.malloc(100)
        p.munmap(chunk & -4096, 4096)
        m.alloc_pages(0)
        p.free(chunk)

    with pytest.raises(SegmentationFault):
        on(m, body)


def test_two_processes_do_not_share(m: Machine) -> None:
    """The same addresses, different memory."""
    p, q = user(m), user(m)
    a, b = on(m, p.malloc, 100), on(m, q.malloc, 100)
    assert a == b
    on(m, p.write, a, b"p" * 100)
    on(m, q.write, b, b"q" * 100)
    assert on(m, p.read, a, 100) == b"p" * 100
    on(m, p.free, a)
    m.verify()
    assert on(m, q.malloc_usable_size, b) == 104


def test_exit_gives_everything_back(m: Machine) -> None:
    """No page is left; malloc of a process that is gone raises."""
    warm = user(m)
    on(m, warm.malloc, 5_000_000)
    on(m, warm.exit)
    m.drain_all_pages()
    free = sum(zone.nr_free_pages_exact() for zone in m.zones)
    p = user(m)
    for cpu in (0, 1):
        chunk = on(m, p.malloc, 50_000, cpu=cpu)
        on(m, p.write, chunk, b"x" * 50_000, cpu=cpu)
    on(m, p.free, on(m, p.malloc, 24))
    on(m, p.exit)
    m.drain_all_pages()
    assert sum(zone.nr_free_pages_exact() for zone in m.zones) == free
    for fn, arg in ((p.malloc, 24), (p.free, chunk), (p.malloc, 1 << 20)):
        for cpu in (0, 1):
            with pytest.raises((SegmentationFault, BadArgument)):
                on(m, fn, arg, cpu=cpu)
    with pytest.raises(BadArgument):
        on(m, p.exit)
    m.verify()


def test_classes_of_malloc_can_be_replaced() -> None:
    """As those of the kernel."""

    class Mine(IntFree):
        pass

    with Machine(cpus=1, memory="16M", classes={IntFree: Mine}) as m:
        assert type(user(m).heap.int_free) is Mine
    with pytest.raises(BadArgument, match=r"^classes: "):
        Machine(cpus=1, memory="16M", classes={int: bool})


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_exit_while_others_allocate(runtime: str) -> None:
    """They get errors; the pages that have gone, and are another process's, are not written to."""
    with Machine(cpus=3, memory="32M", runtime=runtime) as m:
        victim = m.process("victim")
        for _ in range(4):
            p = m.process()
            m.submit(0, p.malloc, 24).result(30)

            def churn(p: UserProcess = p) -> None:
                kept = []
                try:
                    while True:
                        kept.append(p.malloc(40))
                        if len(kept) > 20:
                            p.free(kept.pop(0))
                except (ConcmemError, TypeError):
                    return

            def leave(p: UserProcess = p) -> bool:
                for _ in range(20):
                    m.runtime.cpu_relax()
                p.exit()
                start = victim.mmap(16 * PAGE_SIZE)
                assert start is not None
                victim.write(start, b"v" * 16 * PAGE_SIZE)
                return True

            m.run([leave, churn, churn])
            for vma in m.submit(0, lambda: victim.mm.vmas).result(30):
                if vma.vm_end - vma.vm_start == 16 * PAGE_SIZE:
                    data = m.submit(0, victim.read, vma.vm_start, 16 * PAGE_SIZE).result(30)
                    assert data == b"v" * 16 * PAGE_SIZE
        m.verify()


def test_what_needs_a_cpu_changes_nothing_without() -> None:
    """exit and a shrinking brk, from a thread that is none."""
    with Machine(cpus=1, memory="32M") as m:
        p = m.process()
        m.submit(0, p.malloc, 24).result(30)
        for use in (p.exit, lambda: p.brk(p.mm.start_brk)):
            with pytest.raises(NotACpu):
                use()
            m.verify()
        m.submit(0, p.exit).result(30)
        m.verify()
