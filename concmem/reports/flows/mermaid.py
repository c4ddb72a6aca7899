"""A flowchart as Mermaid text, with the count on every arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.reports.flows.flow import Edge, Flow


def mermaid(flow: Flow, totals: Mapping[str, int]) -> str:
    """
    The chart. Arrows that were never taken are red.

    Labels are quoted, since ``[/`` would begin a parallelogram.
    """
    lines = ["---", f"title: {flow.title}", "---", "flowchart TD"]
    for letter, label in flow.nodes.items():
        lines.append(
            f'    {letter}{{"{label}"}}' if label[-1] == "?" else f'    {letter}["{label}"]'
        )
    never = []
    for number, (edge, count) in enumerate(zip(flow.edges, flow.counts(totals), strict=True)):
        lines.append(f"    {_arrow(edge, count)}")
        if not count:
            never.append(str(number))
    if never:
        lines.append(f"    linkStyle {','.join(never)} stroke:red,color:red")
    return "\n".join(lines) + "\n"


def _arrow(edge: Edge, count: int) -> str:
    text = f"{edge.label}: {count}" if edge.label else str(count)
    return f'{edge.source} -->|"{text}"| {edge.target}'
