"""The search for an order: against brute force, in parts, with pending calls; and what it explains."""

from __future__ import annotations

from collections import Counter, deque
from itertools import combinations, permutations
from random import Random
from typing import Any

import pytest

from concmem.errors import BadArgument, BadArgumentType, NotLinearizable
from concmem.explore import models
from concmem.explore.calls import PENDING, Call, Raised
from concmem.explore.history import check_linearizable, linearizable

pytestmark = pytest.mark.timeout(60)


class Oracle:
    """Semantics of all objects, written down a second time, without the models."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.items: list[Any] = []
        self.number = 0

    def do(self, op: str, *args: Any) -> Any:
        if op in ("push", "put"):
            return self.items.append(args[0])
        if op in ("pop", "get"):
            return self.items.pop(-1 if op == "pop" else 0) if self.items else None
        if op == "contains":
            return args[0] in self.items
        if self.kind == "set":
            there = args[0] in self.items
            if op == "add" and not there:
                self.items.append(args[0])
            if op == "remove" and there:
                self.items.remove(args[0])
            return there if op == "remove" else not there
        before = self.number
        if op == "cas":
            self.number = args[1] if before == args[0] else before
            return before == args[0]
        if op == "add_return":
            self.number += args[0]
            return self.number
        if op == "write":
            self.number = args[0]
            return None
        return before


KINDS: dict[str, tuple[Any, list[tuple[Any, ...]]]] = {
    "stack": (models.Stack, [("push", 1), ("push", 2), ("pop",), ("pop",)]),
    "queue": (models.Queue, [("put", 1), ("put", 2), ("get",), ("get",)]),
    "register": (
        lambda: models.Register(0),
        [("write", 1), ("write", 2), ("read",), ("cas", 1, 2)],
    ),
    "counter": (models.Counter, [("add_return", 1), ("add_return", 2), ("read",)]),
    "set": (models.Set, [("add", 1), ("remove", 1), ("add", 2), ("contains", 1), ("contains", 2)]),
}


def random_history(rng: Random, kind: str, nr_calls: int, cpus: int = 3) -> list[Call]:
    """
    Calls on a correct object, each of which happens at some moment while it runs.

    Then some results are changed, so that about half of the histories are not linearizable.
    """
    ops = KINDS[kind][1]
    oracle = Oracle(kind)
    running: dict[int, list[Any]] = {}  # op, start, happened, result
    calls: list[Call] = []
    time = started = 0
    while started < nr_calls or running:
        cpu = rng.randrange(cpus)
        if cpu not in running:
            if started < nr_calls:
                running[cpu] = [rng.choice(ops), time, False, None]
                started += 1
                time += 1
        elif not running[cpu][2]:
            running[cpu][2:] = True, oracle.do(*running[cpu][0])
        else:
            op, start, _, result = running.pop(cpu)
            calls.append(Call(cpu, op[0], op[1:], result, start, time))
            time += 1
        if started == nr_calls and running and rng.random() < 0.05:
            break
    calls += [Call(cpu, op[0], op[1:], PENDING, start, None)
              for cpu, (op, start, _, _) in running.items()]  # fmt: skip
    for _ in range(rng.randrange(3)):
        index = rng.randrange(len(calls))
        if calls[index].result is not PENDING:
            other = rng.choice([call.result for call in calls if call.result is not PENDING])
            calls[index] = calls[index]._replace(result=other)
    return sorted(calls, key=lambda call: call.start)


def is_order(order: tuple[Call, ...], kind: str) -> bool:
    """Whether it is one by definition: in real time, and of a sequential object."""
    for early, late in combinations(order, 2):
        if late.end is not None and late.end < early.start:
            return False
    oracle = Oracle(kind)
    for call in order:
        result = oracle.do(call.op, *call.args)
        if call.result is not PENDING and result != call.result:
            return False
    return True


def brute_force(calls: list[Call], kind: str) -> bool:
    """All orders of all calls that have returned and of any others."""
    returned = [call for call in calls if call.end is not None]
    pending = [call for call in calls if call.end is None]
    return any(
        is_order(order, kind)
        for nr in range(len(pending) + 1)
        for some in combinations(pending, nr)
        for order in permutations([*returned, *some])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_brute_force(kind: str) -> None:
    """On 600 histories of up to 6 calls of each kind; orders given are orders."""
    rng = Random(kind)
    verdicts: Counter[tuple[bool, bool]] = Counter()
    for _ in range(600):
        calls = random_history(rng, kind, rng.randint(2, 6))
        has_pending = any(call.end is None for call in calls)
        result = linearizable(calls, KINDS[kind][0])
        assert bool(result) == brute_force(calls, kind), result.explain()
        verdicts[bool(result), has_pending] += 1
        if result:
            assert is_order(tuple(result.order), kind)
            assert {call for call in calls if call.end is not None} <= set(result.order)
        else:
            assert result.order == []
            assert is_order(tuple(result.longest), kind)
            assert len(result.longest) < len(calls)
    assert min(verdicts.values()) >= 5, verdicts
    assert len(verdicts) == 4
    assert sum(nr for (verdict, _), nr in verdicts.items() if not verdict) >= 60


@pytest.mark.parametrize("seed", range(40))
def test_parts_agree_with_the_whole(seed: int) -> None:
    """A set is judged value by value; the order put together from the parts is one of the whole."""
    rng = Random(seed)
    calls = random_history(rng, "set", 14)
    parts = linearizable(calls, models.Set)
    whole = linearizable(calls, models.Set, partition=lambda call: None)
    assert bool(parts) == bool(whole)
    if parts:
        assert is_order(tuple(parts.order), "set")
        assert is_order(tuple(whole.order), "set")


def test_both_verdicts_come_up_in_parts() -> None:
    """The test before this one has seen both."""
    histories = [random_history(Random(seed), "set", 14) for seed in range(40)]
    assert {bool(linearizable(calls, models.Set)) for calls in histories} == {True, False}


class Registers(models.Sequential):
    """One register for each key, which none of the others influence."""

    def __init__(self) -> None:
        self.values: tuple[tuple[str, int], ...] = ()

    def write(self, key: str, value: int) -> None:
        self.values = tuple(sorted({**dict(self.values), key: value}.items()))

    def read(self, key: str) -> int | None:
        return dict(self.values).get(key)

    @staticmethod
    def partition(call: Call) -> Any:
        return call.args[0]


def long_history(stale: bool) -> list[Call]:
    """500 calls of four CPUs on 25 keys, all calls of a round at the same time."""
    rng = Random(1)
    calls: list[Call] = []
    last: dict[str, int] = {}
    for turn in range(125):
        start = turn * 8
        keys = rng.sample([f"key{n}" for n in range(25)], 4)
        for cpu, key in enumerate(keys):
            if rng.random() < 0.5:
                last[key] = turn
                calls.append(Call(cpu, "write", (key, turn), None, start + cpu, start + 4 + cpu))
            else:
                seen = last.get(key)
                calls.append(Call(cpu, "read", (key,), seen, start + cpu, start + 4 + cpu))
    if stale:
        index = max(i for i, call in enumerate(calls) if call.op == "read" and call.result)
        calls[index] = calls[index]._replace(result=-1)
    return calls


@pytest.mark.parametrize("stale", [False, True])
def test_long_histories_in_parts(stale: bool) -> None:
    """500 calls are no more than 25 short histories."""
    calls = long_history(stale)
    result = linearizable(calls, Registers)
    assert bool(result) != stale
    assert len(result.order) == (0 if stale else 500)
    if stale:
        assert {call.args[0] for call in result.longest} == {
            next(call for call in calls if call.result == -1).args[0]
        }


def test_many_calls_at_once_are_no_trouble_if_they_commute() -> None:
    """Ten calls that all overlap: what has been tried once is not tried again."""
    calls = [Call(cpu, "add", (1,), None, cpu, 100 + cpu) for cpu in range(10)]
    calls.append(Call(12, "read", (), 11, 50, 200))  # there are only ten
    assert not linearizable(calls, models.Counter)
    calls[-1] = calls[-1]._replace(result=7)
    assert linearizable(calls, models.Counter)


# -- pending calls


def test_a_pending_call_may_have_happened() -> None:
    """Somebody has popped what was being pushed."""
    push = Call(0, "push", (1,), PENDING, 0, None)
    pop = Call(1, "pop", (), 1, 1, 2)
    assert linearizable([push, pop], models.Stack).order == [push, pop]


def test_a_pending_call_need_not_have_happened() -> None:
    """It is left out where it does not fit."""
    push = Call(0, "push", (1,), PENDING, 0, None)
    pop = Call(1, "pop", (), None, 1, 2)
    assert linearizable([push, pop], models.Stack).order == [pop]


def test_a_pending_call_has_not_happened_before_it_began() -> None:
    """What was popped before anybody pushed."""
    pop = Call(1, "pop", (), 1, 0, 1)
    push = Call(0, "push", (1,), PENDING, 2, None)
    assert not linearizable([pop, push], models.Stack)


def test_a_pending_call_may_have_any_result() -> None:
    """A pop that never returned has taken the value that is missing."""
    calls = [
        Call(0, "push", (1,), None, 0, 1),
        Call(0, "pop", (), PENDING, 2, None),
        Call(1, "pop", (), None, 3, 4),
    ]
    assert linearizable(calls, models.Stack)


def test_nothing_at_all() -> None:
    """No calls, or only such as never returned, are in order."""
    assert linearizable([], models.Stack)
    assert linearizable([Call(0, "pop", (), PENDING, 0, None)], models.Stack).order == []


# -- explanations


def lost_push() -> list[Call]:
    """Two pushes at once, of which one has overwritten the other."""
    return [
        Call(0, "push", (1,), None, 0, 2),
        Call(1, "push", (2,), None, 1, 3),
        Call(1, "pop", (), 2, 4, 5),
        Call(0, "pop", (), None, 6, 7),
    ]


def test_a_lost_push_is_explained() -> None:
    """In columns, with the order as far as there is one, and what would have been right then."""
    with pytest.raises(NotLinearizable) as caught:
        check_linearizable(lost_push(), models.Stack)
    assert str(caught.value) == (
        """\
