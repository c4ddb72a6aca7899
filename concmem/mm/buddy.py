"""
The buddy system of one zone: blocks of 2**order pages are split and merged.

Locks: everything here runs under zone->lock, except :meth:`BuddySystem.nr_free_pages` readers.

Follows ``mm/page_alloc.c`` of Linux 6.12: ``__rmqueue_smallest``, ``expand``, ``__free_one_page``,
``account_freepages``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from concmem.mm.free_area import FreeArea
from concmem.mm.migratetype import CMA, HIGHATOMIC, ISOLATE, MOVABLE, is_mergeable
from concmem.mm.page import PAGE_TYPE_BUDDY, Page
from concmem.runtime.api import lockdep_assert_held
from concmem.units import MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.mem_map import MemMap
    from concmem.mm.per_cpu_pageset import PerCpuPageset
    from concmem.mm.zone import Zone
    from concmem.runtime.api import PerCpu, Runtime


DEFERRED_BATCH: Final = 32
"""Never used blocks that are linked at once: 128 MiB, a memory section."""


class BuddySystem:
    """The part of ``struct zone`` that keeps free blocks."""

    def __init__(
        self,
        rt: Runtime,
        mem_map: MemMap,
        start_pfn: int,
        nr_pages: int,
        free_area_class: type[FreeArea] = FreeArea,
    ) -> None:
        self.mem_map = mem_map
        self.zone_start_pfn = start_pfn
        self.spanned_pages = nr_pages
        self.lock = rt.spinlock("&zone->lock", irqsave=True)
        self.free_area: tuple[FreeArea, ...] = tuple(
            rt.watch(free_area_class(order, self.lock))
            for order in range(NR_PAGE_ORDERS if nr_pages else 0)
        )
        """By order; an unpopulated zone has none, which saves a small machine a tenth of its boot."""
        self.nr_free_pages = rt.cell(0, "zone->vm_stat[NR_FREE_PAGES]")
        """Free pages. Written under the lock; may differ from the lists by each CPU's drift."""
        self.nr_free_cma_pages = rt.cell(0, "zone->vm_stat[NR_FREE_CMA_PAGES]")
        self.nr_free_highatomic = rt.cell(0, "zone->nr_free_highatomic")
        self.nr_reserved_highatomic = 0
        """Pages in high-atomic blocks. Written under the lock; the watermark test reads without."""
        self.pageset: PerCpu[PerCpuPageset]
        # lock: what became of freed blocks; blocks of MAX_PAGE_ORDER, which have no buddy, apart
        self.nr_buddy_frees = 0
        """Blocks freed whose buddy was looked for."""
        self.nr_merges = 0
        """Steps in which a block became one with its buddy."""
        self.nr_merged_whole = 0
        """Blocks that grew to MAX_PAGE_ORDER."""
        # lock: the range of blocks of MAX_PAGE_ORDER that were never used. They are counted as free
        # movable blocks, but have no page structs and are not linked yet.
        self.deferred = range(0)

    def zone_end_pfn(self) -> int:
        """First page frame after the zone."""
        return self.zone_start_pfn + self.spanned_pages

    # -- allocate

    def _rmqueue_smallest(self, order: int, migratetype: int) -> Page | None:
        """Take the smallest free block of the type that is large enough, and split it."""
        for current_order in range(order, NR_PAGE_ORDERS):
            page = self.free_area[current_order].free_list[migratetype].first()
            if page is not None:
                self._del_page_from_free_list(page, current_order, migratetype)
                self._account_freepages(-(1 << order), migratetype)
                self._expand(page, order, current_order, migratetype)
                return page
        return None

    def _expand(self, page: Page, low: int, high: int, migratetype: int) -> None:
        """Give the upper halves back until *page* heads a block of order *low*."""
        while high > low:
            high -= 1
            upper = self.mem_map.page(page.pfn + (1 << high), page.zone)
            self._add_to_free_list(upper, high, migratetype)

    # -- free

    def _free_one_page(
        self, page: Page, order: int, migratetype: int, to_tail: bool = False
    ) -> None:
        """
        Merge a block with its free buddies and put it on a free list. Caller holds the lock.

        Blocks of order 9 and above merge only if both types are equal or may mix; the buddy's block
        then takes the type of the freed one, so that a later split finds the right lists.
        """
        lockdep_assert_held(self.lock)
        page.order = -1
        self._account_freepages(1 << order, migratetype)
        freed_order = order
        while order < MAX_PAGE_ORDER:
            buddy = self._find_buddy_page(page.pfn, order)
            if buddy is None:
                break
            buddy_type = migratetype
            if order >= PAGEBLOCK_ORDER:
                buddy_type = self.mem_map.pageblock_type(buddy.pfn)
                if buddy_type != migratetype:
                    if not (is_mergeable(buddy_type) and is_mergeable(migratetype)):
                        break
                    self.mem_map.set_pageblock_type(buddy.pfn, order, migratetype)
            self._del_page_from_free_list(buddy, order, buddy_type)
            if buddy.pfn < page.pfn:
                page = buddy
            order += 1
        self._count_merges(freed_order, order)
        self._add_to_free_list(
            page, order, migratetype, to_tail or self._buddy_merge_likely(page, order)
        )

    def _count_merges(self, freed_order: int, order: int) -> None:
        """Once for each free, not for each step: a block of *freed_order* became one of *order*."""
        if freed_order < MAX_PAGE_ORDER:
            self.nr_buddy_frees += 1
            if order != freed_order:
                self.nr_merges += order - freed_order
                self.nr_merged_whole += order == MAX_PAGE_ORDER

    def _find_buddy_page(self, pfn: int, order: int) -> Page | None:
        """The buddy of the block at *pfn*, if it is free as a whole (``find_buddy_page_pfn``)."""
        buddy_pfn = pfn ^ (1 << order)
        if not self.zone_start_pfn <= buddy_pfn < self.zone_end_pfn():
            return None
        buddy = self.mem_map.pages.get(buddy_pfn)
        if buddy is None or not buddy.is_buddy() or buddy.private != order:
            return None
        return buddy

    def _buddy_merge_likely(self, page: Page, order: int) -> bool:
        """Whether the next higher buddy is free: keep this block for last, it may merge soon."""
        if order >= MAX_PAGE_ORDER - 1:
            return False
        higher_pfn = page.pfn & ~(1 << order)
        return self._find_buddy_page(higher_pfn, order + 1) is not None

    # -- lists and counters

    def _add_to_free_list(
        self, page: Page, order: int, migratetype: int, tail: bool = False
    ) -> None:
        self.free_area[order].add(page, migratetype, tail)

    def _del_page_from_free_list(self, page: Page, order: int, migratetype: int) -> None:
        if (
            order == MAX_PAGE_ORDER
            and self.deferred
            and self.free_area[order].free_list[MOVABLE].is_singular()
        ):
            # Before the last one goes: who looks without the lock finds the list empty only when
            # there is no block, and nobody else needs to know of these.
            self._link_deferred(DEFERRED_BATCH)
        self.free_area[order].remove(page, migratetype)

    def _link_deferred(self, nr_blocks: int) -> None:
        """Put the next *nr_blocks* never used blocks on their list (``deferred_grow_zone``)."""
        for pfn in self.deferred[:nr_blocks]:
            page = self.mem_map.page(pfn, cast("Zone", self))
            page.private = MAX_PAGE_ORDER
            page._mapcount = PAGE_TYPE_BUDDY
            self.free_area[MAX_PAGE_ORDER].free_list[MOVABLE].add_tail(page)
        self.deferred = self.deferred[nr_blocks:]

    def link_deferred(self, pfn: int) -> None:
        """Somebody asks about *pfn*: make sure that its block has a page struct. Takes the lock."""
        # No lock: blocks only ever leave the range, and a miss is looked up again under it.
        while (deferred := self.deferred) and (
            deferred.start <= pfn < deferred[-1] + (1 << MAX_PAGE_ORDER)
        ):
            with self.lock:
                self._link_deferred(DEFERRED_BATCH)

    def _account_freepages(self, nr_pages: int, migratetype: int) -> None:
        """
        Count *nr_pages* more (or fewer) free pages. Isolated pages are not free.

        As in the kernel each CPU keeps a small difference to itself (``vm_stat_diff``) and folds
        it into the zone's counter when it exceeds ``stat_threshold``.
        """
        if migratetype == ISOLATE:
            return
        pcp = self.pageset.this()
        diff = pcp.vm_stat_diff + nr_pages
        if abs(diff) > pcp.stat_threshold:
            self.nr_free_pages.value += diff
            self.publish_above_mark()
            diff = 0
        pcp.vm_stat_diff = diff
        if migratetype == CMA:
            self.nr_free_cma_pages.value += nr_pages
        elif migratetype == HIGHATOMIC:
            self.nr_free_highatomic.value += nr_pages

    def publish_above_mark(self) -> None:
        """Tell every page set when the zone crosses its `fast_mark`. See `Zone`."""

    def nr_free_pages_snapshot(self) -> int:
        """Free pages with every CPU's difference added (``zone_page_state_snapshot``)."""
        # No lock: differences may move while they are summed; the caller only estimates.
        return max(0, self.nr_free_pages_exact())

    def nr_free_pages_exact(self) -> int:
        """The same, not clamped: exact while nobody else runs."""
        return self.nr_free_pages.value + sum(p.vm_stat_diff for p in self.pageset.all())

    def has_free_block(self, order: int, types: tuple[int, ...]) -> bool:
        """Whether some block of at least *order* and one of *types* is free."""
        # No lock: the watermark test is an estimate; the allocation itself looks under the lock.
        for area in self.free_area[order:]:
            if area.nr_free and any(not area.free_list[mt].empty() for mt in types):
                return True
        return False
