"""
Watermarks, reserves and per-CPU page set sizes: formulas only.

All sizes are in pages unless the name says kB. Follows ``mm/page_alloc.c`` of Linux 6.12
(``init_per_zone_wmark_min``, ``__setup_per_zone_wmarks``, ``setup_per_zone_lowmem_reserve``,
``zone_batchsize``, ``zone_highsize``) and ``mm/vmstat.c`` (``calculate_normal_threshold``).
"""

from __future__ import annotations

from math import isqrt
from typing import Final, NamedTuple

from concmem.units import PAGEBLOCK_NR_PAGES

LOWMEM_RESERVE_RATIO: Final = (256, 256, 32)
"""For DMA, DMA32 and Normal: that share of the zones above is kept from those who could use them."""

MIN_FREE_KBYTES: Final = 128
MAX_FREE_KBYTES: Final = 262144
_MIGRATE_PCPTYPES: Final = 3


class Watermarks(NamedTuple):
    """Free pages of a zone below which allocation gets harder, step by step."""

    min: int
    low: int
    high: int
    promo: int


class PagesetSizes(NamedTuple):
    """Sizes of a per-CPU page set, in pages."""

    batch: int
    high_min: int
    high_max: int


def min_free_kbytes(lowmem_kb: int, thp_zones: int = 0) -> int:
    """
    The default of ``vm.min_free_kbytes``.

    *thp_zones*: populated zones, where transparent huge pages are enabled (khugepaged raises the
    value so that each zone can keep a block of each type free); 0 where they are not.
    """
    kbytes = min(max(isqrt(lowmem_kb * 16), MIN_FREE_KBYTES), MAX_FREE_KBYTES)
    if thp_zones:
        pages = PAGEBLOCK_NR_PAGES * thp_zones * 2
        pages += PAGEBLOCK_NR_PAGES * thp_zones * _MIGRATE_PCPTYPES * _MIGRATE_PCPTYPES
        kbytes = max(kbytes, min(pages, lowmem_kb // 4 // 20) * 4)
    return kbytes


def zone_watermarks(
    pages_min: int, managed: int, lowmem_managed: int, scale_factor: int = 10
) -> Watermarks:
    """
    Watermarks of one zone.

    *pages_min* is ``min_free_kbytes`` in pages, shared out by size; *scale_factor* is
    ``vm.watermark_scale_factor``, in 1/10000 of the zone.
    """
    share = pages_min * managed // lowmem_managed
    step = max(share // 4, managed * scale_factor // 10000)
    return Watermarks(share, share + step, share + 2 * step, share + 3 * step)


def lowmem_reserve(managed: list[int]) -> list[list[int]]:
    """
    ``reserve[i][j]``: pages of zone *i* kept from allocations that could use zone *j* > *i*.

    *managed*: managed pages of DMA, DMA32 and Normal of one node.
    """
    nr = len(managed)
    reserve = [[0] * nr for _ in range(nr)]
    for i in range(nr):
        for j in range(i + 1, nr):
            if managed[i]:
                reserve[i][j] = sum(managed[i + 1 : j + 1]) // LOWMEM_RESERVE_RATIO[i]
    return reserve


def zone_batchsize(managed: int) -> int:
    """Pages moved at once between a per-CPU page set and the buddy system, before scaling."""
    batch = max(1, min(managed >> 10, 256) // 4)
    batch = batch + batch // 2
    return max(1, (1 << (batch.bit_length() - 1)) - 1)


def zone_pagesets(managed: int, low: int, nr_cpus: int) -> PagesetSizes:
    """Sizes of the page sets of a zone; *low* is its low watermark, *nr_cpus* those of its node."""
    batch = zone_batchsize(managed)
    return PagesetSizes(
        batch,
        max(low // nr_cpus, batch << 2),
        max(managed // 8 // nr_cpus, batch << 2),
    )


def stat_threshold(managed: int, nr_cpus: int) -> int:
    """Pages that a CPU's share of a zone counter may drift before it is folded in."""
    mem = managed >> 15  # in units of 128 MiB
    return min(125, 2 * nr_cpus.bit_length() * (1 + mem.bit_length()))
