"""
``mem_map``: from page frame numbers to page structs and page block types.

Page structs are made lazily, when a page becomes the head of a block that is split, allocated or
merged, or when somebody asks for it. A page frame without one has never headed a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from concmem.errors import BadArgument, BadArgumentType, BadFree
from concmem.mm.migratetype import MOVABLE
from concmem.mm.page import Page
from concmem.units import NR_PAGE_ORDERS, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Refcount, Runtime


class MemMap:
    """
    All page structs of a machine.

    Locks: an entry is never removed or replaced, and ``dict.setdefault`` is indivisible, so reading
    needs no lock. ``pageblock_types`` is written under the zone's lock and read without: a stale
    type puts a page on the wrong free list of the right order, which Linux allows, too.
    """

    def __init__(self, rt: Runtime, nr_pages: int) -> None:
        self.nr_pages = nr_pages
        self.pages: dict[int, Page] = {}
        self.slabs: dict[int, Page] = {}
        """
        Head of the slab or large kmalloc block that a page is part of (what ``compound_head`` of
        tail pages is for), by address >> PAGE_SHIFT. Entries come and go in one step each.
        """
        self.zones: Sequence[Zone] = ()
        nr_blocks = -(-nr_pages // PAGEBLOCK_NR_PAGES)
        self.pageblock_types = bytearray([MOVABLE]) * nr_blocks
        self._refcount: Callable[[str], Refcount] = rt.refcount

    def zone_of(self, pfn: int) -> Zone:
        """The zone that spans *pfn*."""
        for zone in self.zones:
            if zone.zone_start_pfn <= pfn < zone.zone_end_pfn():
                return zone
        raise BadArgument(f"pfn: {pfn:#x} is outside of memory, 0x0 to {self.nr_pages - 1:#x}")

    def page(self, pfn: int, zone: Zone | None = None) -> Page:
        """The page struct of *pfn* itself (``pfn_to_page``), made now if there is none yet."""
        page = self.pages.get(pfn)
        if page is None:
            page = Page(pfn, zone or self.zone_of(pfn), self._refcount("page->_count"))
            page = self.pages.setdefault(pfn, page)
        return page

    def check_pfn(self, pfn: object) -> int:
        """*pfn* if it is a page frame of this machine, else `BadArgument`."""
        if isinstance(pfn, bool) or not isinstance(pfn, int):
            raise BadArgumentType(f"pfn: expected a page frame number, got {pfn!r}")
        if not 0 <= pfn < self.nr_pages:
            raise BadArgument(f"pfn: {pfn:#x} is outside of memory, 0x0 to {self.nr_pages - 1:#x}")
        return pfn

    def check_page(self, page: Page) -> None:
        """Raise `BadFree` unless *page* is one of this machine's."""
        if self.pages.get(page.pfn) is not page:
            raise BadFree(f"page: pfn {page.pfn:#x} is a page of another machine")

    def head(self, pfn: int) -> Page | None:
        """The head of the block, free or allocated, that *pfn* lies in (``compound_head``)."""
        self.zone_of(pfn).link_deferred(pfn)
        for order in range(NR_PAGE_ORDERS):
            page = self.pages.get(pfn & -(1 << order))
            if page is not None and self.block_order(page) >= order:
                return page
        return None

    @staticmethod
    def block_order(page: Page) -> int:
        """Order of the free or allocated block that *page* heads, or -1."""
        return page.private if page.is_buddy() else page.order

    # -- page blocks

    def pageblock_type(self, pfn: int) -> int:
        """Migratetype of the page block that *pfn* lies in."""
        return self.pageblock_types[pfn >> PAGEBLOCK_ORDER]

    def set_pageblock_type(self, pfn: int, order: int, migratetype: int) -> None:
        """Retype all page blocks of the range. Caller holds zone->lock."""
        first = pfn >> PAGEBLOCK_ORDER
        for block in range(first, first + max(1, (1 << order) >> PAGEBLOCK_ORDER)):
            self.pageblock_types[block] = migratetype

    def for_each_block(self, start_pfn: int, end_pfn: int) -> Iterator[tuple[int, Page | None]]:
        """
        Step through a range block by block: each block's first pfn and head.

        The head is ``None`` where a single page has no struct; pages that head nothing are single
        steps.
        """
        pfn = start_pfn
        while pfn < end_pfn:
            page = self.pages.get(pfn)
            yield pfn, page
            pfn += 1 << max(0, self.block_order(page)) if page is not None else 1
