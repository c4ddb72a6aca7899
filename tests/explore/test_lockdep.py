"""Orders of locks that could deadlock are told, also when no schedule that was run did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.errors import LockdepError
from concmem.explore import ControlledRuntime, Program
from concmem.runtime.api import nested

from .mm_programs import PROGRAMS


def one_after_the_other(rt: ControlledRuntime, *sections: Callable[[], None]) -> Program:
    """Bodies that never meet: each waits for the end of the one before."""

    def main() -> None:
        for section in sections:
            rt.submit(1, section).result()

    return Program([main, None])


def violation(program: Any, **options: Any) -> str:
    """What lockdep says of a program that otherwise passes under every schedule."""
    outcome = explore.check(program, "dfs", **options)
    assert outcome.failure is not None
    assert outcome.failure.kind == "lockdep"
    assert not outcome.exhausted
    replayed = explore.replay(program, outcome.failure.schedule)
    assert replayed.failure is not None
    assert replayed.failure.identity == outcome.failure.identity
    return str(outcome.failure.error)


def test_two_orders_at_different_times() -> None:
    """a then b, and later b then a; a trylock orders nothing."""

    def program(rt: ControlledRuntime, careful: bool = False) -> Program:
        a, b = rt.spinlock("a"), rt.spinlock("b")

        def first() -> None:
            with a, b:
                pass

        def second() -> None:
            with b:
                if careful:
                    if a.trylock():
                        a.release()
                else:
                    with a:
                        pass

        return one_after_the_other(rt, first, second)

    assert "circular locking dependency" in violation(program)
    assert explore.check(lambda rt: program(rt, careful=True), "dfs").exhausted
    assert explore.check(program, "dfs", detectors={"races"}).exhausted


def test_a_circle_of_three() -> None:
    """a > b, b > c, c > a."""

    def program(rt: ControlledRuntime) -> Program:
        locks = [rt.mutex(name) for name in "abc"]

        def pair(i: int) -> Callable[[], None]:
            def run() -> None:
                with locks[i], locks[(i + 1) % 3]:
                    pass

            return run

        return one_after_the_other(rt, pair(0), pair(1), pair(2))

    assert "c -> a" in violation(program)


def test_a_real_deadlock_is_told_as_one() -> None:
    """Lockdep does not hide what a schedule shows."""

    def program(rt: ControlledRuntime) -> Program:
        a, b = rt.spinlock("a"), rt.spinlock("b")

        def body(first: Any, second: Any) -> Callable[[], None]:
            def run() -> None:
                with first, second:
                    pass

            return run

        return Program([body(a, b), body(b, a)])

    outcome = explore.check(program, "dfs")
    assert outcome.failure is not None
    assert outcome.failure.kind == "deadlock"


def test_recursive_locking() -> None:
    """Two locks of one class, one inside the other."""

    def program(rt: ControlledRuntime) -> Program:
        first, second = rt.spinlock("same"), rt.spinlock("same")

        def body() -> None:
            with first, second:
                pass

        return Program([body])

    assert "recursive locking" in violation(program)


def test_inconsistent_state() -> None:
    """Taken in an interrupt, and elsewhere held with interrupts enabled; irqsave makes it good."""

    def program(rt: ControlledRuntime, irqsave: bool = False) -> Program:
        lock = rt.spinlock("lock", irqsave=irqsave)

        def section() -> None:
            with lock:
                pass

        def main() -> None:
            rt.call_on(1, section)
            section()

        return Program([main, None])

    assert "inconsistent lock state" in violation(program)
    assert explore.check(lambda rt: program(rt, irqsave=True), "dfs").exhausted


def test_inversion_by_way_of_another_lock() -> None:
    """An irq-safe lock with one inside that is held with interrupts enabled elsewhere."""

    def program(rt: ControlledRuntime, careful: bool = False) -> Program:
        safe, other = rt.spinlock("safe", irqsave=True), rt.spinlock("other", irqsave=careful)

        def handler() -> None:
            with safe:
                pass

        def main() -> None:
            rt.call_on(1, handler)
            with other:
                pass
            with safe, other:
                pass

        return Program([main, None])

    text = violation(program)
    assert text.startswith("HARDIRQ-safe -> HARDIRQ-unsafe lock order detected: safe -> other\n")
    assert explore.check(lambda rt: program(rt, careful=True), "dfs").exhausted


@pytest.mark.parametrize("how", ["release", "restore"])
def test_interrupts_enabled_while_a_lock_is_held(how: str) -> None:
    """By the wrong one of two irqsave locks that is given up first, or by hand."""

    def program(rt: ControlledRuntime, careful: bool = False) -> Program:
        a, b = rt.spinlock("a", irqsave=True), rt.spinlock("b", irqsave=True)

        def handler() -> None:
            with b:
                pass

        def crossing() -> None:
            a.acquire()
            b.acquire()
            first, second = (b, a) if careful else (a, b)
            first.release()
            second.release()

        def by_hand() -> None:
            with b:
                if not careful:
                    rt.local_irq_restore(True)

        def main() -> None:
            rt.call_on(1, handler)
            crossing() if how == "release" else by_hand()

        return Program([main, None])

    assert violation(program).startswith("inconsistent lock state: b\n")
    assert explore.check(lambda rt: program(rt, careful=True), "dfs").exhausted


def test_readers_come_again() -> None:
    """A reader that reads again is stuck if a writer comes between, which here none does."""

    def program(rt: ControlledRuntime, careful: bool = False) -> Program:
        sem, other = rt.rwsem("sem"), rt.rwsem("other")

        def body() -> None:
            with sem.read(), (other if careful else sem).read():
                pass
            with sem.write():
                sem.downgrade()

        return Program([body])

    assert "possible recursive locking detected: sem" in violation(program)
    assert explore.check(lambda rt: program(rt, careful=True), "dfs").exhausted


def test_levels_of_one_class() -> None:
    """Two locks of a class by a nesting level, always inside; a try that fails leaves none behind."""

    def program(rt: ControlledRuntime, careful: bool = True) -> Program:
        first, second = rt.spinlock("node"), rt.spinlock("node", irqsave=True)

        def body() -> None:
            with first, nested(second):
                assert not nested(second).trylock()
            with second, nested(first):
                pass
            if not careful:
                with nested(first), second:
                    pass

        return Program([body])

    assert explore.check(program, "dfs").exhausted
    text = violation(lambda rt: program(rt, careful=False))
    assert text.startswith(
        "possible circular locking dependency detected: node/1 -> node -> node/1\n"
    )


def test_the_report_is_the_same_at_each_replay() -> None:
    """It names places in the program, and numbers of locks instead of addresses."""

    def program(rt: ControlledRuntime) -> Program:
        first, second = rt.mutex("same"), rt.mutex("same")

        def body() -> None:
            with first, second:
                pass

        return Program([body])

    texts = {violation(program) for _ in range(3)}
    [text] = texts
    assert isinstance(explore.check(program, "dfs").failure.error, LockdepError)  # type: ignore[union-attr]
    assert "0000000000000001 (same){+...}-{4:4}, at: " in text
    assert "concmem/explore" not in text
    assert f"body ({__file__}:" in text


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_model_keeps_its_order(name: str) -> None:
    """No part of the memory management code, in a few executions each."""
    outcome = explore.check(PROGRAMS[name], "random", executions=8, cpus=2)
    assert outcome.failure is None, str(outcome.failure)


def test_orders_of_different_executions_are_no_failure() -> None:
    """Each schedule takes the two locks in one order only; who comes first decides which."""

    def program(rt: ControlledRuntime, again: bool = False) -> Program:
        a, b = rt.spinlock("a"), rt.spinlock("b")
        first, done = rt.cell(-1, "first"), rt.cell(False, "done")

        def take(outer: Any, inner: Any) -> None:
            with outer, inner:
                pass

        def body(cpu: int) -> None:
            if first.value < 0:
                first.value = cpu
            if cpu == 0:
                take(a, b) if first.value == 0 else take(b, a)
                done.value = True
            elif again and first.value == 1:
                while (
                    not done.value
                ):  # so that there is no deadlock, only an order that could be one
                    rt.cpu_relax()
                take(a, b)

        return Program([lambda: body(0), lambda: body(1)])

    outcome = explore.check(program, "dfs")
    assert outcome.failure is None
    assert outcome.exhausted
    outcome = explore.check(lambda rt: program(rt, again=True), "dfs")
    assert outcome.failure is not None
    assert outcome.failure.kind == "lockdep"
    again = explore.replay(lambda rt: program(rt, again=True), outcome.failure.schedule)
    assert again.failure is not None
    assert again.failure.identity == outcome.failure.identity
