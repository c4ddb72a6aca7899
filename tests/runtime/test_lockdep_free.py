"""The lock validator in the free-running modes: programs on real CPUs that break a rule, and those that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from concmem.errors import LockdepError, SleepInAtomic
from concmem.runtime.api import nested
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime

from .helpers import Make

pytestmark = pytest.mark.timeout(60)

Program = Callable[[FreeRuntime], Iterator[list[Callable[[], Any] | None]]]
"""Yields the bodies of one run after the other."""


@pytest.fixture(params=[FreeRuntime, JitterRuntime])
def rt(request: pytest.FixtureRequest, make: Make) -> FreeRuntime:
    runtime: FreeRuntime = make(2, runtime=request.param, lockdep=True)
    return runtime


def rules(rt: FreeRuntime, program: Program) -> list[str]:
    """The rules that running *program* breaks, and nothing else may go wrong."""
    found = []
    for bodies in program(rt):
        try:
            rt.run(bodies)
        except BaseExceptionGroup as group:
            for error in group.exceptions:
                cause = error.__cause__ or error
                assert isinstance(cause, LockdepError), error
                found.append(cause.rule)
    return found


def taking(*locks: Any) -> Callable[[], None]:
    """A body that takes locks in this order."""

    def body() -> None:
        if locks:
            with locks[0]:
                taking(*locks[1:])()

    return body


def two_orders(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """AB on one CPU, and when that is over BA on another."""
    a, b = rt.spinlock("a"), rt.spinlock("b")
    yield [taking(a, b), None]
    yield [None, taking(a, b) if right else taking(b, a)]


def three_orders(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """AB, BC, CA: a mutex among them."""
    a, b, c = rt.mutex("a"), rt.mutex("b"), rt.mutex("c")
    yield [taking(a, b), None]
    yield [taking(b, c), None]
    yield [None, taking(a, c) if right else taking(c, a)]


def recursion(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Two locks of one class, the second as such."""
    a, b = rt.spinlock("node->lock"), rt.spinlock("node->lock")
    yield [taking(a, nested(b) if right else b)]


