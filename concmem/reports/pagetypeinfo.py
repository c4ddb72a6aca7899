"""
``/proc/pagetypeinfo``: free blocks by migratetype and order, and page blocks by migratetype.

Counts are blocks (of ``2**order`` pages), then page blocks (of 512 pages). The kernel drops the
zone's lock between orders, so the rows of a busy zone are no snapshot.

Not modelled: "Number of mixed blocks", which needs CONFIG_PAGE_OWNER.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm import migratetype
from concmem.reports.zones import populated_zones
from concmem.units import NR_PAGE_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics, ZoneStatistics

COUNT_LIMIT: Final = 100_000
"""The kernel stops counting a list here, with ``>`` in front of the number."""


def render(stats: MachineStatistics) -> str:
    """The text of the file. Rows end with a blank, as in the kernel."""
    orders = "".join(f"{order:6d} " for order in range(NR_PAGE_ORDERS))
    types = "".join(f"{name:>12} " for name in migratetype.NAMES)
    return "".join(
        (
            f"Page block order: {PAGEBLOCK_ORDER}\n",
            f"Pages per block:  {PAGEBLOCK_NR_PAGES}\n",
            "\n",
            f"{'Free pages count per migrate type at order':<43} {orders}\n",
            *(_free_counts(zone) for zone in populated_zones(stats)),
            "\n",
            f"{'Number of blocks type':<23}{types}\n",
            *(_block_counts(zone) for zone in populated_zones(stats)),
        )
    )


def _free_counts(zone: ZoneStatistics) -> str:
    """One row for each migratetype."""
    rows = []
    for number, name in enumerate(migratetype.NAMES):
        counts = "".join(_capped(by_type[number]) for by_type in zone.free_counts)
        rows.append(f"Node {zone.node:4d}, zone {zone.name:>8}, type {name:>12} {counts}\n")
    return "".join(rows)


def _capped(blocks: int) -> str:
    return f"{blocks:6d} " if blocks < COUNT_LIMIT else f">{COUNT_LIMIT:6d} "


def _block_counts(zone: ZoneStatistics) -> str:
    counts = "".join(f"{blocks:12d} " for blocks in zone.pageblocks)
    return f"Node {zone.node}, zone {zone.name:>8} {counts}\n"
