"""Flags of a cache, with the bit values that Linux had up to 6.8 (``include/linux/slab.h``)."""

from __future__ import annotations

from typing import Final

SLAB_CONSISTENCY_CHECKS: Final = 0x0000_0100
"""Debugging: check slabs, objects and free lists at each allocation and free."""
SLAB_RED_ZONE: Final = 0x0000_0400
"""Debugging: bytes before and after each object that nobody may write to."""
SLAB_POISON: Final = 0x0000_0800
"""Debugging: free objects, padding and the rest of a slab are filled with known bytes."""
SLAB_HWCACHE_ALIGN: Final = 0x0000_2000
"""Align objects to cache lines, or to the fraction of one that they fit."""
SLAB_CACHE_DMA: Final = 0x0000_4000
SLAB_CACHE_DMA32: Final = 0x0000_8000
SLAB_STORE_USER: Final = 0x0001_0000
"""Debugging: who allocated an object last, and who freed it."""
SLAB_RECLAIM_ACCOUNT: Final = 0x0002_0000
"""A shrinker can free the objects: pages are reclaimable and counted so."""
SLAB_PANIC: Final = 0x0004_0000
"""Creation must not fail. It does not here, so this says nothing."""
SLAB_TYPESAFE_BY_RCU: Final = 0x0008_0000
"""Slabs go back to the buddy system only after a grace period: memory keeps its type for readers."""
SLAB_TRACE: Final = 0x0020_0000
"""Debugging: log each allocation and free."""
SLAB_NOLEAKTRACE: Final = 0x0080_0000
"""The leak detector does not look after the objects: they are its own."""
SLAB_NO_MERGE: Final = 0x0100_0000
"""Never merge the cache with another."""
SLAB_FAILSLAB: Final = 0x0200_0000
"""Fault injection may fail allocations, if it is told to fail those of such caches only."""
SLAB_ACCOUNT: Final = 0x0400_0000
"""Objects are charged to the control group (which is not modelled: the flag keeps caches apart)."""

FLAG_NAMES: Final = {
    SLAB_CONSISTENCY_CHECKS: "SLAB_CONSISTENCY_CHECKS",
    SLAB_RED_ZONE: "SLAB_RED_ZONE",
    SLAB_POISON: "SLAB_POISON",
    SLAB_HWCACHE_ALIGN: "SLAB_HWCACHE_ALIGN",
    SLAB_CACHE_DMA: "SLAB_CACHE_DMA",
    SLAB_CACHE_DMA32: "SLAB_CACHE_DMA32",
    SLAB_STORE_USER: "SLAB_STORE_USER",
    SLAB_RECLAIM_ACCOUNT: "SLAB_RECLAIM_ACCOUNT",
    SLAB_PANIC: "SLAB_PANIC",
    SLAB_TYPESAFE_BY_RCU: "SLAB_TYPESAFE_BY_RCU",
    SLAB_TRACE: "SLAB_TRACE",
    SLAB_NOLEAKTRACE: "SLAB_NOLEAKTRACE",
    SLAB_NO_MERGE: "SLAB_NO_MERGE",
    SLAB_FAILSLAB: "SLAB_FAILSLAB",
    SLAB_ACCOUNT: "SLAB_ACCOUNT",
}

ALL_FLAGS: Final = sum(FLAG_NAMES)

SLAB_DEBUG_FLAGS: Final = (
    SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER | SLAB_TRACE
)
"""Any of these makes a debug cache (``kmem_cache_debug``)."""
DEBUG_DEFAULT_FLAGS: Final = SLAB_CONSISTENCY_CHECKS | SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER
"""What ``slab_debug`` without letters switches on."""
DEBUG_METADATA_FLAGS: Final = SLAB_RED_ZONE | SLAB_POISON | SLAB_STORE_USER
"""Those that make objects larger."""

SLAB_NEVER_MERGE: Final = (
    SLAB_TYPESAFE_BY_RCU | SLAB_NOLEAKTRACE | SLAB_NO_MERGE | SLAB_FAILSLAB | SLAB_DEBUG_FLAGS
)
"""SLAB_CONSISTENCY_CHECKS as well, which Linux lets merge: the checks would be lost to the cache."""
SLAB_MERGE_SAME: Final = SLAB_RECLAIM_ACCOUNT | SLAB_CACHE_DMA | SLAB_CACHE_DMA32 | SLAB_ACCOUNT
"""Flags in which two caches must agree to be merged."""
