"""The accesses that explain a failure are found, by hand-made traces with one conflict each."""

from __future__ import annotations

import pytest

from concmem.explore.render.conflict import (
    CHANGED,
    HALF_DONE,
    HALFWAY,
    LOST_UPDATE,
    OVERWRITTEN,
    STALE,
    find_conflict,
)

from .handmade import trace

PATTERNS = {
    LOST_UPDATE: "cpu0 r x 0\ncpu1 w x 0 1 !\ncpu0 w x 1 1 !",
    STALE: "cpu0 r x 1\ncpu1 w x 1 0 !\ncpu0 u x 0 -1 !",
    CHANGED: "cpu0 r x 0\ncpu1 w x 0 1 !\ncpu0 r x 1 !",
    OVERWRITTEN: "cpu0 w x 0 1\ncpu1 w x 1 2 !\ncpu0 r x 2 !",
    HALFWAY: "cpu0 w x 0 1\ncpu1 r x 1 !\ncpu0 w x 1 2 !",
    HALF_DONE: "cpu0 w a 0 1\ncpu1 r a 1 !\ncpu1 r b 0\ncpu0 w b 0 1 !",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    """Each order of three accesses that no serial order allows is recognised, with its steps."""
    made = trace(PATTERNS[pattern])
    conflict = find_conflict(made)
    assert conflict is not None
    assert conflict.pattern == pattern
    assert [step.at for step in conflict.steps] == list(range(len(made)))


@pytest.mark.parametrize(
    "text",
    [
        "cpu0 r x 0\ncpu1 r x 0 !\ncpu0 r x 0 !",
        "cpu0 r x 0\ncpu1 r x 0 !\ncpu0 w x 0 1 !",
        "cpu0 w x 0 1\ncpu1 r x 1 !\ncpu0 r x 1 !",
        "cpu0 w x 0 1\ncpu1 w x 1 2 !\ncpu0 w x 2 3 !",
        "cpu0 r x 0\ncpu1 w y 0 1 !\ncpu0 w x 0 1 !",
        "cpu0 u x 0 1\ncpu1 u x 1 2 !\ncpu0 r y 0 !",
        "cpu0 r x 0\ncpu0 w x 0 1\ncpu1 r x 1\ncpu1 w x 1 2",
        "cpu0 r x 0\ncpu1 w x 0 0 !\ncpu0 w x 0 1 !",
    ],
    ids=lambda text: text.replace("\n", "; "),
)
def test_what_a_serial_order_allows_is_none(text: str) -> None:
    """Reads only, separate objects, writes over writes, one after the other: no conflict."""
    assert find_conflict(trace(text)) is None


def test_an_interrupt_counts_as_another_task() -> None:
    """Although it is on the same CPU."""
    conflict = find_conflict(trace("cpu0 r x 0\ncpu0/irq w x 0 1 !\ncpu0 w x 1 1"))
    assert conflict is not None
    assert (conflict.pattern, conflict.between.task) == (LOST_UPDATE, "cpu0/irq")


def test_the_mistake_comes_before_what_only_looks_like_one() -> None:
    """A loop that waits for a flag reads it twice with a write in between; the lost update is the news."""
    made = trace(
        "cpu0 r flag 0 @1\ncpu1 w flag 0 1 !\ncpu1 r x 0\ncpu0 r flag 1 @1 !\n"
        "cpu0 r x 0\ncpu0 w x 0 1\ncpu1 w x 1 1 !"
    )
    conflict = find_conflict(made)
    assert conflict is not None
    assert (conflict.pattern, conflict.before.object) == (LOST_UPDATE, "x")


def test_a_forced_switch_comes_before_a_free_one() -> None:
    """Where both could be it, the task that was forced out has the better reason."""
    made = trace(
        "cpu0 r a 0\ncpu1 w a 0 1\ncpu0 w a 1 1\n"  # nobody was forced out here
        "cpu0 r b 0\ncpu1 w b 0 1 !\ncpu0 w b 1 1 !"
    )
    conflict = find_conflict(made)
    assert conflict is not None
    assert conflict.before.object == "b"


def test_the_object_of_the_message_comes_first() -> None:
    """An error that names an object is about that one."""
    made = trace(
        "cpu0 r a 0\ncpu0 r b 0\ncpu1 w a 0 1 !\ncpu1 w b 0 1\ncpu0 w a 1 1 !\ncpu0 w b 1 1"
    )
    for name in ("a", "b"):
        conflict = find_conflict(made, f"the sum of {name} is wrong")
        assert conflict is not None
        assert conflict.before.object == name


def test_how_many_updates_were_lost() -> None:
    """All that came in between."""
    conflict = find_conflict(trace("cpu0 r x 0\ncpu1 w x 0 1 !\ncpu1 w x 1 2\ncpu0 w x 2 1 !"))
    assert conflict is not None
    assert (conflict.changes, conflict.between.new) == (2, "2")
