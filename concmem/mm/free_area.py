"""Free blocks of one order: a list for each migratetype (``struct free_area``)."""

from __future__ import annotations

from typing import Final

from concmem.mm.list_head import List, list_del
from concmem.mm.migratetype import CMA, MIGRATE_TYPES
from concmem.mm.page import PAGE_TYPE_BUDDY, PAGE_TYPE_NONE, Page
from concmem.runtime.api import Lock, lockdep_assert_held, lockless_reads


class FreeArea:
    """``struct free_area``. Caller of every method holds zone->lock."""

    __slots__ = ("free_list", "lock", "nr_free", "nr_free_cma", "order")

    # zone->lock: nr_free, nr_free_cma, the lists
    # The watermark test looks at nr_free without the lock: the allocation itself looks again under it.
    __guarded_by__: Final = {"nr_free": lockless_reads("lock"), "nr_free_cma": "lock"}

    nr_free: int
    """Free blocks of this order, of all migratetypes."""
    nr_free_cma: int
    """Of these, blocks on the CMA list."""

    def __init__(self, order: int, lock: Lock) -> None:
        self.order = order
        self.lock = lock
        self.free_list: tuple[List[Page], ...] = tuple(List() for _ in range(MIGRATE_TYPES))
        self.nr_free = 0
        self.nr_free_cma = 0

    def add(self, page: Page, migratetype: int, tail: bool = False) -> None:
        """Put a block on the free list of *migratetype*, at the head unless *tail*."""
        lockdep_assert_held(self.lock)
        page.private = self.order
        page._mapcount = PAGE_TYPE_BUDDY
        page.order = -1
        if tail:
            self.free_list[migratetype].add_tail(page)
        else:
            self.free_list[migratetype].add(page)
        self.count(migratetype, 1)

    def remove(self, page: Page, migratetype: int) -> None:
        """Take a block off the free list of *migratetype*, which it is on."""
        lockdep_assert_held(self.lock)
        list_del(page)
        page.private = 0
        page._mapcount = PAGE_TYPE_NONE
        self.count(migratetype, -1)

    def count(self, migratetype: int, nr: int) -> None:
        """Count *nr* blocks more (or fewer, when negative)."""
        self.nr_free += nr
        if migratetype == CMA:
            self.nr_free_cma += nr

    def move(self, page: Page, old: int, new: int) -> None:
        """Move a block to the tail of another type's list (``move_to_free_list``)."""
        self.remove(page, old)
        self.add(page, new, tail=True)