def recursion_irqsave(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """The same with irqsave locks, after which interrupts are as they were."""
    a, b = rt.spinlock("node->lock", irqsave=True), rt.spinlock("node->lock", irqsave=True)

    def body() -> None:
        try:
            taking(a, nested(b) if right else b)()
        finally:
            assert rt.this_cpu().irqs_enabled

    yield [body]


def recursion_of_one(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """The same lock twice would hang for ever."""
    a = rt.spinlock("a", irqsave=True)
    yield [taking(a) if right else taking(a, a)]


def levels(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """The level inside must stay inside."""
    a, b = rt.mutex("a"), rt.mutex("a")
    yield [taking(a, nested(b))]
    yield [taking(b, nested(a)) if right else taking(nested(a), b)]


def a_lock_of_interrupts(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Taken in a handler, so not without irqsave."""
    a = rt.spinlock("a", irqsave=right)
    yield [taking(a)]
    yield [lambda: rt.call_on(1, taking(a), wait=False)]


def an_inversion(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Inside the lock of a handler, one that is held with interrupts enabled."""
    a, b = rt.spinlock("a", irqsave=True), rt.spinlock("b", irqsave=right)
    yield [lambda: rt.call_on(1, taking(a), wait=False)]
    yield [taking(b)]
    yield [taking(a, b)]


def releases_that_cross(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """The first irqsave lock given up enables interrupts, while the second is held."""
    a, b = rt.spinlock("a", irqsave=True), rt.spinlock("b", irqsave=True)

    def body() -> None:
        a.acquire()
        b.acquire()
        try:
            (b if right else a).release()
        finally:
            (a if right else b).release()

    yield [lambda: rt.call_on(1, taking(b), wait=False)]
    yield [body]


def a_mutex_in_a_spinlock(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Whoever spins for the outer lock would spin while its holder sleeps."""
    spin, mutex = rt.spinlock("spin"), rt.mutex("mutex")
    yield [taking(mutex, spin) if right else taking(spin, mutex)]


def a_mutex_in_an_interrupt(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """An interrupt cannot sleep; it may try."""
    mutex = rt.mutex("mutex")

    def handler() -> None:
        if not right:
            mutex.acquire()
        elif mutex.trylock():
            mutex.release()

    yield [lambda: rt.call_on(1, handler, wait=False)]


def readers(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """A reader reads again: a writer in between would make that wait for ever."""
    sem = rt.rwsem("sem")
    yield [taking(sem.read()), taking(sem.read())]
    yield [taking(sem.read()) if right else taking(sem.read(), sem.read())]


def readers_and_a_mutex(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """The order counts for readers too."""
    sem, mutex = rt.rwsem("sem"), rt.mutex("mutex")
    yield [taking(mutex, sem.read())]
    yield [taking(sem.read()), taking(mutex)] if right else [taking(sem.write(), mutex)]


def a_queue(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Who waits takes the queue's lock again, inside whatever it still holds."""
    outer, lock = rt.mutex("outer"), rt.mutex("lock")
    queue = rt.waitqueue(lock, "queue")

    def wait() -> None:
        with lock:
            if not right:
                outer.acquire()  # right as yet
            queue.wait(0.001)

    def body() -> None:
        try:
            wait()
        finally:
            if outer.locked():
                outer.release()

    yield [body]


def a_leak(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """A body ends with a lock held. Once told, it is forgotten."""
    lock = rt.spinlock("lock")

    def body() -> None:
        lock.acquire()
        if right:
            lock.release()

    yield [body]
    yield [lambda: None]


def a_foreign_release(rt: FreeRuntime, right: bool) -> Iterator[list[Any]]:
    """Released by another CPU than the one that holds it."""
    lock, released = rt.mutex("lock"), rt.cell(False, "released")

    def holder() -> None:
        with lock:
            while not released.value:
                rt.cpu_relax()

    def other() -> None:
        try:
            while not right and not lock.locked():
                rt.cpu_relax()
            if not right:
                lock.release()
        finally:
            released.value = True

    yield [holder, other]


PROGRAMS: dict[Any, str] = {
    two_orders: "circular",
    three_orders: "circular",
    recursion: "recursive",
    recursion_irqsave: "recursive",
    recursion_of_one: "recursive",
    levels: "circular",
    a_lock_of_interrupts: "inconsistent",
    an_inversion: "irq order",
    releases_that_cross: "inconsistent",
    a_mutex_in_a_spinlock: "wait context",
    a_mutex_in_an_interrupt: "wait context",
    readers: "recursive",
    readers_and_a_mutex: "circular",
    a_queue: "circular",
    a_leak: "held",
    a_foreign_release: "unlock",
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_wrong(rt: FreeRuntime, program: Any) -> None:
    """The rule is found broken, once, and the CPUs go on."""
    assert rules(rt, lambda rt: program(rt, False)) == [PROGRAMS[program]]
    assert rt.run([rt.smp_processor_id] * 2) == [0, 1]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_right(rt: FreeRuntime, program: Any) -> None:
    """The program next to it that keeps the rule is left alone."""
    assert rules(rt, lambda rt: program(rt, True)) == []


def test_a_lock_that_is_only_tried(rt: FreeRuntime) -> None:
    """BA is right where A is only tried."""
    a, b = rt.spinlock("a"), rt.spinlock("b")

    def body() -> None:
        with b:
            assert a.trylock()
            assert not a.trylock()
            a.release()

    rt.run([taking(a, b)])
    rt.run([None, body])
    with pytest.raises(ExceptionGroup, match="failure"):
        rt.run([taking(b, a)])


def test_a_trylock_that_breaks_a_rule_gives_the_lock_back(rt: FreeRuntime) -> None:
    """A try is refused where the lock becomes unsafe by it."""
    a = rt.spinlock("a")
    rt.run([lambda: rt.call_on(1, taking(a), wait=False)])

    def body() -> str:
        with pytest.raises(LockdepError) as caught:
            a.trylock()
        assert not a.locked()
        return caught.value.rule

    assert rt.run([body]) == ["inconsistent"]


def test_a_sleep_that_fails_is_not_held(rt: FreeRuntime) -> None:
    """A mutex that must not be waited for here is not held afterwards."""
    mutex = rt.mutex("mutex")

    def body() -> None:
        flags = rt.local_irq_save()
        with pytest.raises(SleepInAtomic):
            mutex.acquire()
        rt.local_irq_restore(flags)
        with mutex:
            pass

    rt.run([body])


def test_threads_that_are_no_cpu(rt: FreeRuntime) -> None:
    """The thread of the test takes locks as well, and gets no interrupts."""
    a, b = rt.spinlock("a"), rt.spinlock("b", irqsave=True)
    rt.run([lambda: rt.call_on(1, taking(a), wait=False)])
    with a, b:
        pass
    with pytest.raises(LockdepError, match="circular"), b, a:
        pass
    assert not b.locked()


def test_a_lock_knows_what_it_is(rt: FreeRuntime) -> None:
    """Name, state and holder are those of the lock inside."""
    lock = rt.spinlock("zone->lock", irqsave=True)
    sem = rt.rwsem("sem")
    assert (lock.name, sem.name) == ("zone->lock", "sem")
    with lock, nested(rt.spinlock("zone->lock")):
        assert lock.locked()
    with sem.write():
        sem.downgrade()
    assert not lock.locked()


def test_nested_without_a_validator(make: Make) -> None:
    """It is just ``with lock:`` there."""
    for lock in (make(1).spinlock("a"), make(1).spinlock("a", irqsave=True), make(1).mutex("a")):
        assert nested(lock) is lock


def test_no_validator_no_cost(make: Make) -> None:
    """Without it the locks are those that they were."""
    plain, watched = make(1), make(1, lockdep=True)
    assert plain.lockdep is None
    assert type(plain.spinlock("a")).__name__ == "FreeSpinlock"
    assert type(watched.spinlock("a")).__name__ == "LockdepLock"
    assert "local_irq_restore" not in vars(plain)


def test_many_cpus_learn_at_once(make: Make) -> None:
    """CPUs that come to the same new chains at the same time agree on them."""
    for seed in range(10):
        rt = make(4, runtime=JitterRuntime, lockdep=True, seed=seed)
        locks = [rt.mutex(f"lock{i}") for i in range(6)]
        rt.run([taking(*locks)] * 4)
        rt.run([taking(*locks[1::2]), taking(*locks[::2]), taking(*locks), taking(locks[5])])
        names = [lock.name for lock in locks]
        edges = {(edge.before, edge.after) for edge in rt.lockdep.edges()}
        chain = set(pairwise(names))
        assert edges == chain | set(zip(names, names[2:], strict=False))
        chains = rt.lockdep.statistics().chains
        assert len(set(chains)) == len(chains) == 6 + 3 + 2 + 1


def test_the_places_are_those_of_the_callers(make: Make) -> None:
    """Reports name functions that take locks, not the methods of locks."""
    rt = make(1, lockdep=True, lockstat=True)
    a, b = rt.spinlock("a", irqsave=True), rt.mutex("b")

    def outer() -> None:
        with b:
            inner()

    def inner() -> None:
        a.acquire()
        a.release()

    rt.run([outer])
    [edge] = rt.lockdep.edges()
    where = f"test_the_places_are_those_of_the_callers.<locals>.outer ({__file__}:"
    assert edge.held_at.startswith(where)
    assert edge.taken_at.startswith(where.replace("outer", "inner"))
    assert edge.context.startswith("cpu0/")
