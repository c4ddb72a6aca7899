"""What Hypothesis leaves of a failing state machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test

from concmem import explore
from concmem.testing import ConcurrentStateMachine, operation

SEARCH = settings(database=None, deadline=None, stateful_step_count=6, max_examples=200)


class Careless(ConcurrentStateMachine):
    """A counter that several CPUs add to, without a lock."""

    points = 5

    def setup(self, rt: explore.ControlledRuntime) -> None:
        self.total = rt.cell(0, "total")
        self.expected = 0

    @operation(n=st.integers(1, 3))
    def add(self, n: int) -> None:
        self.total.value = self.total.value + n
        self.expected += n

    @operation()
    def read(self) -> Any:
        return self.total.value

    @invariant()
    def it_adds_up(self) -> None:
        assert self.total.value == self.expected


OPERATIONS = 4
PREEMPTIONS = 3


def test_a_lost_update_shrinks() -> None:
    """
    To two operations and one preemption, or near that: some minima need two changes at once to get smaller.

    Of 50 seeds, 47 ended within the bounds here, half of them in the smallest program. What is drawn depends on
    other tests of the process, too, since Hypothesis collects constants, so three of five are asked for: fewer
    come about once in 500 times.
    """
    small = 0
    for number in range(5):
        machine = seed(number)(type("Careless", (Careless,), {}))
        with pytest.raises(AssertionError) as caught:
            run_state_machine_as_test(machine, settings=SEARCH)
        text = "\n".join(caught.value.__notes__)
        assert "is lost" in text
        small += (
            text.count("state.add(") + text.count("state.read(") <= OPERATIONS
            and text.count("Preemption(") <= PREEMPTIONS
        )
    assert small >= 3
