"""Where nodes go: none on another, arrows downwards but for those of cycles, and near their neighbours."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concmem.reports.flows import FLOWS
from concmem.reports.html.layout import (
    GAP,
    Arrow,
    Size,
    _fit,
    assign_layers,
    back_arrows,
    crossings,
    lay_out,
)

SIZE = Size(80, 30)


def check(sizes: dict[str, Size], arrows: list[Arrow]) -> None:
    """What must hold of every layout."""
    layout = lay_out(sizes, arrows, dict.fromkeys(arrows, 20.0))
    assert set(layout.nodes) == set(sizes)
    assert set(layout.arrows) == set(arrows)
    boxes = {
        node: (x - sizes[node].width / 2, y - sizes[node].height / 2, *sizes[node])
        for node, (x, y) in layout.nodes.items()
    }
    for left, top, width, height in boxes.values():
        assert left >= -1e-6
        assert top >= -1e-6
        assert left + width <= layout.width + 1e-6
        assert top + height <= layout.height + 1e-6
    nodes = list(sizes)
    for number, node in enumerate(nodes):
        for other in nodes[number + 1 :]:
            x1, y1, w1, h1 = boxes[node]
            x2, y2, w2, h2 = boxes[other]
            beside = x1 + w1 + GAP <= x2 + 1e-6 or x2 + w2 + GAP <= x1 + 1e-6
            assert beside or y1 + h1 < y2 or y2 + h2 < y1, (node, other)
    back = back_arrows(sizes, arrows)
    for (source, target), points in layout.arrows.items():
        ys = [y for _, y in points]
        assert ys == sorted(ys, reverse=(source, target) in back)
        assert {points[0][0], points[-1][0]} == {layout.nodes[source][0], layout.nodes[target][0]}


@pytest.mark.parametrize("name", FLOWS)
def test_the_flowcharts(name: str) -> None:
    """All five, with nodes of different sizes."""
    flow = FLOWS[name]
    sizes = {letter: Size(40 + 5 * len(label), 30) for letter, label in flow.nodes.items()}
    check(sizes, [(edge.source, edge.target) for edge in flow.edges])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, Size], list[Arrow]]:
    """Any simple graph without loops, cycles and separate parts included."""
    nodes = [f"n{number}" for number in range(draw(st.integers(1, 9)))]
    pairs = [(a, b) for a in nodes for b in nodes if a != b]
    arrows = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=16)) if pairs else []
    once = {frozenset(arrow): arrow for arrow in arrows}  # not both ways
    widths = st.floats(10, 200)
    return {node: Size(draw(widths), draw(widths)) for node in nodes}, list(once.values())


@given(graphs())
def test_any_graph(graph: tuple[dict[str, Size], list[Arrow]]) -> None:
    """The rules hold for charts that nobody has drawn yet."""
    check(*graph)


def test_cycles_are_turned_at_the_arrow_that_closes_them() -> None:
    """Seen from the first node; what only comes together again is no cycle."""
    loop = [("A", "B"), ("B", "C"), ("C", "A")]
    assert back_arrows("ABC", loop) == {("C", "A")}
    assert back_arrows("BCA", loop) == {("A", "B")}
    diamond = [("A", "B"), ("A", "C"), ("B", "D"), ("C", "D")]
    assert back_arrows("ABCD", diamond) == set()


def test_layers_are_by_the_longest_way() -> None:
    """A short cut does not lift its target."""
    layers = assign_layers("ABCD", [("A", "B"), ("B", "C"), ("A", "C")])
    assert layers == {"A": 0, "B": 1, "C": 2, "D": 0}


def test_crossings() -> None:
    """Pairs that cross; those with a common end do not."""
    links = [("a", "x"), ("b", "y"), ("b", "x")]
    assert crossings([["a", "b"], ["x", "y"]], links) == 0
    assert crossings([["a", "b"], ["y", "x"]], links) == 1
    assert crossings([["b", "a"], ["x", "y"]], links) == 1


def test_order_avoids_crossings() -> None:
    """Two chains that begin in the wrong order."""
    sizes = dict.fromkeys("ABXY", SIZE)
    layout = lay_out(sizes, [("A", "Y"), ("B", "X")], {("A", "Y"): 1.0, ("B", "X"): 1.0})
    x = {node: place[0] for node, place in layout.nodes.items()}
    assert (x["A"] < x["B"]) == (x["Y"] < x["X"])


def test_a_chain_is_straight() -> None:
    """One below the other."""
    sizes = dict.fromkeys("ABC", SIZE)
    arrows = [("A", "B"), ("B", "C")]
    layout = lay_out(sizes, arrows, dict.fromkeys(arrows, 1.0))
    assert len({x for x, _ in layout.nodes.values()}) == 1


def test_a_label_has_room() -> None:
    """Where an arrow goes first, nothing is nearer than what is written on it."""
    arrows = [("A", "B"), ("A", "C")]
    layout = lay_out(dict.fromkeys("ABC", SIZE), arrows, dict.fromkeys(arrows, 300.0))
    assert abs(layout.nodes["B"][0] - layout.nodes["C"][0]) >= 300


wishes = st.lists(st.floats(-100, 100), min_size=1, max_size=7)


@given(wishes)
def test_fit_keeps_distances(wanted: list[float]) -> None:
    """Never nearer than the offsets say; what is far enough apart stays where it wants to be."""
    offsets = [10.0 * number for number in range(len(wanted))]
    places = _fit(wanted, offsets)
    assert all(later - earlier >= 10 - 1e-6 for earlier, later in pairwise(places))
    if all(later - earlier >= 10 for earlier, later in pairwise(wanted)):
        assert places == pytest.approx(wanted)


@given(wishes, st.data())
def test_fit_is_the_nearest(wanted: list[float], data: st.DataObject) -> None:
    """No other places that keep the distances are nearer to the wishes, by least squares."""
    offsets = [10.0 * number for number in range(len(wanted))]
    shifts = data.draw(st.lists(st.floats(-100, 100), min_size=len(wanted), max_size=len(wanted)))
    other = [place + offset for place, offset in zip(sorted(shifts), offsets, strict=True)]

    def distance(places: list[float]) -> float:
        return sum((place - wish) ** 2 for place, wish in zip(places, wanted, strict=True))

    assert distance(_fit(wanted, offsets)) <= distance(other) + 1e-6
