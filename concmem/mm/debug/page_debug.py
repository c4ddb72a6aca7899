"""
What is done to pages on their way out and in, on machines that debug them.

Such a machine has `alloc_pages` and `free_pages` from here instead of those of :mod:`concmem.mm.fast_path`; others
do not pay for it.

Follows ``post_alloc_hook`` and ``free_pages_prepare`` of ``mm/page_alloc.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import BadArgumentType
from concmem.mm import gfp as gfp_flags
from concmem.mm.gfp import GFP_KERNEL, check_gfp
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import Page
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.debug.fault_injection import FailPageAlloc
    from concmem.mm.debug.kasan import Kasan
    from concmem.mm.debug.page_owner import PageOwner
    from concmem.mm.debug.page_poison import PagePoison
    from concmem.mm.debug.page_report import PageReporter
    from concmem.mm.fast_path import AllocPages, FreePages
    from concmem.mm.memory import Memory
    from concmem.mm.page_alloc import PageAllocator


class PageDebug:
    """Of one machine; the parts that it does not have are ``None``."""

    def __init__(
        self,
        memory: Memory,
        reporter: PageReporter,
        poison: PagePoison | None,
        owner: PageOwner | None,
        kasan: Kasan | None,
        fail: FailPageAlloc | None,
    ) -> None:
        self._memory = memory
        self.reporter = reporter
        self.poison = poison
        self.owner = owner
        self.kasan = kasan
        self.fail = fail

    def post_alloc(self, page: Page, order: int, gfp: int) -> None:
        """Pages that nobody else knows are about to be handed out."""
        if self.poison is not None:
            self.poison.unpoison_pages(page, order)
        if self.kasan is not None:
            self.kasan.unpoison_pages(page, order)
        if gfp & gfp_flags.ZERO:
            self._memory.fill(pfn_to_virt(page.pfn), 1 << order + PAGE_SHIFT)
        if self.owner is not None:
            self.owner.set_page_owner(page, order, gfp)

    def free_prepare(self, page: Page, order: int) -> None:
        """The last reference to the pages is gone, and they are on no list yet."""
        if self.owner is not None:
            self.owner.reset_page_owner(page, order)
        if self.poison is not None:
            self.poison.poison_pages(page, order)
        if self.kasan is not None:
            self.kasan.poison_pages(page, order)

    def split(self, page: Page, order: int) -> None:
        """The block has become single pages of the same owner."""
        if self.owner is not None:
            self.owner.split_page_owner(page, order)


def make_debug_alloc_pages(allocator: PageAllocator, debug: PageDebug) -> AllocPages:
    """``alloc_pages`` for one machine."""
    area = allocator.rt.area
    cond_resched = allocator.rt.cond_resched
    alloc_pages_general = allocator.alloc_pages_general
    post_alloc = debug.post_alloc
    fail = debug.fail

    def alloc_pages(order: int = 0, gfp: int = GFP_KERNEL, node: int | None = None) -> Page | None:
        """As any machine's ``alloc_pages``."""
        if area()[0]:
            cond_resched()
        check_gfp(gfp)
        if fail is not None and order.__class__ is int and fail.should_fail_alloc_page(order, gfp):
            return None
        # Cleared only when it has been looked at.
        page = alloc_pages_general(order, gfp & ~gfp_flags.ZERO, node)
        if page is not None:
            post_alloc(page, order, gfp)
        return page

    return alloc_pages


def make_debug_free_pages(allocator: PageAllocator, debug: PageDebug) -> FreePages:
    """``free_pages`` for one machine."""
    check_free = allocator.check_free
    free_prepare = debug.free_prepare
    free_unref_page = allocator.free_unref_page
    pageblock_types = allocator.mem_map.pageblock_types

    def free_pages(page: Page, order: int = 0) -> None:
        """As any machine's ``free_pages``."""
        if not isinstance(page, Page):
            raise BadArgumentType(f"page: expected a Page, got {page!r}")
        pcp = check_free(page, order)[0]
        try:
            if not page._count.dec_and_test():
                return
        except LookupError:
            raise allocator.double_free(page, order) from None
        # Only now: while others have references, they may lock and map the page.
        if page._mapcount != -1 or page.flags or page.mapping is not None:
            allocator.check_page_state(page)
        free_prepare(page, order)
        # No lock: a stale type is corrected when the set is flushed, under zone->lock.
        free_unref_page(page, order, pageblock_types[page.pfn >> 9], pcp)

    return free_pages
