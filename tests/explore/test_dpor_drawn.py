"""DPOR reaches exactly what a search of the whole space reaches, in programs of all that bodies can do."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from concmem import explore

from .drawn.drawing import THEMES, drawn
from .drawn.search import search
from .drawn.spec import Spec

PROGRAMS = 300
BATCH = 30
SIZE = 0.8
MOST = 200
"""Executions of the search of the whole space; larger programs are left out."""


def compare(spec: Spec, what: str) -> tuple[int, int] | None:
    """Executions that both searches took, which have to agree in all that can come of *spec*."""
    everything = search(spec, explore.DFS(), MOST)
    if not everything.exhausted:
        return None
    reduced = search(spec, explore.DPOR(), 2 * everything.executions + 5)
    assert reduced.exhausted, what
    assert reduced.states == everything.states, f"{what}: final states of {spec}"
    assert reduced.failures == everything.failures, f"{what}: failures of {spec}"
    return everything.executions, reduced.executions


@pytest.mark.parametrize("batch", range(PROGRAMS // BATCH))
def test_the_same_states_and_failures(batch: int) -> None:
    """Of more than 200 programs, some with their bodies on other CPUs."""
    total: Counter[str] = Counter()
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        spec = drawn(seed, SIZE)
        if seed % 2:
            order = list(range(len(spec.bodies)))
            Random(seed).shuffle(order)
            spec = spec.permuted(order)
        executions = compare(spec, f"program {seed}")
        if executions is not None:
            total["programs"] += 1
            total["all"] += executions[0]
            total["reduced"] += executions[1]
    assert total["programs"] >= 20  # so that there are more than 200 in all
    assert total["reduced"] * 3 < total["all"]


def test_the_programs_have_everything() -> None:
    """Of each kind of operation some, failures of several kinds, and time-outs that come early."""
    specs = [drawn(seed, SIZE) for seed in range(PROGRAMS)]
    names = {name for spec in specs for body in spec.bodies for name, *_ in body}
    assert names >= {name for theme in THEMES.values() for name in theme} - {"nested"}
    assert (
        sum(
            "fail_if" in repr(spec.bodies[0]) and "fail_if" in repr(spec.bodies[1])
            for spec in specs
        )
        > 5
    )
    assert any(spec.early_timeouts and spec.spurious_wakeups for spec in specs)
    assert any(spec.kthread for spec in specs)
    assert any(spec.interrupts for spec in specs)
