"""Invariants that are looked at between two steps."""

from __future__ import annotations

import pytest

from concmem import explore
from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program
from concmem.workloads.hunting import hunting_program


def both_at_once(rt: ControlledRuntime) -> Program:
    """Two flags that must never be up together: one CPU lowers its own too late."""
    flags = [rt.cell(False, "flag0"), rt.cell(False, "flag1")]

    def body(mine: int) -> None:
        flags[mine].value = True
        flags[mine].value = False

    def verify() -> None:
        assert not (flags[0].value and flags[1].value)

    return Program([lambda: body(0), lambda: body(1)], verify=verify)


def test_it_is_seen_between_two_steps_only() -> None:
    """At the end both are down. It takes one preemption, and the same failure comes again."""
    assert explore.check(both_at_once, "dfs").exhausted
    outcome = explore.check(both_at_once, "dfs", verify_every=1)
    failure = outcome.failure
    assert failure is not None
    assert (failure.kind, failure.preemptions, failure.step) == ("assertion", 1, 2)
    assert failure.options == {"verify_every": 1}
    again = explore.replay(both_at_once, failure.schedule, verify_every=1)
    assert again.failure is not None
    assert again.failure.identity == failure.identity
    assert explore.replay(both_at_once, failure.schedule).failure is None


def test_schedules_mean_the_same() -> None:
    """Looking changes nothing: as many executions, with the same schedules."""
    outcomes = [explore.check(both_at_once, "dfs", verify_every=every) for every in (0, 100)]
    assert outcomes[0].executions == outcomes[1].executions
    seen: list[list[tuple[int, int]]] = [[], []]
    for every in (0, 1):

        def program(rt: ControlledRuntime, every: int = every) -> Program:
            x = rt.cell(0, "x")

            def body() -> None:
                for _ in range(3):
                    x.value += 1

            def after() -> None:
                seen[every] += rt.execution.deviations

            return Program([body, body], after, verify=lambda: None)

        explore.check(program, "random", 50, seed=3, verify_every=every)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", ["slab-churn", "vmalloc-churn", "mempool", "processes"])
def test_a_machine_is_verified_in_the_midst_of_it(name: str) -> None:
    """Its CPUs are brought to where they can be parked first; the correct model passes."""
    outcome = explore.check(hunting_program(name, 2), "random", 3, cpus=2, verify_every=50)
    assert outcome.failure is None, outcome.failure
    assert outcome.coverage.steps_min > 100


def test_what_is_refused() -> None:
    with pytest.raises(BadArgument, match="verify_every: not with dpor"):
        explore.check(both_at_once, "dpor", verify_every=1)
    with pytest.raises(BadArgument, match="verify_every: must be at least 0"):
        explore.check(both_at_once, verify_every=-1)


@pytest.mark.parametrize("scheduler", ["dfs", "pb", "pct"])
def test_nothing_is_claimed_where_steps_come_without_a_choice(scheduler: str) -> None:
    """To park the CPUs they have to go on: most orders are never seen, and the outcome says so."""

    def search(every: int) -> tuple[explore.Outcome, set[str]]:
        orders: set[str] = set()

        def program(rt: ControlledRuntime) -> Program:
            x, order = rt.cell(0, "x"), []

            def body(name: str) -> None:
                for _ in range(3):
                    x.value += 1
                    order.append(name)

            return Program(
                [lambda: body("a"), lambda: body("b")],
                lambda: orders.add("".join(order)),
                verify=lambda: rt.stop_machine(lambda: None),
            )

        return explore.check(program, scheduler, 1000, verify_every=every), orders

    parked, few = search(1)
    whole, all_orders = search(0)
    assert few < all_orders
    assert whole.exhausted == (scheduler != "pct")
    assert (parked.exhausted, parked.bound, parked.probability) == (False, None, None)
    assert parked.ended_by == ("executions" if scheduler == "pct" else "scheduler")
    assert parked.coverage.unchosen > 0
    assert "came without a choice" in " ".join(str(parked).split())
