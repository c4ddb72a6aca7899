"""
How objects lie in slabs: sizes, alignment, order, limits. Pure functions.

Follows ``calculate_sizes``, ``calculate_order`` and ``set_cpu_partial`` of ``mm/slub.c`` and
``calculate_alignment`` of ``mm/slab_common.c``, Linux 6.12. Colours are those of the older SLAB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from concmem.mm.slab_flags import (
    SLAB_DEBUG_FLAGS,
    SLAB_HWCACHE_ALIGN,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.units import MAX_PAGE_ORDER, PAGE_SIZE

CACHE_LINE: Final = 64
"""Bytes (``cache_line_size()``)."""
WORD: Final = 8
"""Bytes of a pointer; also the least alignment."""
SLUB_MAX_ORDER: Final = 3
"""``slub_max_order`` (PAGE_ALLOC_COSTLY_ORDER)."""
MAX_OBJS_PER_PAGE: Final = 32767
"""``objects`` has 15 bits."""
TRACK_SIZE: Final = 32
"""Bytes of a ``struct track``: who allocated, or freed, an object."""
ORIG_SIZE_SIZE: Final = 4
"""Bytes of the size that ``kmalloc`` was asked for."""
MIN_PARTIAL: Final = 5
MAX_PARTIAL: Final = 10


class Geometry(NamedTuple):
    """Where everything is, bytes unless named otherwise."""

    align: int
    inuse: int
    """Offset of the metadata: the object, rounded up to a word, and its red zone if it has one."""
    offset: int
    """Of the free pointer in a free object."""
    size: int
    """From one object to the next."""
    order: int
    """Of a slab's pages."""
    objects: int
    """In a slab of that order."""
    min_order: int
    """The smallest order that holds one object: the fallback."""
    min_objects: int
    colour: int
    """Number of colours."""
    colour_off: int
    """Bytes from one colour to the next."""
    min_partial: int
    """Empty slabs that a node keeps, at most."""
    cpu_partial: int
    """Objects that a CPU partial list should hold."""
    cpu_partial_slabs: int
    """Slabs on a CPU partial list that make it full."""
    red_left_pad: int
    """Bytes of the red zone before each object, the first one included."""


