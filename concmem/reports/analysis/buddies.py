"""
The buddy system: which orders could be had, from ``/proc/buddyinfo`` when it was fullest and from samples.

The two indices are the kernel's, see :mod:`concmem.reports.fragmentation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.reports.fragmentation import fragmentation_index, unusable_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.reports.run import Run


class OrderAnalysis(NamedTuple):
    """One order in one zone."""

    order: int
    blocks: int
    """Free blocks of exactly this order at the fullest moment."""
    fragmentation: float
    """Fragmentation index then: -1 a block could be had; towards 1 it could not for fragmentation."""
    unusable: float
    """Share of the free pages then that could not serve it, 0 to 1."""
    mean_unusable: float
    """The same, mean of all samples."""
    refused: float
    """Share of the samples in which no block could be had though enough pages were free, 0 to 1."""


class ZoneAnalysis(NamedTuple):
    """One zone; pages."""

    node: int
    name: str
    managed: int
    free: int
    cached: int
    wmark_low: int
    pageblocks: tuple[int, ...]
    """By migratetype."""
    free_counts: tuple[tuple[int, ...], ...]
    """``[order][migratetype]``: free blocks."""
    orders: tuple[OrderAnalysis, ...]
    mixed: int | None
    """Most mixed page blocks seen; ``None``: never counted."""
    mixed_of: int
    """Page blocks that could have been mixed."""

    def __str__(self) -> str:
        return f"node {self.node} {self.name}"


def zone_analysis(run: Run) -> tuple[ZoneAnalysis, ...]:
    """Every zone that has pages; nothing when nobody looked."""
    if run.busiest is None:
        return ()
    columns = {(zone.node, zone.name): n for n, zone in enumerate(run.timeline.zones)}
    mixed = {(row.node, row.name): row for row in run.mixed}
    found = []
    for zone in run.busiest.zones:
        key = zone.node, zone.name
        column = columns.get(key)
        over_time = (
            [sample.blocks[column] for sample in run.timeline.samples] if column is not None else []
        )
        found.append(
            ZoneAnalysis(
                zone.node,
                zone.name,
                zone.managed,
                zone.free,
                zone.cached,
                zone.wmark_low,
                zone.pageblocks,
                zone.free_counts,
                tuple(_order(order, zone.blocks, over_time) for order in range(len(zone.blocks))),
                mixed[key].mixed if key in mixed else None,
                mixed[key].pageblocks if key in mixed else 0,
            )
        )
    return tuple(found)


def _order(order: int, blocks: list[int], over_time: Sequence[Sequence[int]]) -> OrderAnalysis:
    unusable = [unusable_index(counts, order) for counts in over_time if any(counts)]
    refused = [_refused(counts, order) for counts in over_time]
    return OrderAnalysis(
        order,
        blocks[order],
        fragmentation_index(blocks, order),
        unusable_index(blocks, order),
        sum(unusable) / len(unusable) if unusable else 0.0,
        sum(refused) / len(refused) if refused else 0.0,
    )


def _refused(counts: Sequence[int], order: int) -> bool:
    """Whether pages were there but no block."""
    pages = sum(blocks << o for o, blocks in enumerate(counts))
    return pages >= 1 << order and not any(counts[order:])
