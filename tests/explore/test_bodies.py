"""Programs and the CPUs that they are given."""

from __future__ import annotations

import pytest

from concmem import explore
from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program

from .programs import counter


def test_fewer_cpus_than_bodies() -> None:
    """Is an error: no body is left out without a word."""
    with pytest.raises(BadArgument, match="cpus: the program has 2 bodies, but only 1 CPUs"):
        explore.check(counter, cpus=1)


def test_a_handler_submits_to_its_own_cpu() -> None:
    """The body begins when the handler has ended."""
    orders = set()

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")
        order: list[str] = []

        def body() -> None:
            order.append("body")
            x.value = 2

        def handler() -> None:
            rt.submit(0, body)
            order.append("handler")
            x.value = 1
            order.append("end")

        return Program(
            [None, lambda: x.value], lambda: orders.add(tuple(order)), interrupts=[(0, handler)]
        )

    outcome = explore.check(program, "dfs", shrink=False)
    assert outcome.exhausted
    assert orders == {("handler", "end", "body")}
