"""Small programs with one mistake each, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable

from concmem.explore import ControlledRuntime, Program
from concmem.runtime.api import Lock


def counter(rt: ControlledRuntime) -> Program:
    """A lost update: one preemption between load and store."""
    x = rt.cell(0, "x")

    def body() -> None:
        value = x.value
        x.value = value + 1

    def after() -> None:
        assert x.value == 2

    return Program([body, body], after)


def abba(rt: ControlledRuntime) -> Program:
    """A deadlock: two locks in opposite orders."""
    a, b = rt.spinlock("a"), rt.spinlock("b")

    def body(first: Lock, second: Lock) -> Callable[[], None]:
        def run() -> None:
            with first, second:
                pass

        return run

    return Program([body(a, b), body(b, a)])


def sleeper_without_waker(rt: ControlledRuntime) -> Program:
    """Nobody ever wakes it."""
    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")

    def body() -> None:
        with lock:
            queue.wait()

    return Program([body])


def lost_wakeup(rt: ControlledRuntime) -> Program:
    """The condition is looked at before the lock is taken: the wake-up may come in between."""
    lock = rt.mutex("lock")
    queue = rt.waitqueue(lock, "queue")
    ready = rt.cell(False, "ready")

    def waiter() -> None:
        if not ready.value:
            with lock:
                queue.wait(condition=lambda: ready.value)

    def waker() -> None:
        ready.value = True
        with lock:
            queue.wake_up()

    return Program([waiter, waker])


def mutual_exclusion(rt: ControlledRuntime) -> Program:
    """Correct: a counter under a lock."""
    lock, x = rt.spinlock("lock"), rt.cell(0, "x")

    def body() -> None:
        with lock:
            x.value = x.value + 1

    def after() -> None:
        assert x.value == 2

    return Program([body, body], after)
