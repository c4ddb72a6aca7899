"""Programs that fail in every way that is shown differently, and their failures, each found once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from concmem import explore
from concmem.explore import ControlledRuntime, Failure, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.zone import Zone
from concmem.runtime.api import THIS_CPU

from ..programs import abba, counter, lost_wakeup


class Account:
    """A balance, and a lock that is to protect it."""

    __guarded_by__ = {"balance": "lock"}

    def __init__(self, rt: ControlledRuntime) -> None:
        self.lock = rt.spinlock("account->lock")
        self.balance = 0
        rt.watch(self)


def data_race(rt: ControlledRuntime) -> Program:
    """One of two forgets the lock."""
    account = Account(rt)

    def careful() -> None:
        with account.lock:
            account.balance += 1

    def careless() -> None:
        account.balance += 1

    return Program([careful, careless])


class Slot:
    """A word that only its CPU touches."""

    __guarded_by__ = {"value": THIS_CPU}

    def __init__(self) -> None:
        self.value = 0


def interrupt(rt: ControlledRuntime) -> Program:
    """What only "nothing else runs on this CPU" protects, and an interrupt in the middle."""
    slot = rt.watch(Slot())

    def add() -> None:
        slot.value += 1

    def tick() -> None:
        slot.value += 10

    def after() -> None:
        assert slot.value == 11, f"value is {slot.value}"

    return Program([add], after, interrupts=[(0, tick)])


def kernel_thread(rt: ControlledRuntime) -> Program:
    """A kernel thread that looks, and acts on what it saw later; another one never has work."""
    lock = rt.spinlock("work->lock")
    queue = rt.waitqueue(lock, "work")
    todo, total = rt.cell(0, "todo"), rt.cell(0, "total")

    def flusher() -> None:
        while True:
            with lock:
                queue.wait_for(lambda: todo.value > 0)
                todo.value = todo.value - 1
            total.value = total.value + 1

    def idle() -> None:
        with lock:
            queue.wait()

    rt.kthread_run(flusher, "flusher")
    rt.kthread_run(idle, "idle")

    def body() -> None:
        with lock:
            todo.value = todo.value + 1
            queue.wake_up()
        total.value = total.value + 1

    def after() -> None:
        assert total.value + todo.value == 2

    return Program([body], after)


def reorder(rt: ControlledRuntime) -> Program:
    """Two fields that change one after the other, and somebody who sees one change only."""
    a, b = rt.cell(0, "a"), rt.cell(0, "b")

    def setter() -> None:
        a.value = 1
        b.value = -1

    def checker() -> None:
        assert (a.value, b.value) in ((0, 0), (1, -1))

    return Program([setter, checker])


def order(rt: ControlledRuntime) -> Program:
    """Fails without any preemption."""
    lock, data = rt.spinlock("lock"), rt.cell(0, "data")

    def adder(n: int) -> Callable[[], None]:
        def add() -> None:
            with lock:
                data.value = data.value + n

        return add

    def reader() -> None:
        with lock:
            assert data.value < 3

    return Program([adder(1), adder(2), reader])


def leak(rt: ControlledRuntime) -> Program:
    """A lock that is not given back."""
    lock = rt.mutex("leaked")
    return Program([lock.acquire])


def livelock(rt: ControlledRuntime) -> Program:
    """Two that wait for each other, politely and for ever."""
    flags = [rt.cell(False, "a"), rt.cell(False, "b")]

    def body(mine: int) -> Callable[[], None]:
        def run() -> None:
            while not flags[1 - mine].value:
                rt.cpu_relax()
            flags[mine].value = True

        return run

    return Program([body(0), body(1)])


def endless(rt: ControlledRuntime) -> Program:
    """Always does something, never ends."""
    x = rt.atomic(0, "x")

    def body() -> None:
        while True:
            x.inc()

    return Program([body])


EVIL = '</script><script>alert(1)</script>&"\x1b[31m\u202e'


def evil(rt: ControlledRuntime) -> Program:
    """Names and values that are none of ours to choose."""
    x: Any = rt.cell(EVIL, f"x{EVIL}")
    wide = rt.cell("漢字", "漢字 cafe\u0301")

    def body() -> None:
        value, other = x.value, wide.value
        x.value, wide.value = value + EVIL, other

    def after() -> None:
        assert len(x.value) == 3 * len(EVIL), EVIL

    return Program([body, body], after)


class CountingZone(Zone):
    """Counts what is freed, and does so after the lock was given back."""

    __slots__ = ("nr_freed", "pauses")

    def free_bulk(self, pages: Iterable[tuple[Page, int]]) -> None:
        pages = list(pages)
        super().free_bulk(pages)
        before = self.nr_freed.value
        for _ in range(10):
            self.pauses.value = 0
        self.nr_freed.value = before + len(pages)


def machine(rt: ControlledRuntime) -> Program:
    """Pages of a machine, some 300 steps, with a count that is kept without the lock."""
    m = Machine(cpus=2, memory="16M", runtime=rt, pagesets=False, classes={Zone: CountingZone})
    nr_freed = rt.cell(0, "nr_freed")
    for zone in m.zones:
        zone.nr_freed, zone.pauses = nr_freed, rt.cell(0, "pauses")

    def body() -> None:
        for order in (0, 1, 2, 0):
            page = m.alloc_pages(order)
            assert page is not None
            m.free_pages(page, order)

    def after() -> None:
        assert nr_freed.now == 8

    return Program([body, body], after)


def many_cpus(rt: ControlledRuntime) -> Program:
    """Eight CPUs."""
    return Program([*counter(rt).bodies, *(list(abba(rt).bodies) * 3)])


OPTIONS: dict[str, dict[str, Any]] = {
    "kernel_thread": {"scheduler": "random"},
    "livelock": {"max_steps": 400},
    "endless": {"max_steps": 400},
    # A change of priority in one of 8 windows of 10 steps in some 350: p > 0.1 for each execution.
    "machine": {
        "scheduler": explore.PCT(depth=2),
        "executions": 500,
        "detectors": set(),
        "shrink": False,
    },
    "many_cpus": {"scheduler": "random", "shrink": False},
}

PROGRAMS = {
    program.__name__: program
    for program in (
        counter, abba, lost_wakeup, data_race, interrupt, kernel_thread, reorder, order, leak,
        livelock, endless, evil, machine, many_cpus,
    )
}  # fmt: skip


@cache
def outcome_of(name: str) -> explore.Outcome:
    """What a search finds in the program of that name."""
    return explore.check(PROGRAMS[name], **{"scheduler": "pct", **OPTIONS.get(name, {})})


def failure_of(name: str) -> Failure:
    """Its failure."""
    failure = outcome_of(name).failure
    assert failure is not None
    assert failure.trace
    return failure
