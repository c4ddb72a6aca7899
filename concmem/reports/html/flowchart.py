"""A flowchart with counts, drawn."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import svg

from concmem.reports.flows import coverage
from concmem.reports.html.draw import box, number, picture, text, title
from concmem.reports.html.layout import Point, Size, lay_out
from concmem.reports.html.scale import short
from concmem.reports.words import plural

if TYPE_CHECKING:
    from concmem.reports.flows import Edge, Flow

LINE_CHARACTERS: Final = 17
CHARACTER: Final = 6.3
"""Pixels of an average character; the text is no wider than its box on any common font."""
LINE: Final = 14.0
MARGIN: Final = 14.0
CORNER: Final = 14.0
"""Pixels by which the sides of a decision stand out."""

NEAR_SOURCE: Final = 0.42
NEAR_TARGET: Final = 0.68
"""Where on an arrow its label is: answers stand apart from each other where the arrows do."""


def flowchart(flow: Flow, totals: Mapping[str, int]) -> str:
    """The chart as SVG. Never taken arrows are of one kind, those that cannot be taken yet of another."""
    lines = {
        letter: textwrap.wrap(f"{letter} {label}", LINE_CHARACTERS)
        for letter, label in flow.nodes.items()
    }
    sizes = {
        letter: _size(words, flow.nodes[letter].endswith("?")) for letter, words in lines.items()
    }
    counts = flow.counts(totals)
    words_of = {
        (edge.source, edge.target): _words(edge, nr)
        for edge, nr in zip(flow.edges, counts, strict=True)
    }
    widths = {arrow: len(words) * CHARACTER + 8 for arrow, words in words_of.items()}
    layout = lay_out(sizes, list(words_of), widths)
    node_counts = flow.node_counts(counts)
    most = max(1, *counts)
    elements: list[svg.Element] = []
    labels: list[svg.Element] = []
    for edge, nr in zip(flow.edges, counts, strict=True):
        points = [(x + MARGIN, y + MARGIN) for x, y in layout.arrows[edge.source, edge.target]]
        elements += _arrow(edge, nr, most, points)
        near = NEAR_TARGET if edge.label else NEAR_SOURCE
        words = words_of[edge.source, edge.target]
        labels += _label(words, f"on-{_kind(nr)}", points, near)
    for letter, label in flow.nodes.items():
        x, y = layout.nodes[letter]
        centre = x + MARGIN, y + MARGIN
        says = f"{letter} {label}: reached {plural(node_counts[letter], 'time')}"
        kind = "node" if node_counts[letter] else "node unreached"
        elements.append(_shape(centre, sizes[letter], label.endswith("?"), kind, says))
        elements += _words_in(lines[letter], centre)
    found = coverage(flow, totals)
    possible = len(found.taken) + len(found.never)
    return picture(
        layout.width + 2 * MARGIN,
        layout.height + 2 * MARGIN,
        [*elements, *labels],
        f"{flow.title}: {len(found.taken)} of {possible} arrows taken",
        "flow",
    )


def _size(words: Sequence[str], decision: bool) -> Size:
    width = max(map(len, words)) * CHARACTER + (34 if decision else 18)
    return Size(max(56.0, width), len(words) * LINE + 12)


def _shape(centre: Point, size: Size, decision: bool, kind: str, says: str) -> svg.Element:
    x, y = centre
    left, right, top, bottom = (
        x - size.width / 2,
        x + size.width / 2,
        y - size.height / 2,
        y + size.height / 2,
    )
    if not decision:
        return box(left, top, size.width, size.height, kind, says, 5)
    corners = [
        *((left, y), (left + CORNER, top), (right - CORNER, top)),
        *((right, y), (right - CORNER, bottom), (left + CORNER, bottom)),
    ]
    return svg.Polygon(
        points=[svg.Point(number(a), number(b)) for a, b in corners],
        class_=[*kind.split(), "decision"],
        elements=[title(says)],
    )


def _words_in(words: Sequence[str], centre: Point) -> list[svg.Element]:
    x, y = centre
    first = y - (len(words) - 1) * LINE / 2 + 4
    return [text(x, first + n * LINE, word, "word", "middle") for n, word in enumerate(words)]


def _kind(nr: int) -> str:
    return "taken" if nr else "never"


def _arrow(edge: Edge, nr: int, most: int, points: Sequence[Point]) -> list[svg.Element]:
    """A curve that leaves and enters each point upright, wider the more often it was taken."""
    down = points[-1][1] >= points[0][1]
    tip = points[-1]
    # The line ends where the head begins.
    points = [*points[:-1], (tip[0], tip[1] - (6 if down else -6))]
    steps: list[svg.PathData] = [svg.M(*map(number, points[0]))]
    for (x1, y1), (x2, y2) in pairwise(points):
        half = (y2 - y1) / 2
        steps.append(svg.C(*map(number, (x1, y1 + half, x2, y2 - half, x2, y2))))
    kind = _kind(nr)
    width = 1 + 3 * math.log(nr + 1) / math.log(most + 1) if nr else 1.2
    says = f"taken {plural(nr, 'time')}" if nr else "never taken"
    head = 7 if down else -7
    return [
        svg.Path(
            d=steps,
            class_=["arrow", kind],
            stroke_width=number(width),
            elements=[title(f"{edge.name} {edge.label} {says}; proof: {edge.proof}")],
        ),
        svg.Polygon(
            points=[
                svg.Point(number(x), number(y))
                for x, y in (tip, (tip[0] - 4, tip[1] - head), (tip[0] + 4, tip[1] - head))
            ],
            class_=["head", kind],
        ),
    ]


def _words(edge: Edge, nr: int) -> str:
    """Answer and count."""
    return f"{edge.label}: {short(nr)}" if edge.label else short(nr)


def _label(words: str, kind: str, points: Sequence[Point], share: float) -> list[svg.Element]:
    """On the first stretch of the arrow, at *share* of its height, with a ground that hides it there."""
    (x1, y1), (x2, y2) = points[:2]
    ease = share * share * (3 - 2 * share)  # how far across the curve is there
    x, y = x1 + (x2 - x1) * ease, y1 + (y2 - y1) * share
    width = len(words) * CHARACTER
    return [
        box(x - width / 2, y - 6, width, 12, "ground", radius=3),
        text(x, y + 4, words, kind, "middle"),
    ]