not linearizable: no order of these calls is one of Stack

  cpu0           cpu1
  push(1) #1
  |              push(2) #2
  -> None        |
                 -> None
                 pop() -> 2 #3
  pop() -> None

the longest beginning of an order:
  #1 cpu0: push(1) -> None
  #2 cpu1: push(2) -> None
  #3 cpu1: pop() -> 2

what could come next, and cannot:
  cpu0: pop() -> None: it would be 1"""
    )


def test_an_order_is_told() -> None:
    """The explanation of what is right."""
    result = linearizable(lost_push()[:3], models.Stack)
    assert result.explain() == ("linearizable:\n  push(1) -> None\n  push(2) -> None\n  pop() -> 2")
    assert repr(result) == "<Linearization of 3 calls>"
    assert repr(linearizable(lost_push(), models.Stack)) == "<Linearization none: 3 calls>"
    check_linearizable(lost_push()[:3], models.Stack)


def test_nothing_fits_from_the_start() -> None:
    """The longest beginning may have no call; a pending call is shown as running."""
    calls = [
        Call(0, "pop", (), 5, 0, 1),
        Call(-1, "push", (5,), PENDING, 2, None),
    ]
    text = linearizable(calls, models.Stack).explain()
    assert "  no cpu   cpu0\n           pop() -> 5\n  push(5)\n" in text
    assert "the longest beginning of an order:\n  (none)\n" in text
    assert text.endswith("  cpu0: pop() -> 5: it would be None")


def test_a_step_that_leads_nowhere_is_told_from_a_wrong_one() -> None:
    """Both pushes could come first, and neither helps."""
    calls = [
        Call(0, "push", (1,), None, 0, 2),
        Call(1, "pop", (), 7, 1, 3),
    ]
    text = linearizable(calls, models.Stack).explain()
    assert text.endswith("  cpu1: pop() -> 7: it would be 1")
    calls.append(Call(2, "push", (2,), PENDING, 1, None)._replace(start=-1))
    text = linearizable(calls, models.Stack).explain()
    assert "cpu1: pop() -> 7: it would be" in text


def test_a_call_inside_another_of_the_same_cpu() -> None:
    """An interrupt's call has its name at its return."""
    calls = [
        Call(0, "push", (1,), None, 0, 5),
        Call(0, "push", (2,), None, 1, 4),
        Call(1, "pop", (), 9, 2, 3),
    ]
    text = linearizable(calls, models.Stack).explain()
    assert "  push -> None\n  -> None\n" in text


