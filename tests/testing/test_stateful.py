"""Concurrent state machines: found, shrunk, shown, kept; and silent where nothing is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.stateful import Bundle, consumes, invariant, precondition, run_state_machine_as_test

from concmem import explore
from concmem.errors import BadArgument
from concmem.testing import ConcurrentStateMachine, Preemption, operation

QUIET = settings(
    database=None, derandomize=True, deadline=None, stateful_step_count=6, max_examples=200
)


class Counter(ConcurrentStateMachine):
    """A counter that several CPUs add to; correct."""

    points = 5

    def setup(self, rt: explore.ControlledRuntime) -> None:
        self.lock = rt.spinlock("lock")
        self.total = rt.cell(0, "total")
        self.expected = 0

    @operation(n=st.integers(1, 3))
    def add(self, n: int) -> None:
        with self.lock:
            self.total.value = self.total.value + n
        self.expected += n

    @operation()
    def read(self) -> int:
        return self.total.value

    @invariant()
    def it_adds_up(self) -> None:
        assert self.total.value == self.expected


class Careless(Counter):
    """The same without the lock."""

    @operation(n=st.integers(1, 3))
    def add(self, n: int) -> None:
        self.total.value = self.total.value + n
        self.expected += n


def failing_program(machine: type[ConcurrentStateMachine], options: settings = QUIET) -> str:
    """What Hypothesis prints of the minimal example."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=options)
    return "\n".join(caught.value.__notes__)


def test_a_correct_machine_passes() -> None:
    """Nothing is reported under any of the drawn preemptions."""
    run_state_machine_as_test(Counter, settings=settings(QUIET, max_examples=60))


def test_a_lost_update_is_shown() -> None:
    """As a program, as a table, and as a line that replays it. How small: tests/quality."""
    text = failing_program(Careless)
    assert text.count("state.add(") >= 2
    assert text.count("Preemption(") >= 1
    assert "cpu0 is preempted" in text
    assert "the update of cpu1 is lost" in text
    assert 'explore.replay(program, "v1:' in text


def test_the_printed_example_is_a_program() -> None:
    """It can be kept as a test: it fails by itself, and its program replays and can be checked."""
    state: Any = Careless()
    state.add(cpu=0, n=1, preempt=[Preemption(after=1, operations=1, to=0)])
    state.add(cpu=1, n=1, preempt=[])
    with pytest.raises(AssertionError) as caught:
        state.teardown()
    assert "the update of cpu1 is lost" in caught.value.__notes__[-1]
    failure = explore.check(state.program, "dfs").failure
    assert failure is not None
    assert explore.replay(state.program, failure.schedule).failure is not None
    kept: Any = Counter()
    kept.add(cpu=0, n=1, preempt=[Preemption(1)])
    kept.add(cpu=1, n=1)
    kept.teardown()
    assert explore.check(kept.program, "dpor").exhausted


def test_the_database_keeps_program_and_preemptions() -> None:
    """The next run fails with the first example it tries, and that is the minimal one."""
    database = InMemoryExampleDatabase()
    options = settings(QUIET, database=database, derandomize=False, max_examples=500)
    first = failing_program(Careless, options)
    again = failing_program(Careless, settings(options, phases=[Phase.reuse]))

    def steps(text: str) -> list[str]:
        return [line for line in text.splitlines() if "state." in line]

    assert steps(first) == steps(again)


def test_profiles_and_settings() -> None:
    """Settings of the TestCase are those of any state machine."""
    count = 0

    class Counted(Counter):
        def setup(self, rt: explore.ControlledRuntime) -> None:
            nonlocal count
            count += 1
            super().setup(rt)

    Counted.TestCase.settings = settings(QUIET, max_examples=7, verbosity=Verbosity.quiet)
    Counted.TestCase("runTest").debug()
    assert 1 <= count <= 7


class Mailbox(ConcurrentStateMachine):
    """Objects go from one CPU to another."""

    objects = Bundle("objects")

    def setup(self, rt: explore.ControlledRuntime) -> None:
        self.live: set[int] = set()
        self.made = 0

    @operation(target=objects)
    def make(self) -> int:
        self.made += 1
        self.live.add(self.made)
        return self.made

    @operation(number=consumes(objects))
    def drop(self, number: int) -> None:
        self.live.remove(number)

    @operation(numbers=st.lists(objects, max_size=3))
    def look(self, numbers: list[int]) -> None:
        assert all(isinstance(number, int) for number in numbers)


def test_results_are_waited_for() -> None:
    """An operation gets the real results of others, wherever these run."""
    run_state_machine_as_test(Mailbox, settings=settings(QUIET, max_examples=60))
    state: Any = Mailbox()
    number = state.make(cpu=1)
    state.drop(cpu=0, number=number)  # cpu0 comes first, and has to wait
    state.teardown()
    assert (state.made, state.live) == (1, set())


def test_deadlocks_are_failures() -> None:
    """What the explorer finds by itself is a failure, too."""

    class Transfers(ConcurrentStateMachine):
        points = 4

        def setup(self, rt: explore.ControlledRuntime) -> None:
            self.locks = [rt.spinlock("a"), rt.spinlock("b")]

        @operation(first=st.integers(0, 1))
        def transfer(self, first: int) -> None:
            with self.locks[first], self.locks[1 - first]:
                pass

    limits = {"detectors": frozenset({"races"})}  # lockdep would need no deadlock
    Transfers.limits = limits
    from concmem.errors import Deadlock

    with pytest.raises(Deadlock) as caught:
        run_state_machine_as_test(Transfers, settings=QUIET)
    assert "\n".join(caught.value.__notes__).count("state.transfer(") >= 2


def test_preconditions_of_invariants() -> None:
    """An invariant with a precondition is looked at when that holds, at the end."""
    looked: list[int] = []

    class Looked(Counter):
        @precondition(lambda self: self.expected > 1)
        @invariant()
        def look(self) -> None:
            looked.append(self.expected)

    state: Any = Looked()
    state.add(cpu=0, n=1)
    state.teardown()
    assert looked == []
    state.add(cpu=1, n=1)
    state.teardown()
    assert looked == [2]


def test_what_cannot_be() -> None:
    """CPUs that are not there, and arguments that are drawn anyway."""
    state: Any = Counter()
    with pytest.raises(BadArgument, match="there is no CPU 2"):
        state.add(cpu=2, n=1)
    with pytest.raises(BadArgument, match="cpu are drawn anyway"):
        operation(cpu=st.just(1))


def test_a_machine_without_points() -> None:
    """What its preemptions are drawn from is checked, as where they are drawn by hand."""

    class Pointless(Counter):
        points = 0

    with pytest.raises(BadArgument, match="points"):
        run_state_machine_as_test(Pointless, settings=QUIET)
