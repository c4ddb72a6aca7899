"""
The flowcharts of the model as data, with the events that prove each arrow, and what was taken of them.

::

    totals = event_totals(machine.statistics())
    print(mermaid(FLOWS["allocation"], totals))
    never = coverage(FLOWS["free"], totals).never
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from concmem.reports.flows.allocation import ALLOCATION
from concmem.reports.flows.coverage import (
    Coverage,
    coverage,
    coverage_line,
    never_line,
    to_json,
)
from concmem.reports.flows.debugging import DEBUGGING
from concmem.reports.flows.flow import Edge, Flow
from concmem.reports.flows.free import FREE
from concmem.reports.flows.mempool import MEMPOOL
from concmem.reports.flows.mermaid import mermaid
from concmem.reports.flows.performance import PERFORMANCE
from concmem.reports.flows.totals import event_totals, since

FLOWS: Final[Mapping[str, Flow]] = {
    flow.name: flow for flow in (ALLOCATION, FREE, MEMPOOL, PERFORMANCE, DEBUGGING)
}
"""The five, by name."""

__all__ = [
    "FLOWS",
    "Coverage",
    "Edge",
    "Flow",
    "coverage",
    "coverage_line",
    "event_totals",
    "mermaid",
    "never_line",
    "since",
    "to_json",
]
