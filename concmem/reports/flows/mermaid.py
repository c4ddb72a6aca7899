"""A flowchart as Mermaid text, with the count on every arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from concmem.reports.flows.pending import pending_part

if TYPE_CHECKING:
    from concmem.reports.flows.flow import Edge, Flow


def mermaid(flow: Flow, totals: Mapping[str, int]) -> str:
    """
    The chart. Arrows that were never taken are red; those that cannot be yet are dotted.

    Labels are quoted, since ``[/`` would begin a parallelogram.
    """
    lines = ["---", f"title: {flow.title}", "---", "flowchart TD"]
    for letter, label in flow.nodes.items():
        lines.append(
            f'    {letter}{{"{label}"}}' if label[-1] == "?" else f'    {letter}["{label}"]'
        )
    never = []
    for number, (edge, count) in enumerate(zip(flow.edges, flow.counts(totals), strict=True)):
        pending = not count and pending_part(edge) is not None
        lines.append(f"    {_arrow(edge, count, pending)}")
        if not count and not pending:
            never.append(str(number))
    if never:
        lines.append(f"    linkStyle {','.join(never)} stroke:red,color:red")
    return "\n".join(lines) + "\n"


def _arrow(edge: Edge, count: int, pending: bool) -> str:
    number = "pending" if pending else str(count)
    text = f"{edge.label}: {number}" if edge.label else number
    return f'{edge.source} {"-.->" if pending else "-->"}|"{text}"| {edge.target}'
