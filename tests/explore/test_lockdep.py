"""Orders of locks that could deadlock are told, also when no schedule that was run did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.runtime.lockdep import Lockdep

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

    dep = Lockdep()
    dep.acquired("safe", [], in_interrupt=True, irqs_enabled=False, where="handler")
    dep.acquired("unsafe", [], in_interrupt=False, irqs_enabled=True, where="body")
    assert dep.violation is None
    dep.acquired("unsafe", ["safe"], in_interrupt=False, irqs_enabled=False, where="both")
    assert dep.violation is not None
    assert dep.violation.kind == "possible irq lock inversion dependency detected"
    assert dep.order == {"safe": {"unsafe": "both"}}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_model_keeps_its_order(name: str) -> None:
    """No part of the memory management code, in a few executions each."""
    outcome = explore.check(PROGRAMS[name], "random", executions=8, cpus=2)
    assert outcome.failure is None, str(outcome.failure)
