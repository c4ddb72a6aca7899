"""
``/proc/buddyinfo``: free blocks of each order, one line for each populated zone.

Counts are blocks, not pages, and come from ``free_area[order].nr_free``: pages cached in per-CPU
page sets are in none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.zones import populated_zones

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics


def render(stats: MachineStatistics) -> str:
    """The text of the file. Every line ends with a blank, as in the kernel."""
    lines = []
    for zone in populated_zones(stats):
        counts = "".join(f"{blocks:6d} " for blocks in zone.nr_free)
        lines.append(f"Node {zone.node}, zone {zone.name:>8} {counts}\n")
    return "".join(lines)
