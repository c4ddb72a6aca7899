"""
Where the nodes of a flowchart go: layers from top to bottom, as Sugiyama, Tagawa and Toda do it.

Arrows that lead back are turned round for that; long ones get a bend in each layer that they pass. The order
within layers is improved by barycentres, and places by isotonic regression: each layer comes as near as it can
to its neighbours without two of its nodes being too near to each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

Arrow = tuple[str, str]
Point = tuple[float, float]

GAP: Final = 22.0
"""Pixels between two nodes of a layer."""
BEND_WIDTH: Final = 10.0
LAYER_GAP: Final = 48.0
"""Pixels between two layers, where labels of arrows are."""
SWEEPS: Final = 12


class Size(NamedTuple):
    """Of a node, pixels."""

    width: float
    height: float


class Layout(NamedTuple):
    """Places, pixels from the upper left corner."""

    width: float
    height: float
    nodes: Mapping[str, Point]
    """The centre of each node."""
    arrows: Mapping[Arrow, Sequence[Point]]
    """From the edge of the source through all bends to the edge of the target."""


def lay_out(
    sizes: Mapping[str, Size], arrows: Sequence[Arrow], labels: Mapping[Arrow, float]
) -> Layout:
    """
    Places for all nodes of *sizes* and for *arrows* between them.

    Args:
        labels: the width of what is written on each arrow: where it goes first there is so much room.
    """
    turned = back_arrows(sizes, arrows)
    forward = [(b, a) if (a, b) in turned else (a, b) for a, b in arrows]
    layer_of = assign_layers(sizes, forward)
    layers, chains = _with_bends(layer_of, forward)
    links = [link for chain in chains for link in pairwise(chain)]
    _order(layers, links)
    widths = {node: BEND_WIDTH for layer in layers for node in layer}
    widths |= {node: size.width for node, size in sizes.items()}
    for arrow, chain in zip(arrows, chains, strict=True):
        beside = chain[-2 if arrow in turned else 1]  # the first stop on the way
        widths[beside] = max(widths[beside], labels[arrow])
    x = _place(layers, links, widths)
    heights = [max(sizes[n].height for n in layer if n in sizes) for layer in layers]
    middles, y = [], 0.0
    for height in heights:
        middles.append(y + height / 2)
        y += height + LAYER_GAP
    centre = {
        node: (x[node], middles[level]) for level, layer in enumerate(layers) for node in layer
    }
    points = {}
    for arrow, chain in zip(arrows, chains, strict=True):
        ends = _ends([centre[node] for node in chain], sizes[chain[0]], sizes[chain[-1]])
        points[arrow] = ends[::-1] if arrow in turned else ends
    width = max(x[node] + widths[node] / 2 for node in x)
    return Layout(width, y - LAYER_GAP, {node: centre[node] for node in sizes}, points)


def back_arrows(nodes: Iterable[str], arrows: Sequence[Arrow]) -> set[Arrow]:
    """Arrows that close a cycle, seen from the first nodes on."""
    after = defaultdict(list)
    for source, target in arrows:
        after[source].append(target)
    found: set[Arrow] = set()
    done: set[str] = set()
    above: list[str] = []

    def visit(node: str) -> None:
        above.append(node)
        for target in after[node]:
            if target in above:
                found.add((node, target))
            elif target not in done:
                visit(target)
        above.pop()
        done.add(node)

    for node in nodes:
        if node not in done:
            visit(node)
    return found


def assign_layers(nodes: Iterable[str], arrows: Sequence[Arrow]) -> dict[str, int]:
    """As high as the longest way to each node lets it be; *arrows* make no cycle."""
    before = defaultdict(list)
    for source, target in arrows:
        before[target].append(source)
    layers: dict[str, int] = {}

    def layer(node: str) -> int:
        if node not in layers:
            layers[node] = max((layer(source) + 1 for source in before[node]), default=0)
        return layers[node]

    return {node: layer(node) for node in nodes}


def _with_bends(
    layer_of: Mapping[str, int], arrows: Sequence[Arrow]
) -> tuple[list[list[str]], list[list[str]]]:
    """The nodes of each layer, bends included, and the nodes that each arrow goes through."""
    layers: list[list[str]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for node, level in layer_of.items():
        layers[level].append(node)
    chains = []
    for source, target in arrows:
        bends = []
        for level in range(layer_of[source] + 1, layer_of[target]):
            bend = f"{source}>{target}@{level}"
            layers[level].append(bend)
            bends.append(bend)
        chains.append([source, *bends, target])
    return layers, chains


# -- order within layers


def _order(layers: list[list[str]], links: Sequence[Arrow]) -> None:
    """Sort each layer by the mean place of its neighbours, down and up, and keep the best."""
    best = [list(layer) for layer in layers]
    fewest = crossings(layers, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = defaultdict(list)
        for upper, lower in links:
            neighbours[lower if down else upper].append(upper if down else lower)
        levels = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for level in levels:
            beside = layers[level - 1 if down else level + 1]
            layers[level] = _by_mean(layers[level], beside, neighbours)
        nr = crossings(layers, links)
        if nr < fewest:
            fewest, best = nr, [list(layer) for layer in layers]
    layers[:] = best


def _by_mean(
    layer: Sequence[str], beside: Sequence[str], neighbours: Mapping[str, Sequence[str]]
) -> list[str]:
    """*layer* by the mean place of each node's neighbours; who has none stays about where it is."""
    place = {node: index for index, node in enumerate(beside)}

    def mean(item: tuple[int, str]) -> float:
        places = [place[other] for other in neighbours.get(item[1], ())]
        return sum(places) / len(places) if places else item[0]

    return [node for _, node in sorted(enumerate(layer), key=mean)]


