"""Conformance: locks, wait queues and lockless variables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from concmem.runtime.api import Lock, Refcount, Runtime
from concmem.testing.conformance_check import (
    PATIENCE,
    TICK,
    Check,
    every_lock,
    expect,
    raised_by,
    until,
)

ROUNDS = 40


def _increment(rt: Runtime, lock: Lock, value: list[int], rounds: int = ROUNDS) -> None:
    """Count under *lock*, giving others every chance to come between load and store."""
    for _ in range(rounds):
        with lock:
            old = value[0]
            rt.cpu_relax()
            value[0] = old + 1
        rt.cond_resched()


def check_mutual_exclusion(rt: Runtime) -> None:
    """Critical sections of one lock never overlap."""
    for lock in every_lock(rt):
        value = [0]
        body: Callable[[], None] = partial(_increment, rt, lock, value)
        rt.run([body] * 4)
        expect(value, [4 * ROUNDS], f"increments under {lock.name}")


def check_irqsave_keeps_handlers_out(rt: Runtime) -> None:
    """An irqsave lock may be taken by interrupt handlers of the CPU that holds it."""
    lock = rt.spinlock("conformance-irqsave", irqsave=True)
    value = [0]

    def interrupt() -> None:
        for _ in range(ROUNDS):
            rt.call_on(0, partial(_increment, rt, lock, value, 1))

    body: Callable[[], None] = partial(_increment, rt, lock, value)
    rt.run([body, interrupt])
    expect(value, [2 * ROUNDS], "increments by a body and a handler")


def check_trylock(rt: Runtime) -> None:
    """trylock() takes a free lock and never waits; locked() tells whether it is taken."""
    for lock in every_lock(rt):
        expect(rt.run(_trylock_bodies(rt, lock)), [(False, True, True), (False, True)], lock.name)
        expect(lock.locked(), False, f"{lock.name}.locked() after release()")


def _trylock_bodies(rt: Runtime, lock: Lock) -> list[Callable[[], object]]:
    held, tried = rt.cell(False, "held"), rt.cell(False, "tried")

    def holder() -> object:
        before, got, during = lock.locked(), lock.trylock(), lock.locked()
        held.value = True
        until(rt, lambda: tried.value)
        lock.release()
        return before, got, during

    def other() -> object:
        until(rt, lambda: held.value)
        refused = lock.trylock()
        tried.value = True
        lock.acquire()
        was_held = lock.locked()
        lock.release()
        return refused, was_held

    return [holder, other]


def check_release_unheld(rt: Runtime) -> None:
    """release() of a lock that nobody holds raises RuntimeError and changes nothing."""
    for lock in every_lock(rt):

        def body(lock: Lock = lock) -> tuple[bool, bool, bool]:
            misuse = isinstance(raised_by(lock.release), RuntimeError)
            enabled = rt.local_irq_save()
            rt.local_irq_restore(enabled)
            usable = lock.trylock()
            lock.release()
            return misuse, enabled, usable

        expect(rt.run([body]), [(True, True, True)], f"{lock.name}: raises, irqs on, usable")


def check_released_by_exception(rt: Runtime) -> None:
    """An exception that leaves ``with lock`` releases it, as it does a reader-writer semaphore."""
    sem = rt.rwsem("conformance-rwsem")
    sections = [(lock, lock) for lock in every_lock(rt)]

    def body() -> list[bool]:
        free = []
        for lock, section in sections:
            try:
                with section:
                    raise KeyError(lock.name)
            except KeyError:
                free.append(not lock.locked())
        for side in (sem.read, sem.write, sem.read):
            try:
                with side():
                    raise KeyError("sem")
            except KeyError:
                pass
        with sem.write():
            free.append(True)
        return free

    expect(rt.run([body]), [[True] * 4], "released")


def check_rwsem_exclusion(rt: Runtime) -> None:
    """A writer of a reader-writer semaphore is alone with it."""
    sem = rt.rwsem("conformance-rwsem")
    value = [0]

    def writer() -> None:
        for _ in range(ROUNDS):
            with sem.write():
                old = value[0]
                rt.cpu_relax()
                value[0] = old + 1

    def reader() -> bool:
        same = True
        for _ in range(ROUNDS):
            with sem.read():
                old = value[0]
                rt.cpu_relax()
                same = same and value[0] == old
        return same

    expect(rt.run([writer, writer, reader, reader])[2:], [True, True], "readers saw no writer")
    expect(value, [2 * ROUNDS], "increments by writers")


def check_rwsem_sharing(rt: Runtime) -> None:
    """Readers share a reader-writer semaphore, and a downgraded writer shares it with them."""
    sem = rt.rwsem("conformance-rwsem")
    inside = rt.atomic(0, "inside")

    def reader() -> int:
        with sem.read():
            inside.inc()
            until(rt, lambda: inside.value >= 2)  # never, unless two are inside together
        return inside.value

    rt.run([reader, reader])
    inside.value = 0
    downgraded, writers = rt.cell(False, "downgraded"), [0]

    def downgrader() -> int:
        with sem.write():
            sem.downgrade()
            inside.inc()
            downgraded.value = True
            until(rt, lambda: inside.value >= 2)
            return writers[0]

    def late_reader() -> int:
        until(rt, lambda: downgraded.value)
        return reader()

    def writer() -> int:
        until(rt, lambda: inside.value >= 2)
        with sem.write():
            writers[0] += 1
        return writers[0]

    expect(rt.run([downgrader, late_reader, writer]), [0, 2, 1], "writers before and after")


def check_wake_up_order(rt: Runtime) -> None:
    """wake_up(n) wakes the n longest waiters, wake_up_all() all; both say how many there were."""
    for lock in every_lock(rt):
        expect(_wake_in_order(rt, lock), (2, [1, 2], 1, 0), f"wake-ups of a queue with {lock.name}")


def _wake_in_order(rt: Runtime, lock: Lock) -> object:
    queue = rt.waitqueue(lock, "conformance-queue")
    arrived, awake = rt.cell(1, "arrived"), rt.cell(0, "awake")
    order: list[int] = []  # under lock

    def waiter(number: int) -> bool:
        until(rt, lambda: arrived.value == number)
        with lock:
            arrived.value = number + 1
            woken = queue.wait(PATIENCE)
            order.append(number)
            awake.value = len(order)
        return woken

    def waker() -> tuple[int, list[int], int, int]:
        until(rt, lambda: arrived.value == 4)
        with lock:  # so the last one has given it up, and waits
            two = queue.wake_up(2)
        until(rt, lambda: awake.value >= 2)
        with lock:
            first = sorted(order)
            rest = queue.wake_up_all()
            nobody = queue.wake_up_all() + queue.wake_up(3)
        return two, first, rest, nobody

    bodies: list[Callable[[], object]] = [partial(waiter, number) for number in (1, 2, 3)]
    results = rt.run([waker, *bodies])
    expect(results[1:], [True] * 3, "wait() of those woken")
    return results[0]


def check_timeouts(rt: Runtime) -> None:
    """A wait that times out returns False, holds the lock, and leaves no waiter behind."""
    for lock in every_lock(rt):
        queue = rt.waitqueue(lock, "conformance-queue")

        def body(lock: Lock = lock) -> tuple[object, ...]:
            with lock:
                late, left = queue.wait(TICK), queue.wake_up()  # noqa: B023
                never = queue.wait_for(lambda: False, TICK)  # noqa: B023
                left += queue.wake_up_all()  # noqa: B023
                at_once = queue.wait_for(lock.locked, TICK)  # noqa: B023
                return late, never, left, at_once, lock.locked()

        expect(rt.run([body]), [(False, False, 0, True, True)], f"time-outs with {lock.name}")


def check_producer_consumer(rt: Runtime) -> None:
    """No wake-up is lost: what producers put into a small buffer, consumers get, each item once."""
    for lock in every_lock(rt):
        got = _pass_items(rt, lock)
        expect(sorted(got), list(range(2 * ROUNDS)), f"items through a buffer with {lock.name}")


def _pass_items(rt: Runtime, lock: Lock) -> list[int]:
    not_full = rt.waitqueue(lock, "conformance-not-full")
    not_empty = rt.waitqueue(lock, "conformance-not-empty")
    buffer: list[int] = []  # under lock
    got: list[int] = []  # under lock

    def producer(first: int) -> bool:
        for item in range(first, 2 * ROUNDS, 2):
            with lock:
                if not not_full.wait_for(lambda: len(buffer) < 2, PATIENCE):
                    return False
                buffer.append(item)
                not_empty.wake_up()
        return True

    def consumer() -> bool:
        for _ in range(ROUNDS):
            with lock:
                if not not_empty.wait_for(lambda: bool(buffer), PATIENCE):
                    return False
                got.append(buffer.pop(0))
                not_full.wake_up()
        return True

    producers: list[Callable[[], bool]] = [partial(producer, 0), partial(producer, 1)]
    results = rt.run([*producers, consumer, consumer])
    expect(results, [True] * 4, f"no wait was too long, with {lock.name}")
    return got


def check_atomics(rt: Runtime) -> None:
    """Operations of an atomic are indivisible, and return what they say."""
    count, token = rt.atomic(0, "count"), rt.atomic(-1, "token")
    high, cell = rt.atomic(0, "high"), rt.cell("old", "cell")

    def body() -> tuple[list[int], list[int]]:
        me = rt.smp_processor_id()
        sums, taken = [], []
        for turn in range(ROUNDS):
            count.inc()
            count.add(5)
            count.dec()
            sums.append(high.add_return(1))
            taken.append(token.xchg(me * ROUNDS + turn))
            while True:  # a counter by cmpxchg
                old = high.value
                if high.cmpxchg(old, old + 1_000_000) == old:
                    break
        return sums, taken

    results = [result or ([], []) for result in rt.run([body] * 4)]
    expect(count.value, 4 * ROUNDS * 5, "sum of inc, add and dec")
    expect(high.value, 4 * ROUNDS * 1_000_001, "sum of add_return and cmpxchg")
    lows = sorted(low % 1_000_000 for sums, _ in results for low in sums)
    expect(lows, list(range(1, 4 * ROUNDS + 1)), "values returned by add_return")
    taken = sorted(old for _, olds in results for old in olds)
    expect(sorted([*taken, token.value]), list(range(-1, 4 * ROUNDS)), "values exchanged by xchg")
    high.value = 7
    expect((high.cmpxchg(8, 9), high.value), (7, 7), "cmpxchg that must fail")
    expect((high.cmpxchg(7, 9), high.value), (7, 9), "cmpxchg that must succeed")
    cell.value = "new"
    expect(rt.run([lambda: cell.value]), ["new"], "a cell written elsewhere")


def check_refcounts(rt: Runtime) -> None:
    """Of all that drop a reference one is the last; a reference too many dropped is an error."""
    for _ in range(ROUNDS):
        count = rt.refcount("conformance-refcount")
        expect((count.inc_not_zero(), count.read()), (False, 0), "inc_not_zero() of nothing")
        count.add(True)
        for _ in range(3):
            count.add(False)

        def body(count: Refcount = count) -> list[bool]:
            more = count.inc_not_zero()
            last = [count.dec_and_test()] if more else []
            return [not more, *last, count.dec_and_test()]

        results = rt.run([body] * 4)
        expect(sum(map(sum, filter(None, results))), 1, "last references")
        expect(isinstance(raised_by(count.dec_and_test), LookupError), True, "underflow raises")
        count.add(True)
        expect((count.inc_not_zero(), count.read()), (True, 2), "inc_not_zero() of one")


CHECKS = (
    Check(check_mutual_exclusion, 4),
    Check(check_irqsave_keeps_handlers_out, 2),
    Check(check_trylock, 2),
    Check(check_release_unheld, 1),
    Check(check_released_by_exception, 1),
    Check(check_rwsem_exclusion, 4),
    Check(check_rwsem_sharing, 3),
    Check(check_wake_up_order, 4),
    Check(check_timeouts, 1),
    Check(check_producer_consumer, 4),
    Check(check_atomics, 4),
    Check(check_refcounts, 4),
)
