"""
A quick way to read events that look exactly as today's kernels print them: the bulk of every trace.

One match of a pattern instead of a dictionary of words. What looks different in any way (other order
of values, blanks in a name, a failed allocation, a value that cannot be) takes the long way in
:mod:`concmem.traces.kmem`, which gives the same events, and the reasons where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from concmem.mm.gfp import GfpFlags
from concmem.traces.events import KmemEvent, PageAlloc, PageFree, SlabAlloc, SlabFree
from concmem.traces.ftrace import RawEvent

known_gfp: dict[str, GfpFlags] = {}
"""
What GFP texts mean; filled by the long way, and only ever grows. A trace has a few dozen.
"""

# Values are printable ASCII, so that they hold no blank that only the long way knows as one.
_POINTER: Final = r"(?:0x)?([0-9a-f]{1,16})"
_NAME: Final = r"(?: name=([!-<>-~]+))?"
_SLAB_ALLOC: Final = re.compile(
    rf" *call_site=([!-~]+) ptr={_POINTER}{_NAME} bytes_req=([0-9]{{1,19}}) "
    r"bytes_alloc=([0-9]{1,19}) gfp_flags=([!-~]+)(?: node=(-1|[0-9]{1,9}))?"
    r"(?: accounted=(?:true|false))?"
)
_SLAB_FREE: Final = re.compile(rf" *call_site=([!-~]+) ptr={_POINTER}{_NAME}")
_PAGE_ALLOC: Final = re.compile(
    rf" *page={_POINTER} pfn=0x([0-9a-f]{{1,13}}) order=([0-9]) migratetype=([0-9]) "
    r"gfp_flags=([!-~]+)"
)
_PAGE_FREE: Final = re.compile(rf" *page={_POINTER} pfn=0x([0-9a-f]{{1,13}}) order=([0-9])")

# tuple.__new__ makes a named tuple in half the time that calling its class takes. Raw events are
# indexed, which is quicker too: 0 line, 3 cpu, 5 name, 6 args.
_new: Final = tuple.__new__


def _slab_alloc(event: RawEvent) -> SlabAlloc | None:
    match = _SLAB_ALLOC.fullmatch(event[6])
    if match is None:
        return None
    call_site, ptr, name, bytes_req, bytes_alloc, flags, node = match.groups()
    gfp = known_gfp.get(flags)
    if gfp is None:
        return None
    return _new(
        SlabAlloc,
        (
            event[3],
            int(ptr, 16),
            name or "",
            int(bytes_req),
            int(bytes_alloc),
            gfp,
            -1 if node is None else int(node),
            call_site,
            event[0],
            event[5],
        ),
    )


def _slab_free(event: RawEvent) -> SlabFree | None:
    match = _SLAB_FREE.fullmatch(event[6])
    if match is None:
        return None
    call_site, ptr, name = match.groups()
    return _new(SlabFree, (event[3], int(ptr, 16), name or "", call_site, event[0], event[5]))


def _page_alloc(event: RawEvent) -> PageAlloc | None:
    match = _PAGE_ALLOC.fullmatch(event[6])
    if match is None:
        return None
    page, number, digit, migratetype, flags = match.groups()
    pfn, order, gfp = int(number, 16), int(digit), known_gfp.get(flags)
    if gfp is None or pfn & ((1 << order) - 1) or not int(page, 16):
        return None
    return _new(PageAlloc, (event[3], pfn, order, int(migratetype), gfp, event[0]))


def _page_free(event: RawEvent) -> PageFree | None:
    match = _PAGE_FREE.fullmatch(event[6])
    if match is None:
        return None
    _, number, digit = match.groups()
    pfn, order = int(number, 16), int(digit)
    if pfn & ((1 << order) - 1):
        return None
    return _new(PageFree, (event[3], pfn, order, event[0], False))


def _page_free_batched(event: RawEvent) -> PageFree | None:
    match = _PAGE_FREE.fullmatch(event[6])
    if match is None:
        return None
    return _new(PageFree, (event[3], int(match[2], 16), 0, event[0], True))


PLAIN: Final[dict[str, Callable[[RawEvent], KmemEvent | None]]] = {
    "kmalloc": _slab_alloc,
    "kmem_cache_alloc": _slab_alloc,
    "kfree": _slab_free,
    "kmem_cache_free": _slab_free,
    "mm_page_alloc": _page_alloc,
    "mm_page_free": _page_free,
    "mm_page_free_batched": _page_free_batched,
}
"""By event name: the typed event, or ``None`` for the long way."""
