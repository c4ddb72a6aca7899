"""Recorded operations: they run in order, and others come in between exactly where they are preempted."""

from __future__ import annotations

from itertools import permutations

import pytest

from concmem import explore
from concmem.explore.runner import Limits
from concmem.testing import Preemption
from concmem.testing.recording import Marked, Operation, Recording, run_once

POINTS = 3
"""Of each operation."""


def order(*operations: tuple[int, str, list[Preemption]]) -> str:
    """In which order the points of such operations (CPU, name, preemptions) are passed."""
    seen: list[str] = []
    recording = Recording()

    def program(rt: explore.ControlledRuntime) -> explore.Program:
        x = rt.cell(0, "x")

        def function(_subject: object, name: str) -> None:
            for _ in range(POINTS):
                assert x.value == 0
                seen.append(name)

        recording.operations = [
            Operation(cpu, function, {"name": name}, marks) for cpu, name, marks in operations
        ]
        return explore.Program(recording.bodies(rt, None, 3, marked))

    marked = Marked()
    assert run_once(program, marked, 3, Limits()) is None
    return "".join(seen)


@pytest.mark.parametrize("cpus", [*list(permutations(range(3))), (0, 0, 1), (1, 0, 1)])
def test_they_run_as_recorded(cpus: tuple[int, ...]) -> None:
    """Without preemptions, one after the other, whichever CPUs do them."""
    recorded = [(cpu, name, []) for cpu, name in zip(cpus, "abc", strict=True)]
    assert order(*recorded) == "aaabbbccc"


def test_one_comes_in_between() -> None:
    """As many operations of other CPUs as the preemption says, no more."""
    for after, expected in enumerate(("bbbaaaccc", "abbbaaccc", "aabbbaccc", "aaabbbccc")):
        assert order((0, "a", [Preemption(after)]), (1, "b", []), (1, "c", [])) == expected
    two = [Preemption(1, operations=2)]
    assert order((0, "a", two), (1, "b", []), (1, "c", [])) == "abbbcccaa"


def test_who_comes_in_between() -> None:
    """`to` chooses among the others."""
    for to, expected in enumerate(("abbbaaccc", "acccaabbb", "abbbaaccc")):
        assert order((0, "a", [Preemption(1, to=to)]), (1, "b", []), (2, "c", [])) == expected


def test_both_are_preempted() -> None:
    """One that came in between may be preempted, too; who was preempted first goes on when it must."""
    assert order((0, "a", [Preemption(1)]), (1, "b", [Preemption(2)])) == "abbbaa"[:3] + "aab"


def test_nobody_is_there_to_go_on() -> None:
    """A preemption without another CPU, or behind the end of the operation, does nothing."""
    assert order((0, "a", [Preemption(1)])) == "aaa"
    assert order((0, "a", [Preemption(9)]), (1, "b", [])) == "aaabbb"
