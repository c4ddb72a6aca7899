"""The slab pages of each cache, as bars: what objects used, and what was lost to what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.reports.html.draw import box, picture, text
from concmem.reports.words import percent, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    import svg

    from concmem.reports.analysis import CacheAnalysis

WIDTH: Final = 430
LABEL: Final = 150
ROW: Final = 18
MAX_CACHES: Final = 36
PER_PICTURE: Final = 12

PARTS: Final = ("used by objects", "free objects", "padding", "tails of slabs")


def cache_bars(caches: Sequence[CacheAnalysis]) -> list[str]:
    """The largest caches, one below the other, in one picture or more, all in the same measure."""
    shown = caches[:MAX_CACHES]
    largest = max((cache.total for cache in shown), default=0)
    return [
        _picture(shown[first : first + PER_PICTURE], first, largest)
        for first in range(0, len(shown), PER_PICTURE)
    ]


def _picture(caches: Sequence[CacheAnalysis], first: int, largest: int) -> str:
    elements: list[svg.Element] = []
    for row, cache in enumerate(caches):
        elements += _bar(cache, row * ROW, largest)
    drawing = picture(WIDTH, ROW * len(caches) + 2, elements, "slab pages of each cache")
    legend = "".join(f'<li class="c{n}">{name}</li>' for n, name in enumerate(PARTS, 1))
    which = f"caches {first + 1} to {first + len(caches)}, each when it had most"
    return (
        f'<figure><figcaption>Slab pages <span class="unit">{which}</span></figcaption>{drawing}'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _bar(cache: CacheAnalysis, top: float, largest: int) -> list[svg.Element]:
    used = cache.total - cache.wasted
    sizes = (max(0, used), cache.free_bytes, cache.padding_bytes, cache.tail_bytes)
    name = cache.name if len(cache.name) <= 22 else f"{cache.name[:21]}…"
    elements: list[svg.Element] = [text(LABEL - 6, top + 12, name, "tick", "end")]
    x = float(LABEL)
    room = WIDTH - LABEL - 46
    for number, (part, nr_bytes) in enumerate(zip(PARTS, sizes, strict=True), 1):
        width = nr_bytes / largest * room if largest else 0.0
        words = f"{cache.name}: {size(nr_bytes)} {part}, {percent(nr_bytes, cache.total)}"
        if width:
            elements.append(box(x, top + 2, width, ROW - 5, f"part c{number}", words))
        x += width
    elements.append(text(x + 4, top + 12, size(cache.total), "tick"))
    return elements
