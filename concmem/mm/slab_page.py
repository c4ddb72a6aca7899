"""
Slabs as pages: from the buddy system, laid out for a cache, and back.

A new slab is private to whoever makes it, so nothing here takes a lock of the cache; a slab that
goes is empty, on no list and no CPU's, so nobody else can reach it.

Follows ``allocate_slab``, ``shuffle_freelist``, ``discard_slab`` and ``free_slab`` of ``mm/slub.c``,
Linux 6.12; colours as in ``cache_grow`` of the older ``mm/slab.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm import gfp as gfp_flags
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import OBJECTS_SHIFT, PAGE_TYPE_NONE, PAGE_TYPE_SLAB
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from concmem.mm.debug.kasan import Kasan
    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.page import Page
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.rcu import Rcu
    from concmem.runtime.api import Runtime, Words

_GFP_RECLAIM_MASK = (
    gfp_flags.RECLAIM
    | gfp_flags.HIGH
    | gfp_flags.IO
    | gfp_flags.FS
    | gfp_flags.NOWARN
    | gfp_flags.RETRY_MAYFAIL
    | gfp_flags.NOFAIL
    | gfp_flags.NORETRY
    | gfp_flags.MEMALLOC
    | gfp_flags.NOMEMALLOC
)
_GFP_CONSTRAINT_MASK = gfp_flags.HARDWALL | gfp_flags.THISNODE


class SlabPages:
    """Makes and frees slabs of all caches of a machine."""

    def __init__(
        self,
        rt: Runtime,
        page_alloc: PageAllocator,
        rcu: Rcu,
        check: SlubCheck,
        kasan: Kasan | None = None,
    ) -> None:
        self._rt = rt
        self._check = check
        self._kasan = kasan
        self.events = page_alloc.events
        self._page_alloc = page_alloc
        self._slabs = page_alloc.mem_map.slabs
        self._rcu = rcu

    # -- a new slab

    def new_slab(self, s: KmemCache, gfp: int, node: int | None, words: Words) -> Page | None:
        """As `allocate_slab`, and the slab is counted on its node."""
        slab = self.allocate_slab(s, gfp, node, words)
        if slab is not None:
            s.node[slab.zone.zone_pgdat.node_id].inc_slabs_node(slab.objects)
        return slab

    def allocate_slab(self, s: KmemCache, gfp: int, node: int | None, words: Words) -> Page | None:
        """
        A slab of *s*, all objects on its free list.

        May sleep when *gfp* has ``DIRECT_RECLAIM``; interrupts are enabled. ``None``: no memory.
        """
        gfp = gfp & (_GFP_RECLAIM_MASK | _GFP_CONSTRAINT_MASK) | s.allocflags
        slab, order = self._alloc_slab_page(s, gfp, node)
        if slab is None:
            return None
        objects = s.objs_per_slab if order == s.order else s.min_objects
        try:
            self._set_up(s, slab, order, objects, words)
        except BaseException:  # of a constructor: the pages are no slab yet
            self._page_alloc.free_pages(slab, order)
            raise
        slab.zone.zone_pgdat.account_slab(s.reclaimable, 1 << order)
        return slab

    def _alloc_slab_page(self, s: KmemCache, gfp: int, node: int | None) -> tuple[Page | None, int]:
        """Pages, and their order: the one wanted, without much trying, or else the smallest."""
        try_gfp = (gfp | gfp_flags.NOWARN | gfp_flags.NORETRY) & ~gfp_flags.NOFAIL
        if gfp & gfp_flags.DIRECT_RECLAIM and s.order > s.min_order:
            try_gfp = (try_gfp | gfp_flags.NOMEMALLOC) & ~gfp_flags.RECLAIM
        page = self._page_alloc.alloc_pages(s.order, try_gfp, node)
        if page is not None:
            return page, s.order
        page = self._page_alloc.alloc_pages(s.min_order, gfp, node)
        if page is not None:
            s.cpu_slab.this().count("order_fallback")
        return page, s.min_order

    def _set_up(self, s: KmemCache, slab: Page, order: int, objects: int, words: Words) -> None:
        """Make pages a slab. Nobody else knows them yet."""
        base = pfn_to_virt(slab.pfn)
        s_mem = base + self._next_colour(s, slab, order) + s.red_left_pad
        addresses = [s_mem + s.size * index for index in self._order_of(s, objects)]
        self._set_up_objects(s, base, order, addresses)
        for address, following in zip(addresses, [*addresses[1:], 0], strict=True):
            s.set_freepointer(words, address, following)
        slab.slab_cache = s
        slab.slab_free = s.free
        slab._mapcount = PAGE_TYPE_SLAB
        slab.private = 0
        slab.owners = {}
        slab.s_mem = s_mem
        # A pair of its own, for good: a reader that comes late must find something to compare.
        if not hasattr(slab, "freelist_counters"):
            slab.freelist_counters = self._rt.pair(0, 0, "slab->freelist_counters")
        slab.freelist_counters.set(addresses[0], objects << OBJECTS_SHIFT)
        first = base >> PAGE_SHIFT
        for number in range(first, first + (1 << order)):
            self._slabs[number] = slab

    def _set_up_objects(
        self, s: KmemCache, base: int, order: int, addresses: Sequence[int]
    ) -> None:
        """What debugging wants to be in a slab, and what the constructor does (``setup_object``)."""
        debugged = s.layout is not None
        if debugged:
            self._check.setup_slab(s, base, order)
        if self._kasan is not None:
            self._kasan.poison_slab(base, order)
        for address in addresses:
            if debugged:
                self._check.setup_object(s, address)
            if s.ctor is not None:
                self._construct(s, s.ctor, address)

    def _construct(self, s: KmemCache, ctor: Callable[[int], None], address: int) -> None:
        """The constructor may use the object, and nobody else."""
        if self._kasan is None:
            ctor(address)
            return
        self._kasan.unpoison(address, s.object_size)
        try:
            ctor(address)
        finally:
            self._kasan.poison_object(address, s.object_size)

    def _order_of(self, s: KmemCache, objects: int) -> Sequence[int]:
        """Indices of the objects in the order of a new free list (``shuffle_freelist``)."""
        if not s.random_seq or objects < 2:
            return range(objects)
        start = s.rng.randrange(objects)
        rotated = s.random_seq[start:] + s.random_seq[:start]
        return [index for index in rotated if index < objects]

    def _next_colour(self, s: KmemCache, slab: Page, order: int) -> int:
        """Offset of the first object, bytes: successive slabs of a node start at successive ones."""
        if s.colour < 2 or order != s.order:
            return 0
        n = s.node[slab.zone.zone_pgdat.node_id]
        # No lock, on purpose: two slabs that are made at the same time may get the same colour.
        # What is read is clamped, since the other CPU may just have passed the end.
        # Since Linux kernel commit 03d1d43a1262 ("mm/slab: racy access/modify the slab color") (in v4.7)
        colour = n.colour_next.value
        n.colour_next.value = colour + 1 if colour + 1 < s.colour else 0
        return colour * s.colour_off if colour < s.colour else 0

    # -- the end of a slab

    def discard_slab(self, s: KmemCache, slab: Page) -> None:
        """Give an empty slab back. The caller has taken it off all lists and holds no list_lock."""
        s.node[slab.zone.zone_pgdat.node_id].dec_slabs_node(slab.objects)
        s.cpu_slab.this().count("free_slab")
        self.free_slab(s, slab)

    def free_slab(self, s: KmemCache, slab: Page) -> None:
        """Give back an empty slab that is not counted any more, at once or after a grace period."""
        if s.layout is not None and s.layout.checks:
            self._check.check_empty_slab(s, slab)
        if s.flags & SLAB_TYPESAFE_BY_RCU:
            self._rcu.call_rcu(lambda: self._free_slab(s, slab))
        else:
            self._free_slab(s, slab)

    def _free_slab(self, s: KmemCache, slab: Page) -> None:
        """To the buddy system (``__free_slab``)."""
        order = slab.order
        first = pfn_to_virt(slab.pfn) >> PAGE_SHIFT
        for number in range(first, first + (1 << order)):
            del self._slabs[number]
        slab.zone.zone_pgdat.account_slab(s.reclaimable, -1 << order)
        slab.owners = {}
        slab.slab_cache = None
        slab._mapcount = PAGE_TYPE_NONE
        self._page_alloc.free_pages(slab, order)
