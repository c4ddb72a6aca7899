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
    list_lock       of the slab's node: next, prev and PG_WORKINGSET while it is on a list there
    cpu_slab lock   next and private while the slab is on a CPU partial list
    compare-exchange  freelist, inuse, objects and frozen of a slab: `freelist_counters`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.list_head import ListHead
from concmem.runtime.api import lockless_lookups

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.slub_fast_path import Free
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Atomic, Lock, Pair, Refcount

PG_LOCKED: Final = 1 << 0
PG_WAITERS: Final = 1 << 7
PG_HEAD: Final = 1 << 6
PG_WORKINGSET: Final = 1 << 9
"""Of a slab: it is on ``slabs_partial`` or ``slabs_free`` of its node."""
PG_RESERVED: Final = 1 << 14

FLAG_NAMES: Final = (
    (PG_LOCKED, "locked"),
    (PG_HEAD, "head"),
    (PG_WAITERS, "waiters"),
    (PG_WORKINGSET, "workingset"),
    (PG_RESERVED, "reserved"),
)

FLAGS_CHECK_AT_FREE: Final = PG_LOCKED | PG_WAITERS | PG_RESERVED
"""Flags that a page must not have when it is freed (``PAGE_FLAGS_CHECK_AT_FREE``)."""

PAGE_TYPE_NONE: Final = -1
PAGE_TYPE_BUDDY: Final = -128
"""``_mapcount`` of a free block in the buddy system: its order is in ``private``."""
PAGE_TYPE_SLAB: Final = -4097
"""``_mapcount`` of the head of a slab."""
PAGE_TYPE_LARGE_KMALLOC: Final = -8193
"""``_mapcount`` of the head of a block that ``kmalloc`` handed out whole."""

INUSE_MASK: Final = 0xFFFF
OBJECTS_SHIFT: Final = 16
OBJECTS_MASK: Final = 0x7FFF
FROZEN: Final = 1 << 31
"""How ``inuse``, ``objects`` and ``frozen`` of a slab are packed into one word of counters."""


class Page(ListHead):
    """``struct page``. Made by :class:`~concmem.mm.mem_map.MemMap` only."""

    __slots__ = (
        "_count",
        "_mapcount",
        "flags",
        "freelist_counters",
        "mapping",
        "migratetype",
        "obj_exts",
        "order",
        "owners",
        "pfn",
        "private",
        "s_mem",
        "slab_cache",
        "slab_free",
        "zone",
        "zone_id",
    )

    # Of pages that are shared by several: in shared memory, or waited for.
    __guarded_by__: Final = {
        "_mapcount": lockless_lookups("mapping.lock"),
        "flags": lockless_lookups("flags_lock"),
    }

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
    """The order, while the page is the head of a free block; slabs on a CPU partial list from here."""
    mapping: object | None
    slab_cache: KmemCache | None
    """The cache that the slab belongs to."""
    slab_free: Free
    """
    How what starts here is freed: ``slab_cache.free``, found without touching the cache, which all
    CPUs share; or a large block of kmalloc.
    """
    freelist_counters: Pair
    """Of a slab: the first free object, and the counters. Not set before it is one."""
    obj_exts: Atomic
    """Of a slab of a SLAB_ACCOUNT cache: who has its objects (:mod:`concmem.mm.slab_obj_ext`)."""
    s_mem: int
    """Address of a slab's first object, colour included."""
    owners: dict[int, int]
    """
    The objects of a slab that somebody has: address, and the index of the free pointer in memory.

    Linux has no such table. It is what tells a second free of an object, and an object that is
    handed out twice, from right ones, at once and in every mode. Entries come and go in one step.
    """
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
        self.order = -1
        self.migratetype = 0

    @property
    def flags_lock(self) -> Lock:
        """Of the page's wait table bucket."""
        return self.zone.wait_table.bucket(self).lock

    def is_buddy(self) -> bool:
        """Whether the page heads a free block of the buddy system (``PageBuddy``)."""
        return self._mapcount == PAGE_TYPE_BUDDY

    def is_allocated(self) -> bool:
        """Whether the page heads an allocation: somebody has a reference."""
        return self._count.read() > 0

    def ref_count(self) -> int:
        """References now (``page_ref_count``)."""
        return self._count.read()

    # -- of a slab

    def is_slab(self) -> bool:
        """Whether the page heads a slab (``folio_test_slab``)."""
        return self._mapcount == PAGE_TYPE_SLAB

    @property
    def freelist(self) -> int | None:
        """Address of the slab's first free object that no CPU has taken; ``None`` for none."""
        return (self.freelist_counters.first or None) if self.slab_cache else None

    @property
    def inuse(self) -> int:
        """Objects that are handed out, or on the free list of the CPU whose slab this is."""
        return self.freelist_counters.second & INUSE_MASK if self.slab_cache else 0

    @property
    def objects(self) -> int:
        """Objects in the slab."""
        if not self.slab_cache:
            return 0
        return self.freelist_counters.second >> OBJECTS_SHIFT & OBJECTS_MASK

    @property
    def frozen(self) -> bool:
        """Whether the slab is a CPU's: on no list, and only that CPU allocates from it."""
        return bool(self.slab_cache) and self.freelist_counters.second >= FROZEN

    def __repr__(self) -> str:
        if self.slab_cache is not None:
            return (
                f"<slab pfn:{self.pfn:#x} {self.slab_cache.name} "
                f"inuse:{self.inuse}/{self.objects} frozen:{int(self.frozen)}>"
            )
        if self.is_buddy():
            state = f"free order:{self.private}"
        else:
            state = f"refcount:{self._count.read()} order:{self.order}"
        return f"<page pfn:{self.pfn:#x} {state}>"


def show_page_flags(flags: int) -> str:
    """The names of the ``PG_*`` bits, as ``%pGp`` prints them."""
    return "|".join(name for bit, name in FLAG_NAMES if flags & bit)
