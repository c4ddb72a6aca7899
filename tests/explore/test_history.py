"""Recording: in the right order, on real CPUs, whatever the calls do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from concmem.errors import BadArgument, NotLinearizable
from concmem.explore import models
from concmem.explore.history import (
    PENDING,
    Call,
    History,
    Raised,
    check_linearizable,
    linearizable,
)
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime

pytestmark = pytest.mark.timeout(60)


class OneCpu:
    """All that a history needs."""

    cpu = 0

    def smp_processor_id(self) -> int:
        return self.cpu


@pytest.fixture
def rt() -> Iterator[JitterRuntime]:
    runtime = JitterRuntime(3, seed=1)
    yield runtime
    runtime.shutdown()


def test_calls_and_returns() -> None:
    """Each call with its arguments, its CPU, and where in the history it began and ended."""
    rt = OneCpu()
    h = History(rt)
    first = h.call("push", 1)
    rt.cpu = 1
    second = h.call("push", 2, front=True)
    h.returns(second, "ok")
    h.returns(first)
    third = h.call("pop")
    assert h.calls() == [
        Call(0, "push", (1,), None, 0, 3),
        Call(1, "push", (2,), "ok", 1, 2, kwargs=(("front", True),)),
        Call(1, "pop", (), PENDING, 4, None),
    ]
    with pytest.raises(BadArgument, match=r"^token: push has returned 'ok' already"):
        h.returns(second, "again")
    h.returns(third, PENDING)
    assert str(h) == (
        "  cpu0     cpu1\n"
        "  push(1)\n"
        "  |        push(2, front=True) -> 'ok'\n"
        "  -> None\n"
        "           pop() -> ?"
    )


def test_run() -> None:
    """The result is passed on, and so is what is raised."""
    h = History(OneCpu())
    assert h.run("divide", lambda a, b: a // b, 7, b=2) == 3
    with pytest.raises(ZeroDivisionError):
        h.run("divide", lambda a, b: a // b, 7, 0)
    results = [call.result for call in h.calls()]
    assert results == [3, Raised(ZeroDivisionError)]
    assert results[1] != Raised(ValueError)
    assert repr(results[1]) == "ZeroDivisionError"


def test_an_end_from_outside_leaves_the_call_pending() -> None:
    """What is no Exception says nothing of what the call has done."""
    h = History(OneCpu())

    def aborted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        h.run("push", aborted)
    assert [call.end for call in h.calls()] == [None]


def test_a_decorated_function() -> None:
    """It is recorded under its name, which it keeps."""
    h = History(OneCpu())

    @h.record
    def push(value: int) -> int:
        """Documented."""
        return value + 1

    assert push(1) == 2
    assert push.__doc__ == "Documented."
    assert h.calls() == [Call(0, "push", (1,), 2, 0, 1)]


def test_a_wrapped_object() -> None:
    """Public methods are recorded, attributes and the rest are passed on."""
    h = History(OneCpu())
    stack = h.wrap(models.Stack(5))
    stack.push(6)
    assert stack.values == (5, 6)
    assert stack.pop() == 6
    assert [str(call) for call in h.calls()] == ["push(6) -> None", "pop() -> 6"]
    assert linearizable(h, lambda: models.Stack(5))
    with pytest.raises(AttributeError):
        stack.shove()  # type: ignore[attr-defined]


def test_several_objects_are_judged_alone() -> None:
    """Two objects with names, one history: each has a state of its own."""
    h = History(OneCpu())
    one, two = h.wrap(models.Stack(), "one"), h.wrap(models.Stack(), "two")
    one.push(1)
    two.push(2)
    assert one.pop() == 1
    assert [call.invocation() for call in h.calls()] == ["one.push(1)", "two.push(2)", "one.pop()"]
    result = linearizable(h, models.Stack)
    assert result
    assert result.order == h.calls()
    broken = [call._replace(obj=None) for call in h.calls()]
    assert not linearizable(broken, models.Stack)


def test_threads_that_are_no_cpu() -> None:
    """What the test itself does before and after counts too."""
    rt = FreeRuntime(1)
    try:
        h = History(rt)
        stack = h.wrap(models.Stack())
        stack.push(1)
        rt.run([stack.pop])
        assert [call.cpu for call in h.calls()] == [-1, 0]
    finally:
        rt.shutdown()


class BrokenStack:
    """Two words that belong together, changed without a lock."""

    def __init__(self, rt: JitterRuntime) -> None:
        self.values = rt.cell((), "values")

    def push(self, value: int) -> None:
        self.values.value = (*self.values.value, value)

    def pop(self) -> Any:
        values = self.values.value
        if not values:
            return None
        self.values.value = values[:-1]
        return values[-1]


class LockedStack(BrokenStack):
    """The same with one."""

    def __init__(self, rt: JitterRuntime) -> None:
        super().__init__(rt)
        self.lock = rt.spinlock("stack")

    def push(self, value: int) -> None:
        with self.lock:
            super().push(value)

    def pop(self) -> Any:
        with self.lock:
            return super().pop()


def run_stack(rt: JitterRuntime, cls: type[BrokenStack]) -> History:
    """Each CPU pushes and pops, a few times."""
    h = History(rt)
    stack = h.wrap(cls(rt))

    def body() -> None:
        for turn in range(4):
            stack.push(10 * rt.smp_processor_id() + turn)
            stack.pop()

    rt.run([body] * rt.nr_cpus)
    return h


def test_a_stack_with_a_lock(rt: JitterRuntime) -> None:
    """Real CPUs, real calls that overlap: always in order."""
    for _ in range(30):
        h = run_stack(rt, LockedStack)
        check_linearizable(h, models.Stack)
        assert len(h.calls()) == 24
        assert all(call.end is not None and call.start < call.end for call in h.calls())
        for cpu in range(3):
            mine = [call for call in h.calls() if call.cpu == cpu]
            assert [call.op for call in mine] == ["push", "pop"] * 4
            assert all(a.end < b.start for a, b in pairwise(mine))  # type: ignore[operator]


def test_a_stack_without(rt: JitterRuntime) -> None:
    """
    A push or a pop gets lost, and the explanation has a column for each CPU.

    Each run of 24 calls hesitates about once at a wrong moment: within 400 runs one is found.
    """
    for _ in range(400):
        h = run_stack(rt, BrokenStack)
        if not linearizable(h, models.Stack):
            break
    with pytest.raises(NotLinearizable, match="no order of these calls is one of Stack") as caught:
        check_linearizable(h, models.Stack)
    header = str(caught.value).split("\n")[2]
    assert header.split() == ["cpu0", "cpu1", "cpu2"]
