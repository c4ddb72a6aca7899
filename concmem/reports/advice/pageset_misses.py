"""Per-CPU page sets that had to go to the buddy system too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.run import Run

MIN_PAGES = 1000
MISS_SHARE = 0.2
"""Batches for each block of pages allocated; a page set that works has one for some 60."""


def pageset_misses(run: Run) -> Advice | None:
    """A refill or flush came for every fifth block of pages, or more often."""
    blocks = sum(cpu.allocated + cpu.freed for cpu in run.cpus)
    refills, flushes = (run.event_totals.get(f"pcp.{name}", 0) for name in ("refill", "flush"))
    drains = run.event_totals.get("pcp.drain", 0)
    misses = refills + max(0, flushes - drains)
    if blocks < MIN_PAGES or misses <= MISS_SHARE * blocks:
        return None
    return Advice(
        "pageset_misses",
        ADVICE,
        f"page sets went to the buddy system for {percent(misses, blocks)} of the pages",
        (
            f"{count(refills)} refills and {count(flushes)} flushes ({count(drains)} of them by "
            f"drains) for {count(blocks)} blocks of pages allocated and freed",
            f"{count(run.events.get('pcp_trylock_failed', 0))} times an interrupt found the set in use",
        ),
        "Page sets serve orders up to 3 only, and only the CPU that frees into them: larger orders and "
        "one-way traffic between CPUs go past them. A small zone has small batches.",
    )
