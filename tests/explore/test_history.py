"""Linearizability: the search agrees with trying all orders, and explains what it finds."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, History, Program, check_linearizable, linearizable
from concmem.explore.history import PENDING, Call


class Register:
    """A register, one operation after the other."""

    def __init__(self) -> None:
        self.value = 0

    def read(self) -> int:
        return self.value

    def write(self, value: int) -> None:
        self.value = value

    def cas(self, old: int, new: int) -> bool:
        if self.value != old:
            return False
        self.value = new
        return True


class Stack:
    """A stack; popping nothing raises."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def push(self, item: int) -> None:
        self.items.append(item)

    def pop(self) -> int:
        return self.items.pop()


def brute_force(calls: list[Call]) -> bool:
    """All orders, of all subsets of the pending operations."""
    sure = [call for call in calls if call.result is not PENDING]
    pending = [call for call in calls if call.result is PENDING]
    for mask in range(1 << len(pending)):
        chosen = sure + [call for i, call in enumerate(pending) if mask >> i & 1]
        for order in permutations(chosen):
            if all(a.called < b.returned for i, a in enumerate(order) for b in order[i + 1 :]):
                model = Register()
                if all(
                    getattr(model, call.name)(*call.args) == call.result or call.result is PENDING
                    for call in order
                ):
                    return True
    return False


def random_history(rng: Random) -> list[Call]:
    """Up to 5 overlapping operations with results that may or may not fit."""
    n = rng.randint(1, 5)
    times = rng.sample(range(100), 2 * n)
    calls = []
    for i in range(n):
        begin, end = sorted(times[2 * i : 2 * i + 2])
        name = rng.choice(["read", "write", "cas"])
        args: dict[str, tuple[int, ...]] = {
            "read": (),
            "write": (rng.randint(0, 2),),
            "cas": (rng.randint(0, 2), rng.randint(0, 2)),
        }
        result: Any = {"read": rng.randint(0, 2), "write": None, "cas": rng.random() < 0.5}[name]
        if rng.random() < 0.1:
            result, end = PENDING, 1000 + i
        calls.append(Call(i, name, args[name], result, begin, end))
    return sorted(calls, key=lambda call: call.called)


def test_agrees_with_all_orders() -> None:
    """On 3,000 random histories, of which many are linearizable and many are not."""
    rng = Random(0)
    verdicts = []
    for _ in range(3000):
        calls = random_history(rng)
        expected = brute_force(calls)
        assert bool(linearizable(calls, Register)) == expected, calls
        verdicts.append(expected)
    assert 500 < sum(verdicts) < 2500


def test_partitions_agree() -> None:
    """Operations on two registers, checked apart and together."""

    class Two:
        def __init__(self) -> None:
            self.registers = {0: Register(), 1: Register()}

        def read(self, which: int) -> int:
            return self.registers[which].value

        def write(self, which: int, value: int) -> None:
            self.registers[which].value = value

        def key(self) -> tuple[int, int]:
            return self.registers[0].value, self.registers[1].value

    rng, verdicts = Random(1), []
    for _ in range(400):
        calls = []
        for call in random_history(rng):
            if call.name != "cas":
                calls.append(call._replace(args=(rng.randrange(2), *call.args)))
        apart = bool(linearizable(calls, Two, partition=lambda call: call.args[0]))
        assert apart == bool(linearizable(calls, Two))
        verdicts.append(apart)
    assert {True, False} == set(verdicts)


def test_a_long_history() -> None:
    """500 operations on 50 registers end."""
    rng, calls, now = Random(2), [], 0
    state = dict.fromkeys(range(50), 0)
    for i in range(500):
        which = rng.randrange(50)
        state[which] = i
        calls.append(Call(0, "write", (i,), None, now, now + 1))
        calls[-1] = calls[-1]._replace(cpu=which)
        now += 2
    assert linearizable(calls, Register, partition=lambda call: call.cpu)


def stack_program(rt: ControlledRuntime, correct: bool) -> Program:
    """Two CPUs push and pop a stack whose pop reads the top, and then removes whatever is there."""
    lock = rt.spinlock("lock")
    top = rt.cell((), "top")
    history = History(rt)

    def push(item: int) -> None:
        with lock:
            top.value = (*top.value, item)

    def pop() -> int:
        with lock:
            items: Any = top.value
            if correct:
                top.value = items[:-1]
        if not correct:
            top.value = items[:-1]
        found: int = items[-1]
        return found

    def body(number: int) -> None:
        history.run("push", push, number)
        try:
            history.run("pop", pop)
        except IndexError:
            pass

    return Program([lambda: body(1), lambda: body(2)], lambda: check_linearizable(history, Stack))


def test_a_stack_under_every_schedule() -> None:
    """A pop that removes outside of its lock is found, and explained; with the lock it passes."""
    outcome = explore.check(lambda rt: stack_program(rt, False), "dpor")
    assert outcome.failure is not None
    assert outcome.failure.kind == "not-linearizable"
    assert "none of these could come next" in str(outcome.failure.error)
    assert explore.check(lambda rt: stack_program(rt, True), "dpor").exhausted


def test_wrap_records_every_call() -> None:
    """A wrapped object is what it was, and its calls are in the history, exceptions included."""
    history = History()
    stack = history.wrap(Stack())
    stack.push(3)
    assert stack.pop() == 3
    with pytest.raises(IndexError):
        stack.pop()
    names = [(call.name, call.args) for call in history.operations()]
    assert names == [("push", (3,)), ("pop", ()), ("pop", ())]
    assert isinstance(history.operations()[2].result, IndexError)
    check_linearizable(history, Stack)
