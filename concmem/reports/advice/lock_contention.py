"""Locks that CPUs wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.analysis import lock_analysis
from concmem.reports.words import count, milliseconds, percent

if TYPE_CHECKING:
    from concmem.reports.analysis import LockAnalysis
    from concmem.reports.run import Run

WAIT_SHARE = 0.02
"""Of all CPUs' time."""
MIN_CONTENTIONS = 100

ACTIONS = {
    "&zone->lock": "Larger batches of the page sets (percpu_pagelist_high_fraction) take it less often; "
    "large orders, and frees on other CPUs than the allocation's, take it each time.",
    "&n->list_lock": "It is taken for slabs that come and go: more objects to a slab, a larger "
    "cpu_partial, and frees on the CPU of the allocation take it less often.",
    "mm->mmap_lock": "Fewer, larger mappings, and arenas of malloc for each thread, take it less often.",
}
"""What helps, by lock class."""


def lock_contention(run: Run) -> Advice | None:
    """Waiting for one lock class took more than a fiftieth of all CPUs' time."""
    locks = [
        lock
        for lock in lock_analysis(run)
        if lock.share > WAIT_SHARE and lock.contentions >= MIN_CONTENTIONS
    ]
    if not locks:
        return None
    worst = locks[0]
    return Advice(
        "lock_contention",
        ADVICE,
        f"{worst.name}: CPUs spent {percent(worst.share, 1)} of their time waiting for it",
        tuple(map(_evidence, locks[:3])),
        ACTIONS.get(
            worst.name.removesuffix("-W").removesuffix("-R"),
            "Hold it for a shorter time, or split what it protects.",
        ),
    )


def _evidence(lock: LockAnalysis) -> str:
    text = (
        f"{lock.name}: {percent(lock.contentions, lock.acquisitions)} of {count(lock.acquisitions)} "
        f"acquisitions waited, {milliseconds(lock.waited)} ms in all"
    )
    if lock.waits_in:
        text += f", mostly in {lock.waits_in}"
    if lock.holds_in:
        text += f" while {lock.holds_in} held it"
    return text
