"""The pieces of pictures. svg.py writes text as it is, so that it is escaped here, and here only."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal

import svg

Anchor = Literal["start", "middle", "end"]


def number(value: float) -> float:
    """A coordinate, to a tenth: more would only make the file larger."""
    return round(value, 1)


def text(x: float, y: float, words: str, kind: str = "label", anchor: Anchor = "start") -> svg.Text:
    """One line of text; *y* is its base line."""
    return svg.Text(x=number(x), y=number(y), text=escape(words), class_=[kind], text_anchor=anchor)


def title(words: str) -> svg.Title:
    """What is shown when the pointer rests on the element that this is in."""
    return svg.Title(text=escape(words))


def box(
    x: float, y: float, width: float, height: float, kind: str, words: str = "", radius: float = 0
) -> svg.Rect:
    """A rectangle; *words* are its title."""
    return svg.Rect(
        x=number(x),
        y=number(y),
        width=number(max(0, width)),
        height=number(max(0, height)),
        rx=number(radius) if radius else None,
        class_=kind.split(),
        elements=[title(words)] if words else None,
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> svg.Line:
    """A straight line."""
    return svg.Line(x1=number(x1), y1=number(y1), x2=number(x2), y2=number(y2), class_=[kind])


def path(points: Sequence[tuple[float, float]], kind: str, closed: bool = False) -> svg.Path:
    """A line through *points*."""
    steps: list[svg.PathData] = [svg.M(number(points[0][0]), number(points[0][1]))]
    steps += [svg.L(number(x), number(y)) for x, y in points[1:]]
    if closed:
        steps.append(svg.Z())
    return svg.Path(d=steps, class_=kind.split())


def picture(
    width: float, height: float, elements: Sequence[svg.Element], words: str, kind: str = "chart"
) -> str:
    """
    The whole; *words* say what it shows to those who cannot see it.

    A ``chart`` fills its column, anything else has its natural size.
    """
    natural = None if kind.startswith("chart") else (number(width), number(height))
    whole = svg.SVG(
        viewBox=svg.ViewBoxSpec(0, 0, number(width), number(height)),
        width=natural[0] if natural else None,
        height=natural[1] if natural else None,
        class_=kind.split(),
        elements=[title(words), *elements],
        extra={"role": "img"},
    )
    return str(whole)
