"""Every kind of failure is told apart, and correct twins are not reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.explore.failure import Failure
from concmem.runtime.api import THIS_CPU

from .programs import abba, counter, lost_wakeup, mutual_exclusion, sleeper_without_waker


def found(program: Any, **options: Any) -> Failure:
    """The failure that a search of the whole space finds."""
    options.setdefault("scheduler", "dfs")
    outcome = explore.check(program, **options)
    assert outcome.failure is not None
    assert not outcome
    assert not outcome.exhausted
    return outcome.failure


def passes(program: Any, **options: Any) -> explore.Outcome:
    """The outcome of a search of the whole space, which finds nothing."""
    outcome = explore.check(program, "dfs", **options)
    assert outcome.failure is None, str(outcome.failure)
    assert outcome
    assert outcome.exhausted
    return outcome


def test_assertion() -> None:
    """What the oracle raises is an assertion; one preemption is enough."""
    failure = found(counter)
    assert (failure.kind, failure.preemptions, failure.cpu) == ("assertion", 1, "")
    assert failure.schedule == "v1:1.0"
    passes(mutual_exclusion)


def test_number_of_interleavings() -> None:
    """Depth-first search runs each interleaving once: (4 over 2) of two steps each."""
    outcomes: list[int] = []

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def body() -> None:
            value = x.value
            x.value = value + 1

        return Program([body, body], lambda: outcomes.append(x.value))

    outcome = passes(program)
    assert outcome.executions == outcome.coverage.schedules == 6
    assert sorted(outcomes) == [1, 1, 1, 1, 2, 2]


def test_exception_of_a_body() -> None:
    """Any other exception, with the CPU that raised it."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def reader() -> None:
            10 // (1 - x.value)

        def writer() -> None:
            x.value = 1

        return Program([reader, writer])

    failure = found(program)
    assert (failure.kind, failure.cpu) == ("exception", "cpu0")
    assert isinstance(failure.error, ZeroDivisionError)
    assert "reader" in failure.place


def test_deadlock_with_its_circle() -> None:
    """Who waits for what that whom holds."""
    failure = found(abba)
    assert failure.kind == "deadlock"
    for words in ("cpu0 waits for b", "cpu1 holds", "cpu1 waits for a", "cpu0 holds"):
        assert words in str(failure.error)


def test_partial_deadlock() -> None:
    """A circle is told although a third CPU could run for ever."""

    def program(rt: ControlledRuntime) -> Program:
        program = abba(rt)

        def runs_long() -> None:
            for _ in range(200):
                rt.cond_resched()

        return Program([*program.bodies, runs_long])

    # Under a random walk the circle closes in about every fourth execution.
    outcome = explore.check(program, "random", executions=200, shrink=False)
    assert outcome.failure is not None
    assert outcome.failure.kind == "deadlock"
    assert outcome.failure.step < 100


def test_a_handler_that_wants_its_own_cpus_lock() -> None:
    """A lock that is not irqsave, taken by an interrupt on top of its holder."""

    def program(rt: ControlledRuntime, irqsave: bool = False) -> Program:
        lock = rt.spinlock("lock", irqsave=irqsave)

        def section() -> None:
            with lock:
                pass

        return Program([section], interrupts=[(0, section)])

    failure = found(program, detectors={"races"})
    assert failure.kind == "deadlock"
    assert "cpu0/irq waits for lock, which cpu0 holds" in str(failure.error)
    passes(lambda rt: program(rt, irqsave=True))


