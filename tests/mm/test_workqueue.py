"""Work queues: everything queued runs, once, in order, and failures do not stop the thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from threading import Event

import pytest

from concmem.errors import LockMisuse
from concmem.mm.workqueue import Work, WorkQueue
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime

WAIT = 50.0


@pytest.fixture(params=[FreeRuntime, JitterRuntime])
def rt(request: pytest.FixtureRequest) -> Iterator[FreeRuntime]:
    runtime = request.param(3)
    yield runtime
    runtime.shutdown()


@pytest.fixture
def wq(rt: FreeRuntime) -> WorkQueue:
    return WorkQueue(rt, "kworker")


def test_work_runs_in_order(rt: FreeRuntime, wq: WorkQueue) -> None:
    """Three works run in the order in which they were queued, on a thread that is no CPU's."""
    ran: list[tuple[str, int]] = []

    def make(name: str) -> Work:
        return Work(lambda: ran.append((name, rt.smp_processor_id())), name)

    works = [make(name) for name in "abc"]
    for work in works:
        assert wq.queue_work(work)
    wq.drain()
    assert ran == [("a", 3), ("b", 3), ("c", 3)]
    assert wq.nr_done == wq.nr_queued == 3


def test_queued_twice_runs_once(wq: WorkQueue) -> None:
    """While it waits, work is not queued again; while it runs, it is."""
    started, go = Event(), Event()
    runs = []

    def first() -> None:
        started.set()
        assert go.wait(WAIT)

    blocker, work = Work(first, "blocker"), Work(lambda: runs.append(1), "work")
    assert wq.queue_work(blocker)
    assert started.wait(WAIT)
    assert wq.queue_work(work)
    assert not wq.queue_work(work)
    assert wq.queue_work(blocker)  # it runs, and does not wait
    go.set()
    wq.drain()
    assert runs == [1]
    assert wq.nr_done == 3


def test_flush_waits_for_one_work(rt: FreeRuntime, wq: WorkQueue) -> None:
    """On a CPU or not: when flush_work returns the work has run, whatever else waits."""
    ran: list[int] = []
    work = Work(lambda: ran.append(1), "work")

    def body() -> int:
        wq.queue_work(work)
        wq.flush_work(work)
        return len(ran)

    assert body() == 1
    assert rt.run([body]) == [2]


def test_work_from_interrupts(rt: FreeRuntime, wq: WorkQueue) -> None:
    """Interrupt handlers queue work, which then may sleep."""
    ran: list[bool] = []

    def may_sleep() -> None:
        wq_lock = rt.mutex("mutex")
        with wq_lock:
            ran.append(rt.in_interrupt())

    works = [Work(may_sleep, f"work{i}") for i in range(20)]

    def body() -> None:
        for i, work in enumerate(works):
            rt.call_on(i % 3, partial(wq.queue_work, work), wait=False)

    rt.run([body])
    wq.drain()
    assert ran == [False] * 20


def test_all_cpus_queue(rt: FreeRuntime, wq: WorkQueue) -> None:
    """What CPUs queue at the same time all runs: no wake-up is lost."""
    ran: list[tuple[int, int]] = []

    def body(cpu: int) -> None:
        for i in range(100):
            wq.queue_work(Work(partial(ran.append, (cpu, i)), "work"))

    rt.run([partial(body, cpu) for cpu in range(3)])
    wq.drain()
    assert sorted(ran) == [(cpu, i) for cpu in range(3) for i in range(100)]
    for cpu in range(3):
        assert [i for c, i in ran if c == cpu] == list(range(100))


def test_failing_work_surfaces(rt: FreeRuntime, wq: WorkQueue) -> None:
    """A work that raises fails the run it raised in; the next work runs."""
    ran: list[int] = []

    def fails() -> None:
        raise ZeroDivisionError("by intention")

    def body() -> None:
        wq.queue_work(Work(fails, "bad"))
        wq.queue_work(Work(lambda: ran.append(1), "good"))
        wq.drain()

    with pytest.raises(ExceptionGroup) as caught:
        rt.run([body])
    (failure,) = caught.value.exceptions
    assert isinstance(failure, ZeroDivisionError)
    assert failure.__notes__ == ["raised by <work bad> on kworker"]
    assert ran == [1]
    rt.run([lambda: None])  # reported once


def test_work_cannot_wait_for_itself(rt: FreeRuntime, wq: WorkQueue) -> None:
    """Flushing from the queue's own thread would never end: it is refused."""
    found: list[LockMisuse] = []

    def flushes() -> None:
        try:
            wq.drain()
        except LockMisuse as error:
            found.append(error)

    wq.queue_work(Work(flushes, "flushes"))
    wq.drain()
    assert len(found) == 1


def test_shutdown_ends_the_thread(rt: FreeRuntime, wq: WorkQueue) -> None:
    """A queue with work left does not keep the machine from ending."""
    for i in range(100):
        wq.queue_work(Work(lambda: None, f"work{i}"))
    rt.shutdown()