# -- models of one's own


class Deque:
    """A sequential object that knows nothing of models: attributes that change, and exceptions."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()

    def push(self, value: Any) -> None:
        self.items.append(value)

    def pop(self) -> Any:
        return self.items.pop()  # IndexError if there is nothing


def test_an_ordinary_class_is_a_model() -> None:
    """It is copied for each step; what it raises is a result."""
    calls = [
        Call(0, "push", (1,), None, 0, 3),
        Call(1, "pop", (), Raised(IndexError), 1, 2),
        Call(1, "pop", (), 1, 4, 5),
    ]
    assert [call.op for call in linearizable(calls, Deque).order] == ["pop", "push", "pop"]
    calls[1] = calls[1]._replace(result=Raised(KeyError("x")))
    result = linearizable(calls, Deque)
    assert "pop() -> KeyError: it would be 1" in result.explain()


def test_values_are_not_copied() -> None:
    """What callers pass in comes out as the same object, and two objects stay two."""

    class Value:
        pass

    one, two = Value(), Value()
    calls = [
        Call(0, "push", (one,), None, 0, 1),
        Call(0, "push", (two,), None, 2, 3),
        Call(1, "pop", (), two, 4, 5),
        Call(1, "pop", (), one, 6, 7),
    ]
    assert linearizable(calls, Deque)
    calls[2], calls[3] = calls[2]._replace(result=one), calls[3]._replace(result=two)
    assert not linearizable(calls, Deque)


class Node:
    def __init__(self, value: Any, below: Node | None) -> None:
        self.value = value
        self.below = below


class Linked:
    """A model with a structure inside, whose nodes know no equality."""

    def __init__(self) -> None:
        self.top: Node | None = None

    def push(self, value: Any) -> None:
        self.top = Node(value, self.top)

    def pop(self) -> Any:
        if self.top is None:
            return None
        value, self.top = self.top.value, self.top.below
        return value


@pytest.mark.parametrize("model", [Deque, Linked, models.Stack])
def test_states_are_compared_by_what_they_contain(model: Any) -> None:
    """Overlapping pushes of the same value are tried once, not in all 8! orders."""
    calls = [Call(cpu, "push", (0,), None, cpu, 100 + cpu) for cpu in range(8)]
    calls.append(Call(11, "pop", (), 1, 200, 201))
    assert not linearizable(calls, model)


def test_a_state_that_leads_back_to_itself_needs_a_key() -> None:
    """The message says so."""

    class Ring:
        def __init__(self) -> None:
            self.next = self

        def turn(self) -> None:
            pass

    with pytest.raises(BadArgumentType, match=r"^model: .*Ring.*give it a key\(\)"):
        linearizable([Call(0, "turn", (), None, 0, 1)], Ring)


class Dispenser:
    """A model with steps: a number that was never given before, whichever."""

    def init(self) -> frozenset[int]:
        return frozenset()

    def step(
        self, state: frozenset[int], op: str, args: tuple[Any, ...], result: Any
    ) -> tuple[bool, frozenset[int]]:
        if result is PENDING:
            return True, state
        return result not in state, state | {result}


@pytest.mark.parametrize("model", [Dispenser, Dispenser()])
def test_a_model_with_steps(model: Any) -> None:
    """Where what came before does not determine the result; a class or an object."""
    calls = [
        Call(0, "take", (), 5, 0, 1),
        Call(1, "take", (), 9, 2, 4),
        Call(0, "take", (), PENDING, 3, None),
    ]
    assert linearizable(calls, model)
    calls[1] = calls[1]._replace(result=5)
    result = linearizable(calls, model)
    assert "take() -> 5: not allowed with frozenset({5})" in result.explain()


def test_keyword_arguments() -> None:
    """As such for a class, and last for steps."""
    seen = []

    class Steps:
        def init(self) -> int:
            return 0

        def step(self, state: int, op: str, args: Any, result: Any) -> tuple[bool, int]:
            seen.append(args)
            return True, state

    call = Call(0, "write", (), None, 0, 1, kwargs=(("value", 3),))
    assert str(call) == "write(value=3) -> None"
    assert linearizable([call], models.Register)
    assert linearizable([call], Steps)
    assert seen == [({"value": 3},)]


def test_what_is_no_model() -> None:
    """An object without steps, and an operation that the model does not have."""
    with pytest.raises(BadArgumentType, match=r"^model: "):
        linearizable([], models.Stack())
    with pytest.raises(BadArgument, match=r"^op: the model Stack has no method 'shove'"):
        linearizable([Call(0, "shove", (), None, 0, 1)], models.Stack)
