"""
Contiguous memory areas: page blocks that only movable pages may use until somebody needs them whole.

Locks:
    cma->lock       the bitmap
    cma_mutex       one contiguous allocation at a time; may sleep
    zone->lock      inside both, for the page blocks

Follows ``mm/cma.c`` and ``alloc_contig_range`` of Linux 6.12, without migration: an allocation only
succeeds where the range is free already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType, BadFree
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.migratetype import CMA, ISOLATE
from concmem.mm.page import Page
from concmem.mm.zone import Zone
from concmem.units import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.debug.page_debug import PageDebug
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime


class CmaArea:
    """
    ``struct cma``: *nr_pages* from *base_pfn*, whole page blocks of *zone* that are free at boot.
    """

    __guarded_by__: Final = {"_bitmap": "_lock"}

    def __init__(
        self,
        rt: Runtime,
        zone: Zone,
        base_pfn: int,
        nr_pages: int,
        events: VmEvents,
        drain_all_pages: Callable[[], None],
        debug: PageDebug | None = None,
    ) -> None:
        self.zone = zone
        self.base_pfn = base_pfn
        self.nr_pages = nr_pages
        self._events = events
        self._drain_all_pages = drain_all_pages
        self._debug = debug
        self._smp_processor_id = rt.smp_processor_id
        self._lock = rt.spinlock("cma->lock", irqsave=True)
        self._mutex = rt.mutex("cma_mutex")
        self._bitmap = bytearray(nr_pages)  # _lock; 1: handed out
        rt.watch(self)

    def alloc(self, nr_pages: int) -> Page | None:
        """
        Allocate *nr_pages* contiguous pages (``cma_alloc``), each with one reference, order 0.

        May sleep. ``None`` when no free range is found: movable pages are not moved away.
        """
        self._smp_processor_id()  # a thread that is no CPU cannot move pages
        self._check_nr_pages(nr_pages)
        if not 0 < nr_pages <= self.nr_pages:
            raise BadArgument(f"nr_pages: must be 1 to {self.nr_pages}, got {nr_pages}")
        start = 0
        while True:
            with self._lock:
                start = self._bitmap.find(bytes(nr_pages), start)
                if start < 0:
                    self._events.count("cma_alloc_fail")
                    return None
                self._bitmap[start : start + nr_pages] = b"\x01" * nr_pages
            page = None
            try:
                with self._mutex:
                    page = self._alloc_contig_range(self.base_pfn + start, nr_pages)
            finally:
                if page is None:
                    with self._lock:
                        self._bitmap[start : start + nr_pages] = bytes(nr_pages)
            if page is not None:
                self._post_alloc(page.pfn, nr_pages)
                self._events.count("cma_alloc_success")
                return page
            start += 1

    def _post_alloc(self, start: int, nr_pages: int) -> None:
        """Debugging sees the pages before anybody else does."""
        if self._debug is not None:
            for pfn in range(start, start + nr_pages):
                self._debug.post_alloc(self.zone.mem_map.page(pfn, self.zone), 0, GFP_KERNEL)

    def check_range(self, page: Page, nr_pages: int) -> int:
        """Offset of the range in the area, or `BadFree` when it was not allocated here."""
        if not isinstance(page, Page):
            raise BadArgumentType(f"page: expected a Page, got {page!r}")
        self._check_nr_pages(nr_pages)
        self.zone.mem_map.check_page(page)
        offset = page.pfn - self.base_pfn
        if offset < 0 or nr_pages < 1 or offset + nr_pages > self.nr_pages:
            raise BadFree(f"page: pfn {page.pfn:#x}+{nr_pages} is not in this CMA area")
        with self._lock:
            if self._bitmap.find(0, offset, offset + nr_pages) >= 0:
                raise BadFree(f"page: pfn {page.pfn:#x}+{nr_pages} was not allocated from CMA")
        for pfn in range(page.pfn, page.pfn + nr_pages):
            if not self.zone.mem_map.page(pfn, self.zone).ref_count():
                raise BadFree(f"page: pfn {pfn:#x} of {page.pfn:#x}+{nr_pages} is free already")
        return offset

    @staticmethod
    def _check_nr_pages(nr_pages: object) -> None:
        if isinstance(nr_pages, bool) or not isinstance(nr_pages, int):
            raise BadArgumentType(f"nr_pages: expected a whole number, got {nr_pages!r}")

    def release(self, page: Page, nr_pages: int, free: Callable[[Page, int], None]) -> None:
        """Free what :meth:`alloc` gave (``cma_release``); *free* frees one page."""
        offset = self.check_range(page, nr_pages)
        for pfn in range(page.pfn, page.pfn + nr_pages):
            free(self.zone.mem_map.page(pfn, self.zone), 0)
        with self._lock:
            self._bitmap[offset : offset + nr_pages] = bytes(nr_pages)

    def _alloc_contig_range(self, start: int, nr_pages: int) -> Page | None:
        """Isolate the page blocks, so that nobody allocates there; take the range if it is free."""
        end = start + nr_pages
        blocks = range(start & -PAGEBLOCK_NR_PAGES, end, PAGEBLOCK_NR_PAGES)
        with self.zone.lock:
            for block in blocks:
                self.zone._isolate_block(block)
        page = None
        try:
            self._drain_all_pages()
            with self.zone.lock:
                page = self._take_range(start, end)
        finally:
            with self.zone.lock:
                for block in blocks:
                    self.zone._unisolate_block(block, CMA)
        return page

    def _take_range(self, start: int, end: int) -> Page | None:
        """Caller holds zone->lock. Take all pages of the range, or none if one is not free."""
        mem_map = self.zone.mem_map
        heads = []
        pfn = start
        while pfn < end:
            head = mem_map.head(pfn)
            if head is None or not head.is_buddy():
                return None
            heads.append(head)
            pfn = head.pfn + (1 << head.private)
        for head in heads:
            order = head.private
            self.zone._del_page_from_free_list(head, order, ISOLATE)
            for pfn in range(head.pfn, head.pfn + (1 << order)):
                page = mem_map.page(pfn, self.zone)
                if start <= pfn < end:
                    page.order = 0
                    page.migratetype = CMA
                    page._count.add(True)
                else:
                    # Isolated pages are not counted as free, so taking and giving is balanced.
                    self.zone._free_one_page(page, 0, ISOLATE)
        return mem_map.pages[start]


def reserve_cma(zone: Zone, nr_pages: int) -> int:
    """At boot, with everything free: the last *nr_pages* of the zone become CMA; the first pfn."""
    base = zone.zone_end_pfn() - nr_pages & -PAGEBLOCK_NR_PAGES
    if nr_pages % PAGEBLOCK_NR_PAGES or base < zone.zone_start_pfn + PAGEBLOCK_NR_PAGES:
        raise BadArgument(
            f"cma: must be a multiple of {PAGEBLOCK_NR_PAGES * 4} kB and leave some of zone "
            f"{zone.name}, got {nr_pages * 4} kB"
        )
    for pfn in range(base, base + nr_pages, PAGEBLOCK_NR_PAGES):
        zone.mem_map.set_pageblock_type(pfn, PAGEBLOCK_ORDER, CMA)
    zone.cma_pages = nr_pages
    return base
