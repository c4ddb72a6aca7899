"""
Eight small programs with one concurrency bug each, and their corrected twins.

After the CS and CB groups of SCTBench (MIT licence), re-described: locks are mutexes, variables that race are
cells, everything else is plain data. The main body runs on CPU 0, counts as a task, and starts the others in the
order given; where it waits for them, that is said by the number of steps.

Each function takes a runtime and ``correct=True`` for the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from concmem.explore import ControlledRuntime, Program
from concmem.runtime.api import Lock


class BuggyProgram(Protocol):
    """What makes a program, or its corrected twin."""

    __name__: str

    def __call__(self, rt: ControlledRuntime, *, correct: bool = False) -> Program: ...


def _program(rt: ControlledRuntime, *bodies: Callable[[], object], join: bool = True) -> Program:
    """A main body that starts *bodies* on CPUs 1, 2, ..., and waits for them in that order."""

    def main() -> None:
        futures = [rt.submit(cpu, body) for cpu, body in enumerate(bodies, 1)]
        if join:
            for future in futures:
                future.result()

    return Program([main, *[None] * len(bodies)])


def account(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """A check that comes after deposit and withdrawal has the sum wrong."""
    lock = rt.mutex("m")
    balance, deposited, withdrawn = 1, False, False

    def check() -> None:
        with lock:
            if deposited and withdrawn:
                assert balance == (1 + 2 if correct else 1 - 2) - 4

    def deposit() -> None:
        nonlocal balance, deposited
        with lock:
            balance += 2
            deposited = True

    def withdraw() -> None:
        nonlocal balance, withdrawn
        with lock:
            balance -= 4
            withdrawn = True

    return _program(rt, check, deposit, withdraw, join=False)


def bluetooth_driver(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """
    A request is counted after the look whether the driver stops: it may have stopped by then.

    The request's last act, to take itself off the count, is left out of the wrong one: it comes after
    whatever goes wrong.
    """
    lock = rt.mutex("m")
    pending = 1
    stopping, stopping_event, stopped = (
        rt.cell(False, name) for name in ("stoppingFlag", "stoppingEvent", "stopped")
    )

    def increment() -> None:
        nonlocal pending
        with lock:
            pending += 1

    def decrement() -> None:
        nonlocal pending
        with lock:
            pending -= 1
            is_last = pending == 0
        if is_last:
            stopping_event.value = True

    def stop() -> None:
        stopping.value = True
        decrement()
        if stopping_event.value:
            stopped.value = True

    def add() -> None:
        rt.submit(1, stop)
        if not stopping.value:
            increment()
            assert not stopped.value

    def add_counting_first() -> None:
        rt.submit(1, stop)
        increment()
        if not stopping.value:
            assert not stopped.value
        decrement()

    return Program([add_counting_first if correct else add, None])


def deadlock01(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """Two mutexes, taken in opposite orders."""
    a, b = rt.mutex("a"), rt.mutex("b")
    counter = 0

    def add(first: Lock, second: Lock, n: int) -> None:
        nonlocal counter
        with first, second:
            counter += n

    forwards = partial(add, a, b, 1)
    backwards = partial(add, a, b, -1) if correct else partial(add, b, a, -1)
    return _program(rt, forwards, backwards)


def lazy01(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """A check that does not expect both additions to come first."""
    lock = rt.mutex("m")
    data = 0

    def add(n: int) -> None:
        nonlocal data
        with lock:
            data += n

    def check() -> None:
        with lock:
            assert data < 3 or (correct and data == 3)

    return _program(rt, partial(add, 1), partial(add, 2), check)


def reorder_n(n: int) -> BuggyProgram:
    """
    *n* - 1 setters of two variables, and a checker that sees one set and the other not.

    One preemption is enough, and *n* - 1 delays are needed, whatever *n*.
    """

    def reorder(rt: ControlledRuntime, *, correct: bool = False) -> Program:
        a, b = rt.cell(0, "a"), rt.cell(0, "b")
        lock = rt.mutex("m")

        def set_both() -> None:
            a.value = 1
            b.value = -1

        def check() -> None:
            assert (a.value == 0 and b.value == 0) or (a.value == 1 and b.value == -1)

        def locked(body: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                with lock:
                    body()

            return run if correct else body

        return _program(rt, *[locked(set_both)] * (n - 1), locked(check))

    reorder.__name__ = f"reorder_{n}"
    return reorder


def twostage(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """Two values that belong together are written under a lock each; a reader comes between."""
    lock1, lock2 = rt.mutex("l1"), rt.mutex("l2")
    data1, data2 = rt.cell(0, "d1"), 0

    def write_second() -> None:
        nonlocal data2
        with lock2:
            data2 = data1.value + 1

    def write() -> None:
        with lock1:
            data1.value = 1
            if correct:
                write_second()
        if not correct:
            write_second()

    def read() -> None:
        with lock1:
            if data1.value == 0:
                return
            first = data1.value
        with lock2:
            second = data2
        assert second == first + 1

    return _program(rt, write, read)


def wronglock_3(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """One body uses a lock, three others use another one for the same variable."""
    lock, other = rt.mutex("dataLock"), rt.mutex("thisLock")
    value = rt.cell(0, "v")

    def check() -> None:
        with lock:
            x = value.value
            value.value += 1
            assert value.value == x + 1

    def increment() -> None:
        with lock if correct else other:
            value.value += 1

    return _program(rt, check, increment, increment, increment)


class _StringBuffer:
    """A text with a lock, each method of which is atomic by itself."""

    def __init__(self, rt: ControlledRuntime, text: str, name: str) -> None:
        self.lock = rt.mutex(name)
        self.text = text

    def append(self, text: str) -> None:
        with self.lock:
            self.text += text

    def append_buffer(self, other: _StringBuffer, correct: bool) -> None:
        """Append what *other* has: its length first, then so many characters."""
        with self.lock:
            if correct:
                with other.lock:
                    self.text += other._characters(len(other.text))
                return
            with other.lock:
                length = len(other.text)
            with other.lock:
                self.text += other._characters(length)

    def _characters(self, length: int) -> str:
        """Caller holds the lock."""
        assert length <= len(self.text)
        return self.text[:length]

    def erase(self, length: int) -> None:
        with self.lock:
            self.text = self.text[length:]


def stringbuffer(rt: ControlledRuntime, *, correct: bool = False) -> Program:
    """The length of a buffer is not its length any more when its characters are copied."""
    buffer, target = _StringBuffer(rt, "abc", "B"), _StringBuffer(rt, "", "sb")

    def change() -> None:
        buffer.erase(3)
        buffer.append("abc")

    def main() -> None:
        rt.submit(1, change)
        target.append_buffer(buffer, correct)

    return Program([main, None])
