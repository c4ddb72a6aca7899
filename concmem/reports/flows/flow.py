"""
A flowchart as data: nodes by letter, and arrows that each name the events that prove them.

A *proof* is a sum, and perhaps a difference, of event totals (:mod:`concmem.reports.flows.totals`): each
time that the step was taken, its value has grown by one. Several arrows in a row may have the same proof,
where the model does the steps of all of them or none; the charts say so where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from concmem.errors import BadArgument


class Edge(NamedTuple):
    """One arrow."""

    source: str
    """Letter of the node that it leaves."""
    target: str
    label: str
    """The answer that it stands for; empty for a plain arrow."""
    proof: str
    """Names of events, with ``+`` and ``-`` between them and blanks around."""

    @property
    def name(self) -> str:
        return f"{self.source}->{self.target}"

    def terms(self) -> list[tuple[int, str]]:
        """``(1, event)`` for each event that is added, ``(-1, event)`` for one subtracted."""
        words = ["+", *self.proof.split()]
        signs, names = words[::2], words[1::2]
        if len(signs) != len(names) or not set(signs) <= {"+", "-"} or {"+", "-"} & set(names):
            raise BadArgument(f"proof: of {self.name} is no sum of events: {self.proof!r}")
        return [(1 if sign == "+" else -1, name) for sign, name in zip(signs, names, strict=True)]

    def proving_events(self) -> tuple[str, ...]:
        """The events that are added: without any of them the arrow was not taken."""
        return tuple(name for sign, name in self.terms() if sign > 0)

    def count(self, totals: Mapping[str, int]) -> int:
        """
        Times that the arrow was taken, by *totals*.

        Not negative: totals of a machine that runs are not all of the same moment, so that a
        difference may for once be.
        """
        return max(0, sum(sign * totals.get(name, 0) for sign, name in self.terms()))


class Flow(NamedTuple):
    """One flowchart."""

    name: str
    title: str
    nodes: Mapping[str, str]
    """Letter: label; that of a decision ends with a question mark."""
    edges: tuple[Edge, ...]

    def counts(self, totals: Mapping[str, int]) -> list[int]:
        """Times that each arrow was taken, in order."""
        return [edge.count(totals) for edge in self.edges]

    def node_counts(self, counts: list[int]) -> dict[str, int]:
        """
        Times that each node was reached: the larger of what came in and of what went out.

        The two are not always equal. Requests may enter a chart in its middle (kernel code calls
        ``vmalloc`` by itself), and may leave it there (no memory).
        """
        arrows = list(zip(self.edges, counts, strict=True))
        return {
            letter: max(
                sum(count for edge, count in arrows if edge.target == letter),
                sum(count for edge, count in arrows if edge.source == letter),
            )
            for letter in self.nodes
        }
