"""Flags of a cache, with the bit values that Linux had up to 6.8 (``include/linux/slab.h``)."""

from __future__ import annotations

from typing import Final

SLAB_HWCACHE_ALIGN: Final = 0x0000_2000
"""Align objects to cache lines, or to the fraction of one that they fit."""
SLAB_CACHE_DMA: Final = 0x0000_4000
SLAB_CACHE_DMA32: Final = 0x0000_8000
SLAB_RECLAIM_ACCOUNT: Final = 0x0002_0000
"""A shrinker can free the objects: pages are reclaimable and counted so."""
SLAB_PANIC: Final = 0x0004_0000
"""Creation must not fail. It does not here, so this says nothing."""
SLAB_TYPESAFE_BY_RCU: Final = 0x0008_0000
"""Slabs go back to the buddy system only after a grace period: memory keeps its type for readers."""
SLAB_NO_MERGE: Final = 0x0100_0000
"""Never merge the cache with another."""
SLAB_ACCOUNT: Final = 0x0400_0000
"""
Objects are charged to the control group, which is not modelled: the flag keeps caches apart, and their
objects can have tags (:mod:`concmem.mm.slab_obj_ext`).
"""

FLAG_NAMES: Final = {
    SLAB_HWCACHE_ALIGN: "SLAB_HWCACHE_ALIGN",
    SLAB_CACHE_DMA: "SLAB_CACHE_DMA",
    SLAB_CACHE_DMA32: "SLAB_CACHE_DMA32",
    SLAB_RECLAIM_ACCOUNT: "SLAB_RECLAIM_ACCOUNT",
    SLAB_PANIC: "SLAB_PANIC",
    SLAB_TYPESAFE_BY_RCU: "SLAB_TYPESAFE_BY_RCU",
    SLAB_NO_MERGE: "SLAB_NO_MERGE",
    SLAB_ACCOUNT: "SLAB_ACCOUNT",
}

ALL_FLAGS: Final = 0x050E_E000

SLAB_NEVER_MERGE: Final = SLAB_TYPESAFE_BY_RCU | SLAB_NO_MERGE
SLAB_MERGE_SAME: Final = SLAB_RECLAIM_ACCOUNT | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_ACCOUNT
"""Flags in which two caches must agree to be merged."""
