"""Scales and charts: round ticks, lines through the right points, and what is said on hovering."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concmem.reports.html.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Series,
    render,
)
from concmem.reports.html.scale import Scale, short, ticks
from concmem.reports.html.timelines import rates, time_lines

from ..runs import make_run, make_sample

SVG = "{http://www.w3.org/2000/svg}"


def drawing(html: str) -> ET.Element:
    """The picture in a figure."""
    found = re.search(r"<svg.*</svg>", html, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])


def points(element: ET.Element) -> list[tuple[float, float]]:
    """Of a path of straight lines."""
    numbers = [float(word) for word in re.findall(r"-?[0-9.]+", element.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [each for each in root.iter() if name in each.attrib.get("class", "").split()]


@pytest.mark.parametrize(
    ("high", "expected"),
    [
        (10, [0, 2, 4, 6, 8, 10]),
        (7, [0, 2, 4, 6, 8]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (1200, [0, 500, 1000, 1500]),
        (0, [0, 1]),
        (-3, [0, 1]),
        (float("nan"), [0, 1]),
        (float("inf"), [0, 1]),
    ],
)
def test_ticks(high: float, expected: list[float]) -> None:
    """Steps of 1, 2 or 5 times a power of ten."""
    assert ticks(high) == pytest.approx(expected)


@given(st.floats(1e-9, 1e15), st.integers(2, 10))
def test_ticks_cover_everything(high: float, most: int) -> None:
    """From 0 to at least the highest value, in at most so many steps, all alike."""
    found = ticks(high, most)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-6)
    assert 2 <= len(found) <= most + 2
    assert found[-2] < high * (1 + 1e-6)


def test_short_numbers() -> None:
    """Three digits and a unit."""
    assert [short(n) for n in (0, 12.345, 1500, 2_000_000, 3.2e9)] == [
        *("0", "12.3", "1.5k", "2M", "3.2G")
    ]


def test_a_scale() -> None:
    """Linear, upside down too, and a point where there is no range."""
    assert Scale(0, 10, 100, 200)(5) == 150
    assert Scale(0, 10, 200, 100)(5) == 150
    assert Scale(3, 3, 100, 200)(7) == 100


CHART = Chart("A < B", "per second", (0, 1, 2), ("x", "x", "y"), (Series("a&b", (0, 5, 10)),))


def test_a_line_goes_through_its_points() -> None:
    """From the left to the right edge, from the bottom to the top tick."""
    (line,) = of_class(drawing(render(CHART)), "line")
    middle = (LEFT + WIDTH - RIGHT) / 2
    assert points(line) == [
        (LEFT, HEIGHT - BOTTOM),
        (middle, (HEIGHT - BOTTOM + TOP) / 2),
        (WIDTH - RIGHT, TOP),
    ]


def test_areas_lie_on_each_other() -> None:
    """Each begins where the one below it ends."""
    series = (Series("low", (1, 1, 1)), Series("high", (3, 3, 3), colour=5))
    areas = of_class(drawing(render(CHART._replace(series=series, stacked=True))), "area")
    low, high = (points(area) for area in areas)
    assert low[:3] == list(reversed(high[3:]))
    assert {y for _, y in high[:3]} == {TOP}
    assert [area.attrib["class"].split()[1] for area in areas] == ["c1", "c5"]


def test_hovering_says_the_values() -> None:
    """At each time: when, what ran, and each value, with nothing left of HTML in names."""
    hits = of_class(drawing(render(CHART)), "hit")
    assert [hit.findtext(f"{SVG}title") for hit in hits] == [
        "0.0 s x\na&b: 0",
        "1.0 s x\na&b: 5",
        "2.0 s y\na&b: 10",
    ]
    widths = sum(float(hit.attrib["width"]) for hit in hits)
    assert widths == pytest.approx(WIDTH - RIGHT - LEFT, abs=0.5)
    assert "<figcaption>A &lt; B" in render(CHART)
    assert '<li class="c1">a&amp;b</li>' in render(CHART)


def test_every_second_phase_has_a_ground() -> None:
    """A verification is no phase of its own."""
    phases = ("a", "verify", "a", "b", "b", "c")
    chart = CHART._replace(seconds=tuple(range(6)), phases=phases, series=(Series("s", (1,) * 6),))
    (band,) = of_class(drawing(render(chart)), "phase")
    step = (WIDTH - RIGHT - LEFT) / 5
    assert float(band.attrib["x"]) == pytest.approx(LEFT + 3 * step, abs=0.1)
    assert float(band.attrib["width"]) == pytest.approx(2 * step, abs=0.1)


@pytest.mark.parametrize("seconds", [(), (1.0,)])
def test_too_few_samples_for_a_line(seconds: tuple[float, ...]) -> None:
    """A remark instead of a picture."""
    chart = Chart("t", "u", seconds, ("p",) * len(seconds), (Series("s", seconds),))
    assert "no samples" in render(chart)
    assert "<svg" not in render(chart)


def test_rates() -> None:
    """Per second since the sample before; never less than nothing."""
    samples = tuple(make_sample(s, freed=n) for s, n in ((0, 0), (2, 10), (3, 30), (4, 20)))
    assert rates(samples, lambda sample: sample.freed) == [5, 5, 20, 0]
    assert rates(samples[:1], lambda sample: sample.freed) == []


def test_time_lines_of_a_run() -> None:
    """Six pictures, with a line for each CPU and lock."""
    charts = time_lines(make_run())
    titles = [re.findall(r"<figcaption>(.*?) <span", chart)[0] for chart in charts]
    assert titles == [
        *("Operations", "Memory", "Lock contention", "Time waited for locks"),
        *("Cross-CPU frees", "Free memory of no use to an order"),
    ]
    operations, memory, waits = (drawing(chart) for chart in charts[:3])
    assert len(of_class(operations, "line")) == 2
    assert len(of_class(memory, "area")) == 4
    says = of_class(operations, "hit")[4].findtext(f"{SVG}title")
    assert says == "2.0 s local\ncpu0: 100\ncpu1: 50"
    says = of_class(memory, "hit")[0].findtext(f"{SVG}title")
    # 16,384 pages are 64 MiB.
    assert says == "0.0 s local\nslabs: 0.25\nin use: 31.3\nin page sets: 0.391\nfree: 32"
    says = of_class(waits, "hit")[2].findtext(f"{SVG}title")
    # 5 by then, 2 half a second before.
    assert says == "1.0 s local\n&zone->lock: 6"
    assert "60.0 s" not in charts[4]
    assert "pages and objects: 10" in charts[4]


def test_many_cpus_are_one_line() -> None:
    """There are not so many colours."""
    samples = tuple(make_sample(s, operations=(int(s),) * 64) for s in range(3))
    run = make_run(timeline=make_run().timeline._replace(samples=samples))
    chart = time_lines(run)[0]
    assert "all 64 CPUs" in chart
    assert len(of_class(drawing(chart), "line")) == 1