def crossings(layers: Sequence[Sequence[str]], links: Sequence[Arrow]) -> int:
    """Pairs of links between the same two layers that cross."""
    place = {node: (level, n) for level, layer in enumerate(layers) for n, node in enumerate(layer)}
    by_level = defaultdict(list)
    for upper, lower in links:
        by_level[place[upper][0]].append((place[upper][1], place[lower][1]))
    return sum(
        (a - c) * (b - d) < 0
        for pairs in by_level.values()
        for n, (a, b) in enumerate(pairs)
        for c, d in pairs[n + 1 :]
    )


# -- places


def _place(
    layers: Sequence[Sequence[str]], links: Sequence[Arrow], widths: Mapping[str, float]
) -> dict[str, float]:
    """The middle of each node, from the left edge of the whole."""
    x: dict[str, float] = {}
    for layer in layers:
        x.update(zip(layer, _offsets(layer, widths), strict=True))
    above, below = defaultdict(list), defaultdict(list)
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    for sweep in range(2 * SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else reversed(layers):
            wanted = []
            for node in layer:
                others = (above if down else below)[node] or (below if down else above)[node]
                wanted.append(sum(x[n] for n in others) / len(others) if others else x[node])
            x.update(zip(layer, _fit(wanted, _offsets(layer, widths)), strict=True))
    left = min(x[node] - widths[node] / 2 for node in x)
    return {node: value - left for node, value in x.items()}


def _offsets(layer: Sequence[str], widths: Mapping[str, float]) -> list[float]:
    """Places of a layer's nodes when they stand as near to each other as they may."""
    offsets, right = [], 0.0
    for node in layer:
        offsets.append(right + widths[node] / 2)
        right += widths[node] + GAP
    return offsets


def _fit(wanted: Sequence[float], offsets: Sequence[float]) -> list[float]:
    """
    The places nearest to *wanted* (least squares) that are at least as far apart as *offsets*.

    Pool adjacent violators: what stands too near becomes one group, at the mean of its wishes.
    """
    groups: list[tuple[float, int]] = []  # sum of wishes, number
    for wish, offset in zip(wanted, offsets, strict=True):
        total, nr = wish - offset, 1
        while groups and groups[-1][0] / groups[-1][1] > total / nr:
            before, nr_before = groups.pop()
            total, nr = total + before, nr + nr_before
        groups.append((total, nr))
    places = [total / nr for total, nr in groups for _ in range(nr)]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]


def _ends(points: list[Point], source: Size, target: Size) -> list[Point]:
    """The same way, from the lower edge of its first node to the upper edge of its last."""
    (x1, y1), (x2, y2) = points[0], points[-1]
    return [(x1, y1 + source.height / 2), *points[1:-1], (x2, y2 - target.height / 2)]
