"""Directed tests: the order is kept, in every mode, and what cannot be kept is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import pytest

import concmem
from concmem import explore
from concmem.errors import BadArgument
from concmem.testing import OutOfOrder, Sequencer

MODES: dict[str, Callable[[int], concmem.Runtime]] = {
    "free": concmem.FreeRuntime,
    "jitter": concmem.JitterRuntime,
    "controlled": explore.ControlledRuntime,
}


@pytest.fixture(params=MODES)
def rt(request: pytest.FixtureRequest) -> Iterator[concmem.Runtime]:
    """A runtime of each mode, with three CPUs."""
    rt = MODES[request.param](3)
    yield rt
    rt.shutdown()


@pytest.mark.parametrize("order", list(permutations("abc")), ids="".join)
def test_the_order_is_kept(rt: concmem.Runtime, order: tuple[str, ...]) -> None:
    """Three CPUs pass their points in any order that is asked for."""
    seq = Sequencer(rt, order)
    passed: list[str] = []

    def body(name: str) -> None:
        with seq.turn(name):
            passed.append(name)

    rt.run([lambda name=name: body(name) for name in "abc"])
    assert tuple(passed) == order == seq.passed
    seq.assert_done()


def test_a_lost_update_is_forced(rt: concmem.Runtime) -> None:
    """Both read before one writes: the update is lost, every time."""
    x = rt.cell(0, "x")
    seq = Sequencer(rt, ["read", "read", "write", "write"])

    def body() -> None:
        with seq.turn("read"):
            value = x.value
        with seq.turn("write"):
            x.value = value + 1

    rt.run([body, body])
    assert x.value == 1


def test_points_inside_of_spinlocks(rt: concmem.Runtime) -> None:
    """A point waits, but does not sleep: it may be where nobody may sleep."""
    lock = rt.spinlock("lock", irqsave=True)
    seq = Sequencer(rt, ["outside", "inside"])

    def inside() -> None:
        with lock:
            seq.point("inside")

    rt.run([inside, lambda: seq.point("outside")])
    seq.assert_done()


def test_whoever_comes_more_often_passes(rt: concmem.Runtime) -> None:
    """Only the arrivals that the order names are ordered."""
    seq = Sequencer(rt, ["a", "b"])

    def body() -> None:
        for _ in range(3):
            seq.point("a")

    rt.run([body, lambda: seq.point("b")])
    seq.assert_done()


@pytest.mark.parametrize("mode", ["free", "jitter"])
def test_the_deadline_says_who_waits(mode: str) -> None:
    """Real threads that wait in vain all raise, and say for what."""
    rt = MODES[mode](3)
    try:
        seq = Sequencer(rt, ["a", "b", "c"], deadline=0.05)
        with pytest.raises(ExceptionGroup) as caught:
            rt.run([lambda: seq.point("c"), lambda: seq.point("b")])
        assert len(caught.value.exceptions) == 2
        for error in caught.value.exceptions:
            assert isinstance(error, OutOfOrder)
        text = str(caught.value.exceptions[0])
        assert "'a' is next, and nobody has come there" in text
        assert "waits for the turn of" in text
        with pytest.raises(OutOfOrder, match="nobody passed a, b, c; passed: none"):
            seq.assert_done()
    finally:
        rt.shutdown()


def test_under_control_it_is_a_deadlock() -> None:
    """Nobody can go on, and the failure says who waits for which point."""

    def program(rt: explore.ControlledRuntime) -> explore.Program:
        seq = Sequencer(rt, ["a", "b"])
        return explore.Program([lambda: seq.point("b"), None])

    failure = explore.check(program, executions=1).failure
    assert failure is not None
    assert failure.kind == "deadlock"
    assert "cpu0 waits for the turn of 'b' ('a' is next, and nobody has come there)" in str(failure)


def test_interrupts_reach_a_cpu_that_waits() -> None:
    """A CPU at a point takes interrupts, on which others may depend."""
    rt = concmem.FreeRuntime(2)
    try:
        seq = Sequencer(rt, ["after the call", "waits"])

        def caller() -> int:
            result: int = rt.call_on(0, lambda: 7)
            seq.point("after the call")
            return result

        assert rt.run([lambda: seq.point("waits"), caller]) == [None, 7]
    finally:
        rt.shutdown()


@pytest.mark.parametrize("scheduler", ["dfs", "dpor", "pct"])
def test_every_schedule_keeps_it(scheduler: str) -> None:
    """Whatever the scheduler decides, the points are passed in order; there is always somebody to go on."""

    def program(rt: explore.ControlledRuntime) -> explore.Program:
        seq = Sequencer(rt, ["write", "read"])
        x = rt.cell(0, "x")
        seen: list[int] = []

        def writer() -> None:
            with seq.turn("write"):
                x.value = 1

        def reader() -> None:
            with seq.turn("read"):
                seen.append(x.value)

        def after() -> None:
            assert seen == [1]
            seq.assert_done()

        return explore.Program([reader, writer], after)

    outcome = explore.check(program, scheduler, executions=100)
    assert outcome.failure is None, str(outcome)
    assert outcome.exhausted or scheduler == "pct"


def test_races_are_seen_all_the_same() -> None:
    """What only the sequencer orders is a data race."""

    @explore.shared
    class Box:
        def __init__(self) -> None:
            self.value = 0

    def program(rt: explore.ControlledRuntime) -> explore.Program:
        box, seq = Box(), Sequencer(rt, ["a", "b"])

        def body(name: str) -> None:
            with seq.turn(name):
                box.value += 1

        return explore.Program([lambda: body("a"), lambda: body("b")])

    failure = explore.check(program, executions=20).failure
    assert failure is not None
    assert failure.kind == "data-race"


@pytest.mark.parametrize("order", ["abc", [], [1]])
def test_bad_orders(rt: concmem.Runtime, order: list[str]) -> None:
    """An order is a list of names."""
    with pytest.raises(BadArgument, match="order"):
        Sequencer(rt, order)


def test_a_point_that_is_not_there(rt: concmem.Runtime) -> None:
    """A name that is not in the order is a mistake."""
    with pytest.raises(BadArgument, match="'d' in the order a, b"):
        Sequencer(rt, ["a", "b"]).point("d")
