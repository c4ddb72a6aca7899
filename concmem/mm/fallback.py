"""
Mobility grouping: what a zone does when the wanted migratetype has no free block.

A whole page block of another type is *claimed* where that keeps types apart; else one block of pages
is *stolen*. High-atomic blocks are a reserve for atomic allocations of order above 0.

Locks: everything under zone->lock, unless a docstring says otherwise.

Follows ``mm/page_alloc.c`` of Linux 6.12: ``__rmqueue``, ``find_suitable_fallback``,
``try_to_claim_block``, ``move_freepages_block``, ``reserve_highatomic_pageblock``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.mm.alloc_flags import ALLOC_CMA, ALLOC_KSWAPD, ALLOC_NOFRAGMENT
from concmem.mm.buddy import BuddySystem
from concmem.mm.migratetype import (
    CMA,
    FALLBACKS,
    HIGHATOMIC,
    ISOLATE,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    is_mergeable,
)
from concmem.mm.page import Page
from concmem.units import MAX_PAGE_ORDER, NR_PAGE_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    pass


class BlockUse(NamedTuple):
    """What one page block holds, in pages."""

    free: int
    movable: int
    """Allocated, but movable."""


class MobilityGrouping(BuddySystem):
    """The part of ``struct zone`` that keeps migratetypes apart."""

    managed_pages: int

    def _rmqueue(self, order: int, migratetype: int, alloc_flags: int) -> Page | None:
        """One block of the wanted type, else of another (``__rmqueue``)."""
        if alloc_flags & ALLOC_CMA and 2 * self.nr_free_cma_pages.value > self.nr_free_pages.value:
            page = self._rmqueue_smallest(order, CMA)
            if page is not None:
                return page
        page = self._rmqueue_smallest(order, migratetype)
        if page is None and alloc_flags & ALLOC_CMA:
            page = self._rmqueue_smallest(order, CMA)
        if page is None:
            page = self._rmqueue_claim(order, migratetype, alloc_flags)
        if page is None and not alloc_flags & ALLOC_NOFRAGMENT:
            page = self._rmqueue_steal(order, migratetype)
        return page

    # -- claim a page block, or steal pages

    def _find_suitable_fallback(self, order: int, migratetype: int) -> int | None:
        """The first fallback type with a free block of exactly *order*."""
        for fallback in FALLBACKS[migratetype]:
            if not self.free_area[order].free_list[fallback].empty():
                return fallback
        return None

    @staticmethod
    def _should_try_claim(order: int, migratetype: int) -> bool:
        """Whether a block of *order* is worth retyping its page block for."""
        return order >= PAGEBLOCK_ORDER // 2 or migratetype in (UNMOVABLE, RECLAIMABLE)

    def _rmqueue_claim(self, order: int, migratetype: int, alloc_flags: int) -> Page | None:
        """From the largest blocks down: retype a whole page block and allocate from it."""
        smallest = order
        if order < PAGEBLOCK_ORDER and alloc_flags & ALLOC_NOFRAGMENT:
            smallest = PAGEBLOCK_ORDER
        for current_order in range(MAX_PAGE_ORDER, smallest - 1, -1):
            fallback = self._find_suitable_fallback(current_order, migratetype)
            if fallback is None:
                continue
            if not self._should_try_claim(current_order, migratetype):
                return None  # smaller ones even less
            block = self.free_area[current_order].free_list[fallback].first()
            assert block is not None
            page = self._try_to_claim_block(
                block, current_order, order, migratetype, fallback, alloc_flags
            )
            if page is not None:
                return page
        return None

    def _try_to_claim_block(
        self,
        block: Page,
        current_order: int,
        order: int,
        migratetype: int,
        block_type: int,
        alloc_flags: int,
    ) -> Page | None:
        """Retype *block*'s page block if it is free or alike enough, and allocate from it."""
        if current_order >= PAGEBLOCK_ORDER:
            self._del_page_from_free_list(block, current_order, block_type)
            self.mem_map.set_pageblock_type(block.pfn, current_order, migratetype)
            self._account_freepages(-(1 << order), migratetype)
            self._expand(block, order, current_order, migratetype)
            return block
        self._boost_watermark(alloc_flags & ALLOC_KSWAPD != 0)
        use = self._count_block(block.pfn)
        if use is None:
            return None
        if migratetype == MOVABLE:
            alike = use.movable
        else:
            alike = PAGEBLOCK_NR_PAGES - use.free - use.movable if block_type == MOVABLE else 0
        if use.free + alike < PAGEBLOCK_NR_PAGES // 2:
            return None
        self._move_freepages_block(block.pfn, block_type, migratetype)
        return self._rmqueue_smallest(order, migratetype)

    def _rmqueue_steal(self, order: int, migratetype: int) -> Page | None:
        """From the smallest blocks up: take one of another type; its page block keeps its type."""
        for current_order in range(order, NR_PAGE_ORDERS):
            fallback = self._find_suitable_fallback(current_order, migratetype)
            if fallback is None:
                continue
            page = self.free_area[current_order].free_list[fallback].first()
            assert page is not None
            self._del_page_from_free_list(page, current_order, fallback)
            self._account_freepages(-(1 << order), fallback)
            self._expand(page, order, current_order, fallback)
            return page
        return None

    def _boost_watermark(self, wake_kswapd: bool) -> None:
        """Types begin to mix: raise the watermarks so that kswapd makes room. See `Zone`."""

    # -- whole page blocks

    def _block_range(self, pfn: int) -> tuple[int, int] | None:
        """First and end pfn of the page block around *pfn*; None where the zone has only a part."""
        start = pfn & -PAGEBLOCK_NR_PAGES
        end = start + PAGEBLOCK_NR_PAGES
        if start < self.zone_start_pfn or end > self.zone_end_pfn():
            return None
        return start, end

    def _count_block(self, pfn: int) -> BlockUse | None:
        """Count a page block's pages (``prep_move_freepages_block``)."""
        block = self._block_range(pfn)
        if block is None:
            return None
        free = movable = 0
        for first, page in self.mem_map.for_each_block(*block):
            if page is None:
                continue
            if page.is_buddy():
                free += 1 << page.private
            elif page.is_allocated() and page.migratetype == MOVABLE:
                # A block of several page blocks counts for this one only as far as it reaches.
                movable += min(1 << page.order, block[1] - first)
        return BlockUse(free, movable)

    def _move_freepages_block(self, pfn: int, old: int, new: int) -> int:
        """Retype one page block and move its free pages; their number, or -1 if not whole."""
        block = self._block_range(pfn)
        if block is None:
            return -1
        moved = 0
        for _, page in self.mem_map.for_each_block(*block):
            if page is not None and page.is_buddy():
                self.free_area[page.private].move(page, old, new)
                moved += 1 << page.private
        # In this order: who looks at the counters without the lock may see too many pages, which it will
        # not find, but never takes a zone for exhausted of which a block only changes its type.
        self._account_freepages(moved, new)
        self._account_freepages(-moved, old)
        self.mem_map.set_pageblock_type(block[0], PAGEBLOCK_ORDER, new)
        return moved

    def _split_large_buddy(self, pfn: int, migratetype: int) -> None:
        """If *pfn*'s page block is half of a larger free block of that type, cut it off."""
        head = self.mem_map.pages.get(pfn & -(1 << MAX_PAGE_ORDER))
        if head is None or not head.is_buddy() or head.private <= PAGEBLOCK_ORDER:
            return
        self._del_page_from_free_list(head, head.private, migratetype)
        for half in (head.pfn, head.pfn + PAGEBLOCK_NR_PAGES):
            page = self.mem_map.page(half, head.zone)
            self._add_to_free_list(page, PAGEBLOCK_ORDER, migratetype)

    def _merge_block(self, pfn: int) -> None:
        """If the page block at *pfn*, just retyped, is free as a whole, merge it with its buddy."""
        page = self.mem_map.pages.get(pfn)
        if page is None or not page.is_buddy() or page.private != PAGEBLOCK_ORDER:
            return
        migratetype = self.mem_map.pageblock_type(pfn)
        self._del_page_from_free_list(page, PAGEBLOCK_ORDER, migratetype)
        self._account_freepages(-PAGEBLOCK_NR_PAGES, migratetype)
        self._free_one_page(page, PAGEBLOCK_ORDER, migratetype)

    def _isolate_block(self, pfn: int) -> None:
        """Take one page block's free pages out of circulation (``set_migratetype_isolate``)."""
        old = self.mem_map.pageblock_type(pfn)
        self._split_large_buddy(pfn, old)
        self._move_freepages_block(pfn, old, ISOLATE)

    def _unisolate_block(self, pfn: int, migratetype: int) -> None:
        """Let them be used again, as *migratetype* (``unset_migratetype_isolate``)."""
        self._split_large_buddy(pfn, ISOLATE)
        self._move_freepages_block(pfn, ISOLATE, migratetype)
        self._merge_block(pfn)

    # -- high-atomic reserve; these take the lock themselves

    def reserve_highatomic_pageblock(self, page: Page, order: int) -> bool:
        """An atomic allocation of *order* got *page*: reserve its page block; whether that was done."""
        # No lock: the limit is tested again below.
        limit = self._highatomic_limit()
        if self.managed_pages // 100 < PAGEBLOCK_NR_PAGES or self.nr_reserved_highatomic >= limit:
            return False
        with self.lock:
            if self.nr_reserved_highatomic >= limit:
                return False
            block_type = self.mem_map.pageblock_type(page.pfn)
            if not is_mergeable(block_type):
                return False
            if order >= PAGEBLOCK_ORDER:
                self.mem_map.set_pageblock_type(page.pfn, order, HIGHATOMIC)
                self.nr_reserved_highatomic += 1 << order
            elif self._move_freepages_block(page.pfn, block_type, HIGHATOMIC) >= 0:
                self.nr_reserved_highatomic += PAGEBLOCK_NR_PAGES
            else:
                return False
            self.update_fast_mark()
        return True

    def update_fast_mark(self) -> None:
        """The reserve has changed. See `Zone`."""

    def _highatomic_limit(self) -> int:
        """About 1 % of the zone, in whole page blocks."""
        return -(-(self.managed_pages // 100) // PAGEBLOCK_NR_PAGES) * PAGEBLOCK_NR_PAGES

    def unreserve_highatomic_pageblock(self, migratetype: int, force: bool) -> bool:
        """Give one reserved page block back as *migratetype*; whether there was one."""
        # No lock: tested again below, by looking at the lists.
        if not force and self.nr_reserved_highatomic <= PAGEBLOCK_NR_PAGES:
            return False
        with self.lock:
            for area in self.free_area:
                page = area.free_list[HIGHATOMIC].first()
                if page is None:
                    continue
                self._account_unreserved(page, area.order)
                if area.order > PAGEBLOCK_ORDER:
                    area.move(page, HIGHATOMIC, migratetype)
                    self._account_freepages(1 << area.order, migratetype)
                    self._account_freepages(-(1 << area.order), HIGHATOMIC)
                    self.mem_map.set_pageblock_type(page.pfn, area.order, migratetype)
                    return True
                moved = self._move_freepages_block(page.pfn, HIGHATOMIC, migratetype)
                self._merge_block(page.pfn & -PAGEBLOCK_NR_PAGES)
                return moved > 0
        return False

    def _account_unreserved(self, page: Page, order: int) -> None:
        """
        The page block of *page*, free with *order*, is no reserve any more. Caller holds the lock.

        Since Linux kernel commit 4855e4a7f29d ("mm: prevent double decrease of nr_reserved_highatomic")
        (in v4.10) the block's type, not the list's, says what to subtract.
        """
        if self.mem_map.pageblock_type(page.pfn) == HIGHATOMIC:
            nr = max(PAGEBLOCK_NR_PAGES, 1 << order)
            self.nr_reserved_highatomic -= min(nr, self.nr_reserved_highatomic)
            self.update_fast_mark()
