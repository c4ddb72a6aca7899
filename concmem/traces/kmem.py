"""
From lines to typed events (:mod:`concmem.traces.events`).

Follows ``include/trace/events/kmem.h``. Old names are read as today's: ``mm_page_free_direct``
and ``mm_pagevec_free`` (before Linux 3.3), ``kmalloc_node`` and ``kmem_cache_alloc_node`` (before
Linux 6.1).

Numbers are read as the kernel prints them: ``%p`` and ``%lx`` in hexadecimal with or without
``0x``; a page frame number in decimal unless it has ``0x``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

from concmem.errors import BadArgument
from concmem.mm.gfp import GfpFlags, check_gfp, parse_gfp_flags
from concmem.traces.events import (
    Informational,
    KmemEvent,
    PageAlloc,
    PageFree,
    SlabAlloc,
    SlabFree,
)
from concmem.traces.ftrace import KMEM_EVENTS, OnMalformed, RawEvent, parse_fields
from concmem.traces.plain import PLAIN, known_gfp
from concmem.traces.source import printable

_NULL: Final = frozenset({"(nil)", "(null)", "NULL"})
_HIDDEN: Final = frozenset({"(____ptrval____)", "____ptrval____", "(ptrval)"})
_MAX_ORDER: Final = 30  # of the traced kernel, whatever its configuration; ours is no limit here
_ORDERS: Final = {str(order): order for order in range(_MAX_ORDER + 1)}
_MIGRATETYPES: Final = {str(number): number for number in range(10)}
_MAX_PFN: Final = 1 << 52

# Flags of other kernels that the model has not: they change checks, hints or accounting of the
# traced kernel, never which page is allocated. Some debug flags have a third underscore.
_FLAGS_WITHOUT_EFFECT: Final = frozenset(
    {
        "__GFP_ATOMIC",
        "__GFP_COLD",
        "__GFP_NOLOCKDEP",
        "__GFP_NOTRACK",
        "__GFP_NO_OBJ_EXT",
        "__GFP_OTHER_NODE",
        "__GFP_SKIP_KASAN",
        "__GFP_SKIP_KASAN_POISON",
        "__GFP_SKIP_KASAN_UNPOISON",
        "__GFP_SKIP_ZERO",
    }
)


class _Malformed(Exception):
    """A value that cannot be; the message names it."""


def typed_events(
    events: Iterable[RawEvent],
    *,
    on_malformed: OnMalformed | None = None,
    unknown: Counter[str] | None = None,
) -> Iterator[KmemEvent]:
    """
    Turn *events* into typed ones, in the same order.

    An event whose values cannot be is given to *on_malformed* and skipped. Events that are no
    ``kmem`` event are counted by name in *unknown* and skipped.
    """
    for event in events:
        name = event.name
        plain = PLAIN.get(name)
        if plain is not None and (quick := plain(event)) is not None:
            yield quick
            continue
        convert = _CONVERTERS.get(name)
        if convert is None:
            if name in KMEM_EVENTS:
                yield Informational(event.cpu, event.line, name)
            elif unknown is not None:
                unknown[name] += 1
            continue
        fields, loose = parse_fields(event.args)
        try:
            if loose:
                raise _Malformed(f"{_short(loose)!r} is no key=value")
            typed = convert(event, fields)
        except KeyError as error:
            reason = f"{name}: no value for {error.args[0]}"
        except _Malformed as error:
            reason = f"{name}: {error}"
        else:
            yield typed
            continue
        if on_malformed is not None:
            on_malformed(event.line, printable(event.text), printable(reason))


def _page_alloc(event: RawEvent, fields: dict[str, str]) -> PageAlloc:
    order = _look_up(_ORDERS, "order", fields)
    migratetype = _look_up(_MIGRATETYPES, "migratetype", fields)
    gfp = _gfp(fields["gfp_flags"])
    pfn: int | None
    if (page := fields.get("page")) is not None and _pointer("page", page) == 0:
        pfn = None  # whatever its pfn says: old kernels computed one from the null pointer
    else:
        pfn = _pfn(fields["pfn"], order)
        if page is None and pfn == 0:
            pfn = None
    return PageAlloc(event.cpu, pfn, order, migratetype, gfp, event.line)


def _page_free(event: RawEvent, fields: dict[str, str]) -> PageFree:
    order = _look_up(_ORDERS, "order", fields)
    return PageFree(event.cpu, _pfn(fields["pfn"], order), order, event.line, False)


def _page_free_batched(event: RawEvent, fields: dict[str, str]) -> PageFree:
    # mm_page_free_batched prints "order=0" always, and mm_pagevec_free had no order.
    if "order" in fields:
        _look_up(_ORDERS, "order", fields)
    return PageFree(event.cpu, _pfn(fields["pfn"], 0), 0, event.line, True)


def _slab_alloc(event: RawEvent, fields: dict[str, str]) -> SlabAlloc:
    return SlabAlloc(
        event.cpu,
        _pointer("ptr", fields["ptr"]),
        fields.get("name", ""),
        _number("bytes_req", fields["bytes_req"]),
        _number("bytes_alloc", fields["bytes_alloc"]),
        _gfp(fields["gfp_flags"]),
        -1 if (node := fields.get("node", "-1")) == "-1" else _number("node", node),
        fields["call_site"],
        event.line,
        event.name,
    )


def _slab_free(event: RawEvent, fields: dict[str, str]) -> SlabFree:
    return SlabFree(
        event.cpu,
        _pointer("ptr", fields["ptr"]),
        fields.get("name", ""),
        fields["call_site"],
        event.line,
        event.name,
    )


_Converter: TypeAlias = Callable[[RawEvent, dict[str, str]], KmemEvent]
_CONVERTERS: Final[dict[str, _Converter]] = {
    "mm_page_alloc": _page_alloc,
    "mm_page_free": _page_free,
    "mm_page_free_direct": _page_free,
    "mm_page_free_batched": _page_free_batched,
    "mm_pagevec_free": _page_free_batched,
    "kmalloc": _slab_alloc,
    "kmalloc_node": _slab_alloc,
    "kmem_cache_alloc": _slab_alloc,
    "kmem_cache_alloc_node": _slab_alloc,
    "kfree": _slab_free,
    "kmem_cache_free": _slab_free,
}


def _look_up(table: dict[str, int], key: str, fields: dict[str, str]) -> int:
    number = table.get(fields[key])
    if number is None:
        raise _Malformed(f"{key}={_short(fields[key])} cannot be")
    return number


def _number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise _Malformed(f"{key}={_short(text)} is no number")
    return int(text)


def _hexadecimal(key: str, text: str) -> int:
    try:
        if len(text) > 18 or "_" in text or text[:1] in "+-":
            raise ValueError
        return int(text, 16)
    except ValueError:
        raise _Malformed(f"{key}={_short(text)} is no number") from None


def _pointer(key: str, text: str) -> int | None:
    if text in _HIDDEN:
        return None
    return 0 if text in _NULL else _hexadecimal(key, text)


def _pfn(text: str, order: int) -> int:
    pfn = _hexadecimal("pfn", text) if text[:2] in ("0x", "0X") else _number("pfn", text)
    if pfn >= _MAX_PFN:
        raise _Malformed(f"pfn={_short(text)} is out of range")
    if pfn & ((1 << order) - 1):
        raise _Malformed(f"pfn={text} is not aligned to order {order}")
    return pfn


def _gfp(text: str) -> GfpFlags:
    gfp = known_gfp.get(text)
    if gfp is None:
        gfp = known_gfp[text] = _parse_gfp(text)
    return gfp


def _parse_gfp(text: str) -> GfpFlags:
    names = [name.replace("___GFP", "__GFP") for name in text.split("|")]
    try:
        gfp = parse_gfp_flags(
            "|".join(name for name in names if name not in _FLAGS_WITHOUT_EFFECT) or "none"
        )
        check_gfp(gfp)
    except BadArgument as error:
        raise _Malformed(f"gfp_flags={_short(text)}: {error}") from None
    return gfp


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
