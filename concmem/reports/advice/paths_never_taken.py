"""What the run does not say anything about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.reports.advice.advice import NOTE, Advice
from concmem.reports.flows import FLOWS, coverage
from concmem.reports.words import plural

if TYPE_CHECKING:
    from concmem.reports.run import Run

CHARTS = tuple(name for name in FLOWS if name != "debugging")
"""Debugging is switched on for a purpose, not by a workload."""
MAX_NAMED = 6


def paths_never_taken(run: Run) -> Advice | None:
    """Arrows of the flowcharts that could have been taken, but were not."""
    if not run.event_totals:
        return None
    never = {name: coverage(FLOWS[name], run.event_totals).never for name in CHARTS}
    total = sum(map(len, never.values()))
    if not total:
        return None
    evidence = []
    for name, edges in never.items():
        if edges:
            more = f" and {len(edges) - MAX_NAMED} more" if len(edges) > MAX_NAMED else ""
            evidence.append(f"{name}: {' '.join(edge.name for edge in edges[:MAX_NAMED])}{more}")
    return Advice(
        "paths_never_taken",
        NOTE,
        f"{plural(total, 'arrow')} of the flowcharts were never taken: the run says nothing of those "
        "paths",
        tuple(evidence),
        "`concmem flows` names the steps. The default scenario takes them all; or add a phase that does.",
    )
