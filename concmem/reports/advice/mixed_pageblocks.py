"""Page blocks with pages that cannot be moved among those that can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import ADVICE, Advice
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import MixedBlocks

MIXED_SHARE = 0.25


def mixed_pageblocks(run: Run) -> Advice | None:
    """More than a quarter of a zone's page blocks hold pages of another type than theirs."""
    zones = [row for row in run.mixed if row.mixed > MIXED_SHARE * row.pageblocks]
    if not zones:
        return None
    zones.sort(key=lambda row: -_share(row))
    worst = zones[0]
    return Advice(
        "mixed_pageblocks",
        ADVICE,
        f"node {worst.node} {worst.name}: {percent(worst.mixed, worst.pageblocks)} of the page blocks "
        "are mixed",
        tuple(
            f"node {row.node} {row.name}: {count(row.mixed)} of {count(row.pageblocks)} page blocks "
            f"at {row.seconds:.1f} s"
            for row in zones[:3]
        ),
        "One page that cannot be moved keeps a block of 2 MiB from becoming free. More free memory "
        "(min_free_kbytes) lets a type claim whole blocks instead of stealing pages.",
    )


def _share(row: MixedBlocks) -> float:
    return row.mixed / row.pageblocks if row.pageblocks else 0.0
