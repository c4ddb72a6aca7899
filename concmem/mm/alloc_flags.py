"""How one allocation treats watermarks (``ALLOC_*`` of ``mm/internal.h``), derived from its GFP."""

from __future__ import annotations

from typing import Final

from concmem.mm import gfp as gfp_flags
from concmem.mm.migratetype import MOVABLE, gfp_migratetype

WMARK_MIN: Final = 0
WMARK_LOW: Final = 1
WMARK_HIGH: Final = 2

ALLOC_WMARK_MASK: Final = 0x03
ALLOC_NO_WATERMARKS: Final = 0x04
ALLOC_OOM: Final = 0x08
ALLOC_NON_BLOCK: Final = 0x10
ALLOC_MIN_RESERVE: Final = 0x20
ALLOC_CPUSET: Final = 0x40
ALLOC_CMA: Final = 0x80
ALLOC_NOFRAGMENT: Final = 0x100
ALLOC_HIGHATOMIC: Final = 0x200
ALLOC_KSWAPD: Final = 0x800

ALLOC_RESERVES: Final = 0x38
"""Allocations that may go below the min watermark: OOM | NON_BLOCK | MIN_RESERVE."""


def gfp_to_alloc_flags(gfp: int, order: int) -> int:
    """Flags of the slow path (``gfp_to_alloc_flags``)."""
    flags = WMARK_MIN | ALLOC_CPUSET
    if gfp & gfp_flags.HIGH:
        flags |= ALLOC_MIN_RESERVE
    if gfp & gfp_flags.KSWAPD_RECLAIM:
        flags |= ALLOC_KSWAPD
    if not gfp & gfp_flags.DIRECT_RECLAIM:
        if not gfp & gfp_flags.NOMEMALLOC:
            flags |= ALLOC_NON_BLOCK
            if order > 0 and flags & ALLOC_MIN_RESERVE:
                flags |= ALLOC_HIGHATOMIC
        if flags & ALLOC_MIN_RESERVE:
            flags &= ~ALLOC_CPUSET
    return gfp_to_alloc_flags_cma(gfp, flags)


def gfp_to_alloc_flags_cma(gfp: int, flags: int) -> int:
    """Movable allocations may use CMA page blocks."""
    return flags | ALLOC_CMA if gfp_migratetype(gfp) == MOVABLE else flags
