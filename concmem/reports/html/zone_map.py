"""A map of each zone at its fullest moment: what its pages were, and its free blocks by order and type."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

from concmem.mm.migratetype import migratetype_name
from concmem.reports.html.draw import box, picture, text
from concmem.reports.html.scale import short
from concmem.reports.words import count, percent, size
from concmem.units import PAGE_SIZE, PAGEBLOCK_NR_PAGES

if TYPE_CHECKING:
    import svg

    from concmem.reports.analysis import ZoneAnalysis

WIDTH: Final = 430
LABEL: Final = 84
ROW: Final = 20
NR_SHADES: Final = 5


def zone_map(zone: ZoneAnalysis) -> str:
    """The zone as HTML."""
    nr_types = len(zone.pageblocks)
    shown = [t for t in range(nr_types) if zone.pageblocks[t] or _free_of(zone, t)]
    elements = [*_use_bar(zone, 0), *_block_bar(zone, 24, shown), *_grid(zone, 56, shown)]
    height = 56 + ROW * (len(shown) + 1) + 4
    drawing = picture(WIDTH, height, elements, f"map of {zone}", "chart zone")
    mixed = "" if zone.mixed is None else f"; at most {zone.mixed} of {zone.mixed_of} blocks mixed"
    return (
        f"<figure><figcaption>{escape(str(zone))} "
        f'<span class="unit">{size(zone.managed * PAGE_SIZE)}, '
        f"{percent(zone.free, zone.managed)} free{mixed}</span></figcaption>{drawing}</figure>"
    )


def _free_of(zone: ZoneAnalysis, migratetype: int) -> int:
    """Free pages of one type."""
    return sum(row[migratetype] << order for order, row in enumerate(zone.free_counts))


def _use_bar(zone: ZoneAnalysis, top: float) -> list[svg.Element]:
    """What all pages of the zone were."""
    used = max(0, zone.managed - zone.free - zone.cached)
    parts = [("in use", used, "c2"), ("in page sets", zone.cached, "c5"), ("free", zone.free, "c3")]
    return [text(LABEL - 6, top + 14, "pages", "tick", "end"), *_bar(parts, top)]


def _block_bar(zone: ZoneAnalysis, top: float, shown: list[int]) -> list[svg.Element]:
    """The types of its page blocks."""
    parts = [
        (f"{migratetype_name(t)} blocks", zone.pageblocks[t] * PAGEBLOCK_NR_PAGES, f"c{t + 1}")
        for t in shown
    ]
    return [text(LABEL - 6, top + 14, "page blocks", "tick", "end"), *_bar(parts, top)]


def _bar(parts: list[tuple[str, int, str]], top: float) -> list[svg.Element]:
    """Pages side by side, in proportion; named where there is room."""
    total = sum(pages for _, pages, _ in parts) or 1
    x = float(LABEL)
    elements: list[svg.Element] = []
    for name, pages, colour in parts:
        width = pages / total * (WIDTH - LABEL)
        words = f"{name}: {count(pages)} pages, {percent(pages, total)}"
        elements.append(box(x, top, width, ROW - 2, f"part {colour}", words))
        word = name.removesuffix(" blocks")
        if width > 7 * len(word):
            elements.append(text(x + width / 2, top + 13, word, "inside", "middle"))
        x += width
    return elements


def _grid(zone: ZoneAnalysis, top: float, shown: list[int]) -> list[svg.Element]:
    """Free blocks: a row for each type, a column for each order."""
    nr_orders = len(zone.free_counts)
    width = (WIDTH - LABEL) / nr_orders
    largest = max((max(row) << order for order, row in enumerate(zone.free_counts)), default=0)
    elements: list[svg.Element] = [text(LABEL - 6, top + 13, "order", "tick", "end")]
    for order in range(nr_orders):
        x = LABEL + width * order
        elements.append(text(x + width / 2, top + 13, str(order), "tick", "middle"))
        for row, migratetype in enumerate(shown):
            blocks = zone.free_counts[order][migratetype]
            y = top + ROW * (row + 1)
            words = (
                f"{migratetype_name(migratetype)}, order {order}: {count(blocks)} free blocks, "
                f"{size(blocks * PAGE_SIZE << order)}"
            )
            shade = _shade(blocks << order, largest)
            elements.append(box(x + 1, y, width - 2, ROW - 2, f"cell s{shade}", words, 2))
            if blocks:
                elements.append(text(x + width / 2, y + 13, short(blocks), f"in{shade}", "middle"))
    for row, migratetype in enumerate(shown):
        y = top + ROW * (row + 1) + 13
        elements.append(text(LABEL - 6, y, migratetype_name(migratetype), "tick", "end"))
    return elements


def _shade(pages: int, largest: int) -> int:
    """0 for none, up to `NR_SHADES` for the most; by the logarithm."""
    if not pages:
        return 0
    share = math.log2(pages + 1) / math.log2(largest + 1)
    return max(1, math.ceil(share * NR_SHADES))
