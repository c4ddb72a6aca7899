"""Charts over time: lines, or areas on top of each other, with the phases of the run behind them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.reports.html.draw import box, line, path, picture, text
from concmem.reports.html.scale import Scale, short, ticks

if TYPE_CHECKING:
    import svg

WIDTH: Final = 430
HEIGHT: Final = 200
LEFT: Final = 42
RIGHT: Final = 8
TOP: Final = 8
BOTTOM: Final = 24
"""Pixels; the picture grows and shrinks with its column."""

NR_COLOURS: Final = 8


class Series(NamedTuple):
    """One line or area."""

    name: str
    values: Sequence[float]
    colour: int = 0
    """1 to `NR_COLOURS`; 0: the next one."""


class Chart(NamedTuple):
    """What a picture shows."""

    title: str
    unit: str
    seconds: Sequence[float]
    phases: Sequence[str]
    """What ran, at each of `seconds`."""
    series: Sequence[Series]
    stacked: bool = False


def render(chart: Chart) -> str:
    """The chart as HTML: title, picture, legend. With fewer than two times there is only a remark."""
    name = escape(chart.title)
    if len(chart.seconds) < 2 or not chart.series:
        return f'<figure><figcaption>{name}</figcaption><p class="none">no samples</p></figure>'
    tops = _stack(chart) if chart.stacked else [list(series.values) for series in chart.series]
    y_ticks = ticks(max((max(values) for values in tops), default=0.0))
    x_ticks = [tick for tick in ticks(chart.seconds[-1], 6) if tick <= chart.seconds[-1]]
    x = Scale(0.0, chart.seconds[-1], LEFT, WIDTH - RIGHT)
    y = Scale(0.0, y_ticks[-1], HEIGHT - BOTTOM, TOP)
    elements = [
        *_phases(chart, x),
        *_axes(x, y, x_ticks, y_ticks),
        *_series(chart, tops, x, y),
        *_hits(chart, x),
    ]
    drawing = picture(WIDTH, HEIGHT, elements, f"{chart.title}, {chart.unit}")
    return (
        f'<figure><figcaption>{name} <span class="unit">{escape(chart.unit)}</span></figcaption>'
        f"{drawing}{_legend(chart)}</figure>"
    )


def _stack(chart: Chart) -> list[list[float]]:
    """The upper edge of each area."""
    tops: list[list[float]] = []
    below = [0.0] * len(chart.seconds)
    for series in chart.series:
        below = [low + value for low, value in zip(below, series.values, strict=True)]
        tops.append(below)
    return tops


def _phases(chart: Chart, x: Scale) -> list[svg.Element]:
    """Every second phase has a darker ground. A verification belongs to the phase around it."""
    named = [phase for phase in chart.phases if phase not in ("", "verify")]
    current = named[0] if named else ""
    column = []
    for phase in chart.phases:
        current = phase if phase not in ("", "verify") else current
        column.append(current)
    bands: list[svg.Element] = []
    for number, (_, group) in enumerate(groupby(range(len(column)), lambda i: column[i])):
        indices = list(group)
        if number % 2:
            start = x(chart.seconds[indices[0]])
            end = x(chart.seconds[min(indices[-1] + 1, len(column) - 1)])
            bands.append(box(start, TOP, end - start, HEIGHT - TOP - BOTTOM, "phase"))
    return bands


def _axes(
    x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]
) -> list[svg.Element]:
    elements: list[svg.Element] = []
    for tick in y_ticks:
        elements.append(line(LEFT, y(tick), WIDTH - RIGHT, y(tick), "grid"))
        elements.append(text(LEFT - 5, y(tick) + 4, short(tick), "tick", "end"))
    for tick in x_ticks:
        elements.append(text(x(tick), HEIGHT - 7, f"{short(tick)}s", "tick", "middle"))
    return elements


def _series(chart: Chart, tops: Sequence[Sequence[float]], x: Scale, y: Scale) -> list[svg.Element]:
    elements: list[svg.Element] = []
    floor = [0.0] * len(chart.seconds)
    for number, values in enumerate(tops):
        colour = _colour(chart, number)
        points = [(x(s), y(v)) for s, v in zip(chart.seconds, values, strict=True)]
        if chart.stacked:
            under = [(x(s), y(v)) for s, v in zip(chart.seconds, floor, strict=True)]
            elements.append(path([*points, *reversed(under)], f"area {colour}", closed=True))
            floor = list(values)
        else:
            elements.append(path(points, f"line {colour}"))
    return elements


def _hits(chart: Chart, x: Scale) -> list[svg.Element]:
    """An invisible column for each time, which says the values there."""
    elements: list[svg.Element] = []
    for number, seconds in enumerate(chart.seconds):
        left = x((seconds + chart.seconds[max(0, number - 1)]) / 2)
        right = x((seconds + chart.seconds[min(len(chart.seconds) - 1, number + 1)]) / 2)
        values = "\n".join(f"{s.name}: {short(s.values[number])}" for s in chart.series)
        words = f"{seconds:.1f} s {chart.phases[number]}\n{values}"
        elements.append(box(left, TOP, right - left, HEIGHT - TOP - BOTTOM, "hit", words))
    return elements


def _colour(chart: Chart, number: int) -> str:
    return f"c{chart.series[number].colour or number % NR_COLOURS + 1}"


def _legend(chart: Chart) -> str:
    items = "".join(
        f'<li class="{_colour(chart, number)}">{escape(series.name)}</li>'
        for number, series in enumerate(chart.series)
    )
    return f'<ul class="legend">{items}</ul>'
