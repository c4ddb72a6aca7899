"""
The fast paths of the page allocator: order 0, to and from this CPU's page set.

Written out and bound at construction, as closures: a call here would cost more than the work, and on
a free-threaded interpreter every use of an object that other CPUs use too (``self``, the zone, a
large int) is a contended reference count. So these start from the CPU's own dictionaries in the hot
slots of its area, by GFP flags and by ``zone.id``, and touch the CPU's own objects only, but for the
area getter and the page block types.

What they do is what :class:`~concmem.mm.page_alloc.PageAllocator` and
:class:`~concmem.mm.per_cpu_pageset.PerCpuPageset` do for any order; whatever is not simple goes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from concmem.errors import BadArgumentType
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import Page
from concmem.runtime.api import HOT, HOT_FREE
from concmem.units import PAGE_SIZE

_ORDER_0: Final = 0

if TYPE_CHECKING:
    from concmem.mm.page_alloc import PageAllocator


class AllocPages(Protocol):
    """The type of ``machine.alloc_pages``."""

    def __call__(
        self, order: int = 0, gfp: int = GFP_KERNEL, node: int | None = None
    ) -> Page | None: ...


class FreePages(Protocol):
    """The type of ``machine.free_pages``."""

    def __call__(self, page: Page, order: int = 0) -> None: ...


def make_alloc_pages(allocator: PageAllocator) -> AllocPages:
    """``alloc_pages`` for one machine."""
    area = allocator.rt.area
    cond_resched = allocator.rt.cond_resched
    alloc_pages_general = allocator.alloc_pages_general
    fill = allocator.memory.fill

    def alloc_pages(order: int = 0, gfp: int = GFP_KERNEL, node: int | None = None) -> Page | None:
        """
        Allocate ``2**order`` contiguous pages (``struct page *``).

        May sleep when *gfp* has ``DIRECT_RECLAIM``.

        Args:
            order: 0 to ``MAX_PAGE_ORDER`` inclusive.
            gfp: where from and how hard (:mod:`concmem.mm.gfp`).
            node: the preferred NUMA node; the CPU's own by default.

        Returns:
            The first page, with one reference, or ``None`` when no zone can serve the request.

        Raises:
            BadArgument: *order*, *gfp* or *node* cannot be.
            NotACpu: the calling thread is none of the machine's CPUs.
        """
        here = area()
        if here[0]:
            cond_resched()
        try:
            entry = here[HOT].get(gfp)
        except TypeError:  # cannot even be a key
            raise BadArgumentType(f"gfp: expected GFP flags, got {gfp!r}") from None
        # By identity: False and 0.0 equal 0, but are no orders.
        if entry is not None and order is _ORDER_0 and node is None:
            pcp, pages, trylock, unlock, zero = entry
            # No lock: above_mark is written by whoever crosses the mark, under zone->lock; a stale
            # one is an estimate that is a moment old, as every watermark test is.
            if pcp.above_mark and trylock():
                try:
                    if pages:
                        pcp.count -= 1
                        if free_count := pcp.free_count:
                            pcp.free_count = free_count >> 1
                        page: Page = pages.popleft()
                        page._count.add(True)
                        if zero:
                            fill(pfn_to_virt(page.pfn), PAGE_SIZE)
                        return page
                finally:
                    unlock()
        return alloc_pages_general(order, gfp, node)

    return alloc_pages


def make_free_pages(allocator: PageAllocator) -> FreePages:
    """``free_pages`` for one machine."""
    area = allocator.rt.area
    check_free = allocator.check_free
    check_page_state = allocator.check_page_state
    double_free = allocator.double_free
    free_unref_page = allocator.free_unref_page

    def free_pages(page: Page, order: int = 0) -> None:
        """
        Drop a reference to ``2**order`` pages; the last one frees them (``__free_pages``).

        Never sleeps; may be called from an interrupt.

        Raises:
            BadFree: *page* does not head an allocation of that order, or is not of this machine.
            DoubleFree: the pages are free already.
            BadPageState: the pages are still mapped or locked.
        """
        try:
            entry = area()[HOT_FREE].get(page.zone_id)
            if page.order is not order or entry is None:
                entry = check_free(page, order)
        except AttributeError:
            raise BadArgumentType(f"page: expected a Page, got {page!r}") from None
        try:
            if not page._count.dec_and_test():
                return
        except LookupError:
            raise double_free(page, order) from None
        # Only now: while others have references, they may lock and map the page.
        if page._mapcount != -1 or page.flags or page.mapping is not None:
            check_page_state(page)
        # No lock: a stale type is corrected when the set is flushed, under zone->lock.
        pcp, lists, trylock, unlock, pageblock_types = entry
        migratetype = pageblock_types[page.pfn >> 9]
        if order or migratetype >= 3 or not trylock():
            free_unref_page(page, order, migratetype, pcp)
            return
        try:
            page.migratetype = migratetype
            lists[migratetype].appendleft(page)
            pcp.count = count = pcp.count + 1
            pcp.nr_free += 1
            if pcp.alloc_factor:
                pcp.alloc_factor >>= 1
            if (free_count := pcp.free_count) < pcp.max_free_count:
                pcp.free_count = free_count + 1
            # Below the mark the limit is lower than `high`, and depends on the zone's flags.
            if count >= pcp.high or not pcp.above_mark:
                pcp.flush(migratetype, False)
        finally:
            unlock()

    return free_pages