def align_up(value: int, align: int) -> int:
    """*value* rounded up to a multiple of *align*, a power of two."""
    return -(-value // align) * align


def get_order(size: int) -> int:
    """The order whose pages hold *size* bytes."""
    return max(0, (-(-size // PAGE_SIZE) - 1).bit_length())


def calculate_alignment(flags: int, align: int, size: int) -> int:
    """The alignment of objects, a power of two of at least a word."""
    if flags & SLAB_HWCACHE_ALIGN:
        line = CACHE_LINE
        while size <= line // 2:
            line //= 2
        align = max(align, line)
    return max(align, WORD)


def calculate_order(size: int, nr_cpus: int) -> int | None:
    """
    The order of a slab that wastes little and holds enough objects for *nr_cpus*.

    ``None``: an object is larger than the largest block.
    """
    # fls(n), the position of the highest bit set, is what Python calls bit_length.
    max_objects = max((PAGE_SIZE << SLUB_MAX_ORDER) // size, 1)
    min_objects = min(4 * (nr_cpus.bit_length() + 1), max_objects)
    min_order = get_order(min_objects * size)
    if (PAGE_SIZE << min_order) // size > MAX_OBJS_PER_PAGE:
        return get_order(size * MAX_OBJS_PER_PAGE) - 1
    for fraction in (16, 8, 4, 2):
        for order in range(min_order, SLUB_MAX_ORDER + 1):
            slab = PAGE_SIZE << order
            if slab % size <= slab // fraction:
                return order
    order = get_order(size)
    return order if order <= MAX_PAGE_ORDER else None


def calculate_cpu_partial(size: int) -> int:
    """Objects that a CPU partial list should hold."""
    if size >= PAGE_SIZE:
        return 6
    if size >= 1024:
        return 24
    return 52 if size >= 256 else 120


_REDZONES: Final = ((64, 16), (128, 32), (512, 64), (4096, 128), (16384, 256), (32768, 512))


def optimal_redzone(object_size: int) -> int:
    """Bytes after an object that nobody uses on a checked machine, of KASAN's choice."""
    for limit, redzone in _REDZONES:
        if object_size <= limit - redzone:
            return redzone
    return 1024 if object_size <= 65536 - 1024 else 2048


class _Sizes(NamedTuple):
    """``calculate_sizes``."""

    inuse: int
    offset: int
    size: int
    red_left_pad: int


def _calculate_sizes(
    object_size: int, align: int, flags: int, has_ctor: bool, is_kmalloc: bool, kasan: bool
) -> _Sizes:
    """One object and what is around it, as `ObjectLayout` describes it."""
    inuse = align_up(object_size, WORD)
    if flags & SLAB_RED_ZONE and inuse == object_size:
        inuse += WORD  # room for a red zone
    keeps_request = is_kmalloc and flags & SLAB_STORE_USER
    if (
        has_ctor
        or flags & (SLAB_TYPESAFE_BY_RCU | SLAB_POISON)
        or (flags & SLAB_RED_ZONE and (object_size < WORD or keeps_request))
    ):
        # What a constructor, a reader or the poison left in a free object must stay.
        offset, size = inuse, inuse + WORD
    else:
        # In the middle, away from overflows of neighbours.
        offset, size = object_size // 2 // WORD * WORD, inuse
    if flags & SLAB_STORE_USER:
        size += 2 * TRACK_SIZE
        if is_kmalloc:
            size += ORIG_SIZE_SIZE
    if kasan:
        size = max(size, object_size + optimal_redzone(object_size))
    red_left_pad = 0
    if flags & SLAB_RED_ZONE:
        # Padding, so that what is written before the next object does not hit what is kept here.
        red_left_pad = align_up(WORD, align)
        size += WORD + red_left_pad
    return _Sizes(inuse, offset, align_up(size, align), red_left_pad)


@lru_cache(maxsize=1024)  # a machine makes 52 caches when it boots, always the same
def calculate_geometry(
    object_size: int,
    align: int,
    flags: int,
    has_ctor: bool,
    nr_cpus: int,
    is_kmalloc: bool = False,
    kasan: bool = False,
) -> Geometry | None:
    """
    Lay out a cache. Arguments are checked already.

    Args:
        is_kmalloc: a size class of `kmalloc`: debugging keeps what was asked for.
        kasan: leave unused bytes between objects.

    Returns:
        ``None`` when an object is larger than the largest block.
    """
    align = calculate_alignment(flags, align, object_size)
    sizes = _calculate_sizes(object_size, align, flags, has_ctor, is_kmalloc, kasan)
    size = sizes.size
    order = calculate_order(size, nr_cpus)
    if order is None:
        return None
    slab = PAGE_SIZE << order
    objects = slab // size
    colour_off = max(CACHE_LINE, align)
    debug = flags & SLAB_DEBUG_FLAGS
    # A debug cache has no CPU slabs; and what is left of a slab is checked, at its end.
    cpu_partial = 0 if debug else calculate_cpu_partial(size)
    return Geometry(
        align=align,
        inuse=sizes.inuse,
        offset=sizes.offset,
        size=size,
        order=order,
        objects=objects,
        min_order=get_order(size),
        min_objects=(PAGE_SIZE << get_order(size)) // size,
        colour=0 if debug else slab % size // colour_off,
        colour_off=colour_off,
        min_partial=min(max((size.bit_length() - 1) // 2, MIN_PARTIAL), MAX_PARTIAL),
        cpu_partial=cpu_partial,
        cpu_partial_slabs=-(-2 * cpu_partial // objects),
        red_left_pad=sizes.red_left_pad,
    )
