"""
Advice: rules that look at a run, and say what is so, by which numbers, and what to do about it.

Each rule is a pure function in a module of its own, with its thresholds above it; it returns ``None`` when it
has nothing to say. To add one, write it and its test, and put it into `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.reports.advice.advice import ADVICE, LEVELS, NOTE, PROBLEM, Advice
from concmem.reports.advice.bad_accesses import bad_accesses
from concmem.reports.advice.cpu_hit_rate import cpu_hit_rate
from concmem.reports.advice.failed_allocations import failed_allocations
from concmem.reports.advice.fallback_order import fallback_order
from concmem.reports.advice.fragmentation import fragmentation
from concmem.reports.advice.leaks import leaks
from concmem.reports.advice.lock_contention import lock_contention
from concmem.reports.advice.mempool_starvation import mempool_starvation
from concmem.reports.advice.merge_caches import merge_caches
from concmem.reports.advice.mixed_pageblocks import mixed_pageblocks
from concmem.reports.advice.object_padding import object_padding
from concmem.reports.advice.pageset_misses import pageset_misses
from concmem.reports.advice.paths_never_taken import paths_never_taken
from concmem.reports.advice.remote_frees import remote_frees
from concmem.reports.advice.sparse_slabs import sparse_slabs
from concmem.reports.advice.uneven_cpus import uneven_cpus

if TYPE_CHECKING:
    from concmem.reports.run import Run

Rule = Callable[["Run"], Advice | None]

RULES: Final[tuple[Rule, ...]] = (
    *(bad_accesses, leaks),
    *(lock_contention, remote_frees, cpu_hit_rate),
    *(failed_allocations, mempool_starvation, fragmentation, mixed_pageblocks, pageset_misses),
    *(sparse_slabs, object_padding, merge_caches, fallback_order),
    *(uneven_cpus, paths_never_taken),
)
"""In the order in which they are shown, within a level."""


def advise(run: Run) -> tuple[Advice, ...]:
    """What the rules have to say of *run*, problems first."""
    found = [advice for rule in RULES if (advice := rule(run)) is not None]
    return tuple(sorted(found, key=lambda advice: LEVELS.index(advice.level)))


__all__ = ["ADVICE", "LEVELS", "NOTE", "PROBLEM", "RULES", "Advice", "Rule", "advise"]
