"""DPOR reaches exactly what a search of the whole space reaches, with a fraction of the executions."""

from __future__ import annotations

from collections import Counter

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.explore.runner import Limits

from .small_programs import KINDS, Spec, TooLarge, explore_all, make_spec

PROGRAMS = 330
MOST = 150
"""Executions of the search of the whole space; larger programs are left out, and others made."""

BATCH = 30


def compare(kind: str, spec: Spec, limits: Limits | None = None) -> tuple[int, int]:
    """Executions that both searches took; the programs have to agree in all that can come of them."""
    states, failures, executions = explore_all(spec, explore.DFS(), MOST, limits)
    reduced = explore_all(spec, explore.DPOR(), executions + 5, limits)
    assert reduced[0] == states, f"{kind}: final states of {spec}"
    assert reduced[1] == failures, f"{kind}: failures of {spec}"
    return executions, reduced[2]


@pytest.mark.parametrize("batch", range(PROGRAMS // BATCH))
def test_the_same_states_and_failures(batch: int) -> None:
    """Of more than 200 generated programs, with locks, cells, atomics, wait queues, interrupts, and more."""
    total: Counter[str] = Counter()
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        kind, (bodies, interrupts) = make_spec(seed)
        if seed % 3 == 1:  # whatever the order of the bodies
            bodies = bodies[::-1]
        try:
            executions, reduced = compare(kind, (bodies, interrupts))
        except TooLarge:
            total["left out"] += 1
            continue
        # It may find out on the way that time matters, and then begins anew.
        assert reduced <= executions + 3
        total["programs"] += 1
        total["all"] += executions
        total["reduced"] += reduced
    assert total["programs"] >= 12  # and more than 200 in all
    assert total["reduced"] * 3 < total["all"]


def test_early_timeouts_and_spurious_wakeups() -> None:
    """The same with waits that end for no reason."""
    limits = Limits(max_steps=300, early_timeouts=1, spurious_wakeups=1)
    specs = [make_spec(seed) for seed in range(200)]
    tried = 0
    for kind, spec in specs:
        if kind in ("waits", "timed"):
            try:
                compare(kind, spec, limits)
            except TooLarge:
                continue
            tried += 1
    assert tried >= 10


def test_every_kind_is_generated() -> None:
    """The generator is not blind to some."""
    assert {make_spec(seed)[0] for seed in range(len(KINDS))} == set(KINDS)


def test_independent_steps_need_one_execution() -> None:
    """Four CPUs that share nothing: one execution instead of 369,600."""

    def program(rt: ControlledRuntime) -> Program:
        cells = [rt.cell(0, f"cell{i}") for i in range(4)]

        def body(i: int) -> None:
            for _ in range(3):
                cells[i].value = 1

        return Program([lambda i=i: body(i) for i in range(4)])

    outcome = explore.check(program, "dpor")
    assert (outcome.executions, outcome.exhausted) == (1, True)


def test_readers_commute() -> None:
    """Three readers and one writer of a cell: the writer's place among the reads, 2**3 classes."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")
        return Program(
            [lambda: x.value, lambda: x.value, lambda: x.value, lambda: setattr(x, "value", 1)]
        )

    outcome = explore.check(program, "dpor")
    assert outcome.exhausted
    assert outcome.executions - outcome.abandoned == 8


def test_a_limit_is_no_proof() -> None:
    """Executions or seconds that cut the search off: never "exhausted"."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.atomic(0, "x")
        return Program([x.inc, x.inc, x.inc])

    assert explore.check(program, "dpor").exhausted
    needed = explore.check(program, "dpor").executions
    assert needed == 6
    assert not explore.check(program, "dpor", executions=needed).exhausted
    assert not explore.check(program, "dpor", seconds=1e-9).exhausted
