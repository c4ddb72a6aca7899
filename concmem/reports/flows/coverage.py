"""Which arrows were taken, from event totals: pure functions, no locks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from concmem.reports.flows.flow import Edge, Flow

MAX_NAMED: Final = 16
"""Arrows that were never taken that a summary names."""


class Coverage(NamedTuple):
    """What was taken of one chart."""

    flow: Flow
    taken: tuple[Edge, ...]
    never: tuple[Edge, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "arrows": len(self.flow.edges),
            "taken": len(self.taken),
            "never": [edge.name for edge in self.never],
        }


def coverage(flow: Flow, totals: Mapping[str, int]) -> Coverage:
    """What *totals* say about *flow*."""
    taken: list[Edge] = []
    never: list[Edge] = []
    for edge, count in zip(flow.edges, flow.counts(totals), strict=True):
        (taken if count else never).append(edge)
    return Coverage(flow, tuple(taken), tuple(never))


def coverage_line(flows: Iterable[Flow], totals: Mapping[str, int]) -> str:
    """All charts in one line: ``flowcharts: allocation 21/21, ...``."""
    parts = []
    for flow in flows:
        parts.append(f"{flow.name} {len(coverage(flow, totals).taken)}/{len(flow.edges)}")
    return f"arrows of the flowcharts taken: {', '.join(parts)}"


def never_line(flows: Iterable[Flow], totals: Mapping[str, int]) -> str:
    """
    The arrows that were never taken; empty if there are none.

    More than `MAX_NAMED` are not named: such a run was about something else.
    """
    never = {flow.name: [e.name for e in coverage(flow, totals).never] for flow in flows}
    total = sum(map(len, never.values()))
    if not total:
        return ""
    if total > MAX_NAMED:
        return f"never taken: {total} arrows, which `concmem flows` names"
    parts = [f"{name} {' '.join(arrows)}" for name, arrows in never.items() if arrows]
    return f"never taken: {'; '.join(parts)}"


def to_json(flows: Iterable[Flow], totals: Mapping[str, int]) -> dict[str, Any]:
    """``{"flows": {name: {"nodes": {letter: ...}, "edges": [...]}}}``, with counts."""
    return {"flows": {flow.name: _flow_to_json(flow, totals) for flow in flows}}


def _flow_to_json(flow: Flow, totals: Mapping[str, int]) -> dict[str, Any]:
    counts = flow.counts(totals)
    node_counts = flow.node_counts(counts)
    return {
        "nodes": {
            letter: {"label": label, "count": node_counts[letter]}
            for letter, label in flow.nodes.items()
        },
        "edges": [
            {"from": edge.source, "to": edge.target, "label": edge.label, "count": count}
            for edge, count in zip(flow.edges, counts, strict=True)
        ],
    }
