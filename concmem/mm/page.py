"""
``struct page``: one physical page, or the head of a block of them.

Page structs are made lazily (see :mod:`concmem.mm.mem_map`), so most pages of a large machine have
none. A page is a list node: it is on at most one list at a time, as ``page->lru``.

Who may change what:
    zone->lock      next, prev, private and page_type while the page is in the buddy system
    pcp->lock       while it is in a per-CPU page set
    its owner       everything else, while it is allocated
    nobody          _count is a refcount: anybody may, at any time
    wait_table      flags, under the lock of the page's bucket
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.list_head import ListHead

if TYPE_CHECKING:
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Refcount

PG_LOCKED: Final = 1 << 0
PG_WAITERS: Final = 1 << 7
PG_HEAD: Final = 1 << 6
PG_RESERVED: Final = 1 << 14

FLAG_NAMES: Final = (
    (PG_LOCKED, "locked"),
    (PG_HEAD, "head"),
    (PG_WAITERS, "waiters"),
    (PG_RESERVED, "reserved"),
)

FLAGS_CHECK_AT_FREE: Final = PG_LOCKED | PG_WAITERS | PG_RESERVED
"""Flags that a page must not have when it is freed (``PAGE_FLAGS_CHECK_AT_FREE``)."""

PAGE_TYPE_NONE: Final = -1
PAGE_TYPE_BUDDY: Final = -128
"""``_mapcount`` of a free block in the buddy system: its order is in ``private``."""


class Page(ListHead):
    """``struct page``. Made by :class:`~concmem.mm.mem_map.MemMap` only."""

    __slots__ = (
        "_count",
        "_mapcount",
        "flags",
        "freelist",
        "inuse",
        "mapping",
        "migratetype",
        "objects",
        "order",
        "pfn",
        "private",
        "slab_cache",
        "zone",
        "zone_id",
    )

    pfn: int
    zone: Zone
    zone_id: str
    """``zone.id``: an interned text, which CPUs share at no cost (``page_zone_id``)."""
    flags: int
    """``PG_*`` bits. Changed under the lock of the page's wait table bucket."""
    _count: Refcount
    """References. 0: free, or not yet handed out."""
    _mapcount: int
    """Page table entries that map the page, less one; ``PAGE_TYPE_BUDDY`` while free."""
    private: int
    """The order, while the page is the head of a free block."""
    mapping: object | None
    slab_cache: object | None
    freelist: int | None
    inuse: int
    objects: int
    order: int
    """Order of the allocation, or of the block in a page set, that the page heads; else -1."""
    migratetype: int
    """The type that the allocation asked for, or of the list in a page set."""

    def __init__(self, pfn: int, zone: Zone, count: Refcount) -> None:
        self.next = None
        self.prev = None
        self.pfn = pfn
        self.zone = zone
        self.zone_id = zone.id
        self.flags = 0
        self._count = count
        self._mapcount = PAGE_TYPE_NONE
        self.private = 0
        self.mapping = None
        self.slab_cache = None
        self.freelist = None
        self.inuse = 0
        self.objects = 0
        self.order = -1
        self.migratetype = 0

    def is_buddy(self) -> bool:
        """Whether the page heads a free block of the buddy system (``PageBuddy``)."""
        return self._mapcount == PAGE_TYPE_BUDDY

    def is_allocated(self) -> bool:
        """Whether the page heads an allocation: somebody has a reference."""
        return self._count.read() > 0

    def ref_count(self) -> int:
        """References now (``page_ref_count``)."""
        return self._count.read()

    def __repr__(self) -> str:
        if self.is_buddy():
            state = f"free order:{self.private}"
        else:
            state = f"refcount:{self._count.read()} order:{self.order}"
        return f"<page pfn:{self.pfn:#x} {state}>"


def show_page_flags(flags: int) -> str:
    """The names of the ``PG_*`` bits, as ``%pGp`` prints them."""
    return "|".join(name for bit, name in FLAG_NAMES if flags & bit)
