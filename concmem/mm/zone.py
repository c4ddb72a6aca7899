"""
Zones: a range of pages with one lock, watermarks, and a page set for each CPU (``struct zone``).

Lock order:
    pcp->lock       a CPU's page set
    zone->lock      free areas, counters, page block types, watermark_boost

Follows ``include/linux/mmzone.h`` and ``mm/page_alloc.c`` of Linux 6.12, with the older fields
``wait_table`` and ``pages_scanned``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import count
from sys import intern
from typing import TYPE_CHECKING, Final

from concmem.mm.alloc_flags import (
    ALLOC_CMA,
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    WMARK_HIGH,
)
from concmem.mm.fallback import MobilityGrouping
from concmem.mm.free_area import FreeArea
from concmem.mm.migratetype import CMA, HIGHATOMIC, MIGRATE_TYPES, MOVABLE
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.statistics import ZoneStatistics
from concmem.mm.wait_table import WaitTable
from concmem.mm.watermark import PagesetSizes, Watermarks, stat_threshold, zone_pagesets
from concmem.runtime.api import lockless_lookups
from concmem.units import MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.mem_map import MemMap
    from concmem.mm.node import PgData
    from concmem.runtime.api import Runtime

_zone_ids = count()

ZONE_NAMES: Final = ("DMA", "DMA32", "Normal")
ZONE_DMA: Final = 0
ZONE_DMA32: Final = 1
ZONE_NORMAL: Final = 2

ZONE_BOOSTED_WATERMARK: Final = 1 << 0
ZONE_RECLAIM_ACTIVE: Final = 1 << 1
ZONE_BELOW_HIGH: Final = 1 << 2
FLAG_NAMES: Final = ("boosted_watermark", "reclaim_active", "below_high")

WATERMARK_BOOST_FACTOR: Final = 15000
"""``vm.watermark_boost_factor``: a boost is at most 150 % of the high watermark."""


class Zone(MobilityGrouping):
    """
    ``struct zone``.

    Args:
        index: ``ZONE_DMA``, ``ZONE_DMA32`` or ``ZONE_NORMAL``.
        start_pfn, nr_pages: the range; an unpopulated zone has 0 pages.
        pageset_class, free_area_class, wait_table_class: what its parts are made of.
    """

    # Watermark tests are estimates, and so is the boost that they read; see also `link_deferred`.
    __guarded_by__: Final = {
        "_above_mark": "lock",
        "fast_mark": "lock",
        **dict.fromkeys(
            ("watermark_boost", "nr_reserved_highatomic", "deferred"), lockless_lookups("lock")
        ),
    }

    def __init__(
        self,
        rt: Runtime,
        mem_map: MemMap,
        index: int,
        start_pfn: int,
        nr_pages: int,
        pageset_class: type[PerCpuPageset] = PerCpuPageset,
        free_area_class: type[FreeArea] = FreeArea,
        wait_table_class: type[WaitTable] = WaitTable,
    ) -> None:
        super().__init__(rt, mem_map, start_pfn, nr_pages, free_area_class)
        self._rt = rt
        # set once, at boot
        self.id = intern(f"zone {next(_zone_ids)}")
        """Unique in this process, machines included; a text, so that it is no GFP flags."""
        self.index = index
        self.name = ZONE_NAMES[index]
        self.zone_pgdat: PgData
        self.present_pages = nr_pages
        self.managed_pages = 0
        self.cma_pages = 0
        self.wait_table = wait_table_class(rt, nr_pages)
        if nr_pages:
            self.pageset = rt.percpu(
                lambda: rt.watch(pageset_class(rt, self)), f"zone {self.name} pageset"
            )
        # Tuning: each written in one store by setup_watermarks or under the lock, read without.
        self.watermark = Watermarks(0, 0, 0, 0)
        self.watermark_boost = 0
        self.lowmem_reserve: tuple[int, ...] = (0, 0, 0)
        self.percpu_drift_mark = 0
        self._above_mark = False  # lock
        self.fast_mark = 0
        """With this many free pages, any order-0 allocation is allowed: no need to look closer."""
        # atomics: any CPU, any time
        self.flags = rt.atomic(0, "zone->flags")
        self.pages_scanned = rt.atomic(0, "zone->pages_scanned")

    def __repr__(self) -> str:
        return f"<zone {self.zone_pgdat.node_id}/{self.name}>"

    # -- boot

    def free_all(self, start_pfn: int) -> None:
        """
        Give all pages from *start_pfn* on to the buddy system (``memblock_free_all``).

        Nobody else is running yet, so the largest aligned blocks are put on the lists directly.
        """
        with self.lock:
            pfn, end = start_pfn, self.zone_end_pfn()
            nr_cma = 0
            # The whole blocks in the middle are left for later; CMA has page blocks of its own.
            block = 1 << MAX_PAGE_ORDER
            self.deferred = range(-(-pfn // block) * block, end - self.cma_pages & -block, block)
            self.free_area[MAX_PAGE_ORDER].count(MOVABLE, len(self.deferred))
            while pfn < end:
                if self.deferred and pfn == self.deferred[0]:
                    pfn = self.deferred[-1] + block
                    continue
                order = min(MAX_PAGE_ORDER, (pfn & -pfn).bit_length() - 1)
                while pfn + (1 << order) > end:
                    order -= 1
                migratetype = self.mem_map.pageblock_type(pfn)
                if order > PAGEBLOCK_ORDER and migratetype != self.mem_map.pageblock_type(
                    pfn + PAGEBLOCK_NR_PAGES
                ):
                    order = PAGEBLOCK_ORDER
                nr_cma += (1 << order) * (migratetype == CMA)
                self.free_area[order].add(self.mem_map.page(pfn, self), migratetype, tail=True)
                pfn += 1 << order
            self._link_deferred(1)
            self.managed_pages = end - start_pfn
            self.nr_free_pages.value = self.managed_pages
            self.nr_free_cma_pages.value = nr_cma

    def setup_watermarks(
        self, marks: Watermarks, reserve: Iterable[int], nr_cpus: int, pagesets: bool = True
    ) -> None:
        """Set watermarks and what depends on them: page set sizes, counter drift."""
        self.watermark = marks
        self.lowmem_reserve = tuple(reserve)
        sizes = zone_pagesets(self.managed_pages, marks.low, nr_cpus)
        if not pagesets:
            sizes = PagesetSizes(batch=1, high_min=0, high_max=0)
        # Every CPU may use the zone, so all of them count here, not only the node's.
        threshold = stat_threshold(self.managed_pages, self._rt.nr_cpus)
        for cpu in range(self._rt.nr_cpus):
            pcp = self.pageset.of(cpu)
            pcp.set_sizes(*sizes)
            pcp.stat_threshold = threshold
        drift = self._rt.nr_cpus * threshold
        self.percpu_drift_mark = marks.high + drift if drift > marks.low - marks.min else 0
        with self.lock:
            self.update_fast_mark()

    def update_fast_mark(self) -> None:
        """Recompute `fast_mark` after one of its parts has changed. Caller holds the lock."""
        drift = self._rt.nr_cpus * stat_threshold(self.managed_pages, self._rt.nr_cpus)
        self.fast_mark = (
            self.watermark.high
            + self.watermark_boost
            + max(self.lowmem_reserve)
            + self.nr_reserved_highatomic
            + self.cma_pages
            + drift
        )
        self.publish_above_mark()

    def publish_above_mark(self) -> None:
        """Tell every page set when the zone crosses its `fast_mark`. Caller holds the lock."""
        above = self.nr_free_pages.value >= self.fast_mark
        if above != self._above_mark:
            self._above_mark = above
            for pcp in self.pageset.all():
                pcp.above_mark = above

    # -- flags: read and set without a lock, as in the kernel; a stale bit costs a detour only

    def set_flag(self, flag: int) -> None:
        """Set a bit (``set_bit``)."""
        flags = self.flags.value
        while not flags & flag and (found := self.flags.cmpxchg(flags, flags | flag)) != flags:
            flags = found

    def clear_flag(self, flag: int) -> None:
        """Clear a bit (``clear_bit``)."""
        flags = self.flags.value
        while flags & flag and (found := self.flags.cmpxchg(flags, flags & ~flag)) != flags:
            flags = found

    def reclaim_active(self) -> bool:
        return self.flags.value & ZONE_RECLAIM_ACTIVE != 0

    def below_high(self) -> bool:
        return self.flags.value & ZONE_BELOW_HIGH != 0

    # -- allocate; these take zone->lock

    def rmqueue_bulk(
        self, order: int, count: int, pages: deque[Page], migratetype: int, alloc_flags: int
    ) -> int:
        """Append up to *count* blocks to *pages*, in address order where possible; how many."""
        got = 0
        with self.lock:
            while got < count:
                page = self._rmqueue(order, migratetype, alloc_flags)
                if page is None:
                    break
                page.order = order
                page.migratetype = migratetype
                pages.append(page)
                got += 1
        self._wake_kswapd_if_boosted()
        return got

    def rmqueue_buddy(self, order: int, migratetype: int, alloc_flags: int) -> Page | None:
        """One block straight from the buddy system."""
        with self.lock:
            page = None
            if alloc_flags & ALLOC_HIGHATOMIC:
                page = self._rmqueue_smallest(order, HIGHATOMIC)
            if page is None:
                page = self._rmqueue(order, migratetype, alloc_flags)
            if page is None and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                # Rather the reserve than a failure that the caller cannot handle.
                page = self._rmqueue_smallest(order, HIGHATOMIC)
        self._wake_kswapd_if_boosted()
        return page

    def _wake_kswapd_if_boosted(self) -> None:
        if self.flags.value & ZONE_BOOSTED_WATERMARK:
            self.clear_flag(ZONE_BOOSTED_WATERMARK)
            self.zone_pgdat.wakeup_kswapd(0, self.index)

    # -- free; these take zone->lock

    def free_one_page(self, page: Page, order: int, to_tail: bool = False) -> None:
        """Give one block straight to the buddy system."""
        with self.lock:
            # Page block by page block, each to the list of its type: one may be isolated.
            for pfn in range(page.pfn, page.pfn + (1 << order), PAGEBLOCK_NR_PAGES):
                part = self.mem_map.page(pfn, self)
                migratetype = self.mem_map.pageblock_type(pfn)
                self._free_one_page(part, min(order, PAGEBLOCK_ORDER), migratetype, to_tail)

    def free_bulk(self, pages: Iterable[tuple[Page, int]]) -> None:
        """Give (page, order) pairs back. Types are re-read from their blocks under the lock."""
        with self.lock:
            for page, order in pages:
                self._free_one_page(page, order, self.mem_map.pageblock_type(page.pfn))
        if self.below_high() and self.watermark_ok(0, self.wmark_pages(WMARK_HIGH), ZONE_NORMAL, 0):
            self.clear_flag(ZONE_BELOW_HIGH)

    # -- boost

    def drop_boost(self, boost: int) -> None:
        """kswapd has done what it could for *boost* pages."""
        with self.lock:
            self.watermark_boost -= min(self.watermark_boost, boost)
            self.update_fast_mark()

    # -- watermarks

    def unusable_free(self, order: int, alloc_flags: int) -> int:
        """Free pages that this allocation cannot have (``__zone_watermark_unusable_free``)."""
        unusable = (1 << order) - 1
        # No lock: estimates, as the whole test is one.
        if not alloc_flags & ALLOC_RESERVES:
            unusable += self.nr_free_highatomic.value
        if not alloc_flags & ALLOC_CMA:
            unusable += self.nr_free_cma_pages.value
        return unusable

    def watermark_ok(self, order: int, mark: int, highest_zoneidx: int, alloc_flags: int) -> bool:
        """Whether *order* can be allocated and leave *mark* pages (``__zone_watermark_ok``)."""
        free = self.nr_free_pages.value
        if self.percpu_drift_mark and free < self.percpu_drift_mark:
            free = self.nr_free_pages_snapshot()
        free -= self.unusable_free(order, alloc_flags)
        if alloc_flags & ALLOC_MIN_RESERVE:
            mark -= mark // 2
            if alloc_flags & ALLOC_NON_BLOCK:
                mark -= mark // 4
        if alloc_flags & ALLOC_OOM:
            mark -= mark // 2
        if free <= mark + self.lowmem_reserve[highest_zoneidx]:
            return False
        if order == 0:
            return True
        types: tuple[int, ...] = (0, 1, 2)
        if alloc_flags & ALLOC_CMA:
            types += (CMA,)
        if alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM):
            types += (HIGHATOMIC,)
        return self.has_free_block(order, types)

    def wmark_pages(self, wmark: int) -> int:
        """The mark of that number (``WMARK_MIN``, ...), boosted."""
        return self.watermark[wmark] + self.watermark_boost

    def _boost_watermark(self, wake_kswapd: bool) -> None:
        """
        Types begin to mix: raise the watermarks, so that kswapd makes room (``boost_watermark``).

        Caller holds the lock.
        """
        # Not on a small zone: a boost could leave nothing to allocate from.
        if self.managed_pages < PAGEBLOCK_NR_PAGES * 4:
            return
        max_boost = self.watermark.high * WATERMARK_BOOST_FACTOR // 10000
        if not max_boost:
            return
        max_boost = max(PAGEBLOCK_NR_PAGES, max_boost)
        self.watermark_boost = min(self.watermark_boost + PAGEBLOCK_NR_PAGES, max_boost)
        self.update_fast_mark()
        if wake_kswapd:
            self.set_flag(ZONE_BOOSTED_WATERMARK)

    # -- report

    def statistics(self) -> ZoneStatistics:
        """A copy of everything. Counts lists under the lock, one order at a time, as /proc does."""
        none: tuple[int, ...] = (0,) * MIGRATE_TYPES
        counts = [] if self.free_area else [none] * NR_PAGE_ORDERS
        for area in self.free_area:
            with self.lock:
                lengths = [sum(1 for _ in pages) for pages in area.free_list]
                if area.order == MAX_PAGE_ORDER:
                    lengths[MOVABLE] += len(self.deferred)
                counts.append(tuple(lengths))
        flags = self.flags.value
        marks = self.watermark
        return ZoneStatistics(
            name=self.name,
            node=self.zone_pgdat.node_id,
            start_pfn=self.zone_start_pfn,
            spanned=self.spanned_pages,
            present=self.present_pages,
            managed=self.managed_pages,
            nr_free_pages=max(0, self.nr_free_pages.value),
            nr_free_cma=self.nr_free_cma_pages.value,
            cma=self.cma_pages,
            free_counts=tuple(counts),
            nr_free=tuple(area.nr_free for area in self.free_area) or (0,) * NR_PAGE_ORDERS,
            pageblocks=self.statistics_pageblocks(),
            watermark_boost=self.watermark_boost,
            watermark_min=marks.min,
            watermark_low=marks.low,
            watermark_high=marks.high,
            watermark_promo=marks.promo,
            lowmem_reserve=self.lowmem_reserve,
            nr_reserved_highatomic=self.nr_reserved_highatomic,
            pages_scanned=self.pages_scanned.value,
            flags=tuple(name for bit, name in enumerate(FLAG_NAMES) if flags >> bit & 1),
            pagesets=tuple(
                self.pageset.of(cpu).statistics()
                for cpu in range(self._rt.nr_cpus if self.present_pages else 0)
            ),
            nr_buddy_frees=self.nr_buddy_frees,
            nr_merges=self.nr_merges,
            nr_merged_whole=self.nr_merged_whole,
        )

    def statistics_pageblocks(self) -> tuple[int, ...]:
        """``[migratetype]``: page blocks of each type."""
        first = self.zone_start_pfn >> PAGEBLOCK_ORDER
        end = -(-self.zone_end_pfn() // PAGEBLOCK_NR_PAGES) if self.spanned_pages else first
        types = self.mem_map.pageblock_types[first:end]
        return tuple(types.count(migratetype) for migratetype in range(MIGRATE_TYPES))
