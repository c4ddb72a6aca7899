"""Stacks of calls: each kept once, and shown as a kernel shows them."""

from __future__ import annotations

import re

from concmem.machine import Machine
from concmem.mm.debug.stack_depot import STACK_DEPTH, StackDepot, save_stack

from ..helpers import on_cpu


def inner(depot: StackDepot) -> int:
    return depot.save(0)


def outer(depot: StackDepot) -> int:
    return inner(depot)


def test_a_stack_is_kept_once() -> None:
    """The same calls from the same places have the same handle; others have another."""
    depot = StackDepot()
    handles = [outer(depot) for _ in range(3)]
    assert set(handles) == {handles[0]}
    assert handles[0] > 0
    assert inner(depot) != handles[0]


def test_what_a_handle_leads_to() -> None:
    """The innermost call first; no stack for a number that is none."""
    depot = StackDepot()
    stack = depot.fetch(outer(depot))
    assert stack is not None
    names = [code.co_name for code, _ in stack.frames]
    assert names[:3] == ["inner", "outer", "test_what_a_handle_leads_to"]
    assert len(names) <= STACK_DEPTH
    assert "outer" in stack
    assert "nobody" not in stack
    assert re.fullmatch(
        r"inner\+0x[0-9a-f]+/0x[0-9a-f]+ \(test_stack_depot\.py:14\)", stack.lines[0]
    )
    assert depot.fetch(12345) is None


def test_frames_can_be_left_out() -> None:
    """Those of whoever saves."""
    stack = save_stack(1)
    assert stack.frames[0][0].co_name != "test_frames_can_be_left_out"


def test_a_stack_ends_where_the_runtime_begins() -> None:
    """What a CPU runs is shown, not how it is run."""
    depot = StackDepot()
    with Machine(cpus=1, memory="16M") as m:
        handles = [on_cpu(m, outer, depot) for _ in range(2)]
    assert handles[0] == handles[1]
    stack = depot.fetch(handles[0])
    assert stack is not None
    assert [code.co_name for code, _ in stack.frames] == ["inner", "outer"]


def test_depth_is_bounded() -> None:
    """The innermost so many."""

    def deeper(n: int) -> int:
        return deeper(n - 1) if n else depot.save(0)

    depot = StackDepot()
    stack = depot.fetch(deeper(40))
    assert stack is not None
    assert len(stack.frames) == STACK_DEPTH
