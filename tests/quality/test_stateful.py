"""What Hypothesis leaves of a failing state machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test

from concmem import explore
from concmem.testing import ConcurrentStateMachine, operation

SEARCH = settings(
    database=None, derandomize=True, deadline=None, stateful_step_count=6, max_examples=200
)


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


def test_a_lost_update_shrinks() -> None:
    """Two operations are left, one of which is preempted once."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(Careless, settings=SEARCH)
    text = "\n".join(caught.value.__notes__)
    steps = [line for line in text.splitlines() if "state.add(" in line]
    assert len(steps) == 2
    assert text.count("Preemption(") == 1
    assert "state.read(" not in text
    assert "n=1" in steps[0]
    assert "the update of cpu1 is lost" in text