def test_ipi_deadlock() -> None:
    """A CPU that waits for an interrupt of one that spins with interrupts off for its lock."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.mutex("lock")

        def caller() -> None:
            with lock:
                rt.call_on(1, lambda: None)

        def deaf() -> None:
            flags = rt.local_irq_save()
            while not lock.trylock():
                rt.cpu_relax()
            lock.release()
            rt.local_irq_restore(flags)

        return Program([caller, deaf])

    assert found(program, max_steps=500).kind in ("livelock", "deadlock")


def test_lost_wakeup_is_a_kind_of_its_own() -> None:
    """The condition is true, everybody else is gone; a deadlock without that is only a deadlock."""
    failure = found(lost_wakeup)
    assert failure.kind == "lost-wakeup"
    assert "although its condition holds" in str(failure.error)
    assert found(sleeper_without_waker).kind == "deadlock"


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_a_timeout_does_not_hide_a_lost_wakeup(timeout: float | None) -> None:
    """That the waiter would look again after a while does not make it correct."""

    def program(rt: ControlledRuntime, correct: bool = False) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")
        ready = [False]

        def waiter() -> None:
            with lock:
                queue.wait_for(lambda: ready[0], timeout)

        def waker() -> None:
            with lock:
                ready[0] = True
                if correct:
                    queue.wake_up()

        return Program([waiter, waker])

    assert found(program).kind == "lost-wakeup"
    passes(lambda rt: program(rt, correct=True))


def test_timeouts_fire_when_nobody_can_go_on() -> None:
    """Time passes only then; all of it at once."""
    slept: list[tuple[bool, int]] = []

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")

        def waiter() -> None:
            with lock:
                before = rt.jiffies
                slept.append((queue.wait(2.0), rt.jiffies - before))

        return Program([waiter])

    passes(program)
    assert slept == [(False, 500)]  # HZ is 250


def test_early_timeouts_are_choices() -> None:
    """With a budget, a time-out may come before the wake-up that was on its way."""
    results: set[bool] = set()

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")
        done = [False]

        def waiter() -> None:
            with lock:
                results.add(done[0] or queue.wait(60))

        def waker() -> None:
            with lock:
                done[0] = True
                queue.wake_up()

        return Program([waiter, waker])

    passes(program)
    assert results == {True}
    passes(program, early_timeouts=1)
    assert results == {True, False}


def test_spurious_wakeups_are_choices() -> None:
    """A waiter that does not look again is found; one that does is not."""

    def program(rt: ControlledRuntime, careful: bool = False) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")
        ready = [False]

        def waiter() -> None:
            with lock:
                if careful:
                    queue.wait_for(lambda: ready[0])
                elif not ready[0]:
                    queue.wait()
                assert ready[0]

        def waker() -> None:
            with lock:
                ready[0] = True
                queue.wake_up()

        return Program([waiter, waker])

    passes(program)
    assert found(program, spurious_wakeups=1).kind == "assertion"
    passes(lambda rt: program(rt, careful=True), spurious_wakeups=2)


def test_lock_leak() -> None:
    """A body that ends with a lock held, even if nobody wants it."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.mutex("leaked")
        return Program([lock.acquire])

    failure = found(program)
    assert (failure.kind, failure.place) == ("lock-leak", "leaked")


def test_livelock() -> None:
    """Two CPUs that wait for each other, politely and for ever."""

    def program(rt: ControlledRuntime) -> Program:
        flags = [rt.cell(False, "a"), rt.cell(False, "b")]

        def body(mine: int) -> Callable[[], None]:
            def run() -> None:
                while not flags[1 - mine].value:
                    rt.cpu_relax()
                flags[mine].value = True

            return run

        return Program([body(0), body(1)])

    failure = found(program)
    assert failure.kind == "livelock"
    assert "cpu0" in str(failure.error)


def test_spin_loops_end() -> None:
    """Who yields lets the others run first, whatever the scheduler, so waiting by yielding ends."""

    def program(rt: ControlledRuntime) -> Program:
        flag = rt.cell(False, "flag")

        def waits() -> None:
            while not flag.value:
                rt.cpu_relax()

        def sets() -> None:
            flag.value = True

        return Program([waits, waits, sets])

    passes(program, max_steps=60)
    for scheduler in ("pct", "random", "rr"):
        assert explore.check(program, scheduler, executions=300, max_steps=60)


