"""Memory pools: whether those who asked got something, and how long they had to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from concmem.reports.run import Run


class MempoolAnalysis(NamedTuple):
    """All pools of the run together."""

    created: int
    short: int
    """Of them, those that did not get their whole reserve."""
    allocator: int
    """Elements that came from the allocator."""
    reserved: int
    """Elements that came from a reserve."""
    empty: int
    """Attempts at which there was neither."""
    waited: int
    """Times that somebody slept until an element came back."""
    failed: int
    """Allocations that ended with nothing."""

    @property
    def asked(self) -> int:
        """Allocations."""
        return self.allocator + self.reserved + self.failed


def mempool_analysis(run: Run) -> MempoolAnalysis | None:
    """``None`` when the run had no pools."""
    events = run.events
    if not events.get("mempool_create"):
        return None
    return MempoolAnalysis(
        created=events["mempool_create"],
        short=events.get("mempool_prealloc_short", 0),
        allocator=events.get("mempool_alloc_allocator", 0),
        reserved=events.get("mempool_alloc_reserved", 0),
        empty=events.get("mempool_alloc_empty", 0),
        waited=events.get("mempool_alloc_waited", 0),
        failed=events.get("mempool_alloc_failed", 0),
    )