def test_step_limit() -> None:
    """An execution that does change things, but never ends."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.atomic(0, "x")

        def body() -> None:
            while True:
                x.inc()

        return Program([body])

    failure = found(program, max_steps=100)
    assert (failure.kind, failure.step) == ("step-limit", 101)


class Account:
    """A balance with and without its lock."""

    __guarded_by__ = {"balance": "lock"}

    def __init__(self, rt: ControlledRuntime) -> None:
        self.lock = rt.spinlock("account->lock")
        self.balance = 0
        rt.watch(self)


def test_data_race_on_a_guarded_field() -> None:
    """A dropped lock is found although the result may be right, with both accesses."""

    def program(rt: ControlledRuntime, locked: bool = False) -> Program:
        account = Account(rt)

        def deposit() -> None:
            with account.lock:
                account.balance += 1

        def careless() -> None:
            if locked:
                deposit()
            else:
                account.balance += 1

        return Program([deposit, careless])

    failure = found(program)
    assert (failure.kind, failure.place) == ("data-race", "Account.balance")
    passes(lambda rt: program(rt, locked=True))
    assert explore.check(program, "dfs", detectors=set(), executions=200)


@explore.shared
class Plain:
    """Every field is watched."""

    def __init__(self) -> None:
        self.ready = False
        self.data = 0


def test_shared_data() -> None:
    """Message passing through plain fields races; through a cell it does not."""

    def program(rt: ControlledRuntime, flag: bool = False) -> Program:
        plain, marked = Plain(), rt.cell(False, "ready")

        def sender() -> None:
            plain.data = 1
            if flag:
                marked.value = True
            else:
                plain.ready = True

        def receiver() -> None:
            if marked.value if flag else plain.ready:
                assert plain.data == 1

        return Program([sender, receiver])

    assert found(program).kind == "data-race"
    passes(lambda rt: program(rt, flag=True))


def test_shared_is_plain_elsewhere() -> None:
    """Outside of a check the class is what it was."""
    assert type(Plain()) is Plain


class Slot:
    """A word that only its CPU touches."""

    __guarded_by__ = {"value": THIS_CPU}

    def __init__(self) -> None:
        self.value = 0


def test_interrupts_come_between_load_and_store() -> None:
    """What only "nothing else runs on this CPU" protects must survive its interrupts."""

    def program(rt: ControlledRuntime, disable: bool = False) -> Program:
        slot = rt.watch(Slot())

        def add() -> None:
            flags = rt.local_irq_save() if disable else False
            slot.value += 1
            rt.local_irq_restore(flags)

        def after() -> None:
            assert slot.value == 2

        return Program([add], after, interrupts=[(0, add)])

    failure = found(program)
    assert (failure.kind, failure.preemptions) == ("assertion", 1)
    passes(lambda rt: program(rt, disable=True))


def test_join_orders() -> None:
    """What a started body did is known to who waits for its end."""

    def program(rt: ControlledRuntime) -> Program:
        plain = Plain()

        def child() -> int:
            plain.data = 2
            return 5

        def parent() -> None:
            plain.data = 1
            future = rt.submit(1, child)
            assert future.result() == 5
            assert plain.data == 2

        return Program([parent])

    passes(program)


def test_rwsem_recursive_reader() -> None:
    """A reader that comes again behind a waiting writer is stuck, as in the kernel."""

    def program(rt: ControlledRuntime) -> Program:
        sem = rt.rwsem("sem")

        def reader() -> None:
            with sem.read(), sem.read():
                pass

        def writer() -> None:
            with sem.write():
                pass

        return Program([reader, writer])

    assert found(program, detectors={"races"}).kind == "deadlock"


@pytest.mark.parametrize("kind", ["spinlock", "irqsave", "mutex"])
def test_exclusion_when_an_interrupt_comes_before_the_lock(kind: str) -> None:
    """A CPU that was interrupted on its way to a lock does not get it from under somebody else."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.mutex("l") if kind == "mutex" else rt.spinlock("l", irqsave=kind == "irqsave")
        inside, x = [0], rt.atomic(0, "x")

        def section() -> None:
            with lock:
                inside[0] += 1
                x.inc()
                assert inside[0] == 1
                inside[0] -= 1

        return Program([section, section], interrupts=[(0, x.inc)])

    passes(program)


def test_exclusion_after_yielding() -> None:
    """Neither does one that has yielded."""

    def program(rt: ControlledRuntime) -> Program:
        lock, inside = rt.spinlock("l"), [0]

        def section() -> None:
            rt.cpu_relax()
            with lock:
                inside[0] += 1
                rt.cond_resched()
                assert inside[0] == 1
                inside[0] -= 1

        return Program([section, section, section])

    passes(program)


@pytest.mark.parametrize("wait", [True, False])
def test_interrupts_to_all_cpus_order(wait: bool) -> None:
    """What was done before they were sent is known to their handlers; after a wait, theirs to the sender."""

    def program(rt: ControlledRuntime, late: bool = False) -> Program:
        plain = Plain()

        def body() -> None:
            plain.data = 1
            rt.on_each_cpu(lambda: plain.data, wait)
            if wait or late:
                plain.data = 2

        return Program([body, None])

    passes(program)
    if not wait:
        assert found(lambda rt: program(rt, late=True)).kind == "data-race"


@pytest.mark.parametrize("scheduler", ["dfs", "dpor", "pb"])
def test_early_timeouts_and_spurious_wakeups_at_once(scheduler: str) -> None:
    """A sleep that may time out early is not woken spuriously as well: so nothing was covered completely."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")

        def body() -> None:
            with lock:
                assert not queue.wait(5.0)

        return Program([body])

    assert found(program, scheduler=scheduler, spurious_wakeups=1).kind == "assertion"
    assert explore.check(program, scheduler, early_timeouts=1).exhausted
    both = explore.check(program, scheduler, early_timeouts=1, spurious_wakeups=1)
    assert both
    assert (both.exhausted, both.bound, both.ended_by) == (False, None, "scheduler")
    assert "1 sleep could time out early" in " ".join(str(both).split())
