"""
The page allocator: ``alloc_pages`` and ``free_pages``.

Lock order:
    pcp->lock -> zone->lock         see zone.py
    (no lock is held while the slow path reclaims)

The common case, order 0 by way of a page set, is in :mod:`concmem.mm.fast_path`.

Follows ``mm/page_alloc.c`` of Linux 6.12: ``__alloc_pages_noprof``, ``get_page_from_freelist``,
``rmqueue``, ``free_unref_page``, ``free_pages_prepare``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from concmem.errors import BadArgument, BadArgumentType, BadFree, BadPageState, DoubleFree
from concmem.mm.alloc_flags import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NOFRAGMENT,
    ALLOC_WMARK_MASK,
    WMARK_HIGH,
    WMARK_MIN,
)
from concmem.mm.debug.page_debug import make_debug_alloc_pages, make_debug_free_pages
from concmem.mm.debug.page_report import dump_page
from concmem.mm.fast_path import AllocPages, FreePages, make_alloc_pages, make_free_pages
from concmem.mm.gfp import check_gfp
from concmem.mm.mem_map import MemMap
from concmem.mm.memory import Memory, pfn_to_virt
from concmem.mm.migratetype import ISOLATE, MOVABLE, PCPTYPES
from concmem.mm.page import FLAGS_CHECK_AT_FREE, PAGE_TYPE_NONE, Page
from concmem.mm.per_cpu_pageset import pcp_allowed_order
from concmem.mm.zone import ZONE_BELOW_HIGH, ZONE_NAMES, Zone
from concmem.mm.zonelist import AllocContext, build_context
from concmem.runtime.api import HOT, HOT_FREE
from concmem.units import MAX_PAGE_ORDER, PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.debug.page_debug import PageDebug
    from concmem.mm.node import PgData
    from concmem.mm.per_cpu_pageset import PerCpuPageset
    from concmem.mm.slow_path import SlowPath
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime


def check_order(order: object) -> int:
    """*order* if it is 0 to ``MAX_PAGE_ORDER``, else `BadArgument`."""
    if isinstance(order, bool) or not isinstance(order, int):
        raise BadArgumentType(f"order: expected a whole number, got {order!r}")
    if not 0 <= order <= MAX_PAGE_ORDER:
        raise BadArgument(f"order: must be 0 to {MAX_PAGE_ORDER}, got {order}")
    return order


class PageAllocator:
    """``alloc_pages`` and ``free_pages`` for all nodes of a machine."""

    slow_path: SlowPath
    """When no zone is above its low watermark; set at boot."""
    alloc_pages: AllocPages
    free_pages: FreePages

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("alloc_pages", "free_pages"):
            if name in cls.__dict__:
                raise TypeError(
                    f"{cls.__name__}.{name} would never be called: the fast paths are bound in "
                    "__init__. Override alloc_pages_general or free_unref_page, or wrap the "
                    "attribute after super().__init__()"
                )

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        mem_map: MemMap,
        nodes: Sequence[PgData],
        events: VmEvents,
        debug: PageDebug | None = None,
    ) -> None:
        self.rt = rt
        self.memory = memory
        self.mem_map = mem_map
        self.nodes = nodes
        self.events = events
        self.debug = debug
        """Of a machine that debugs its pages."""
        self._node_of_cpu = {cpu: node.node_id for node in nodes for cpu in node.cpus}
        # Offsets of each CPU's own dictionaries of what it has looked up before.
        self._contexts = rt.percpu(dict, "alloc_contexts").offset
        self._node_contexts = rt.percpu(dict, "alloc_contexts of nodes").offset
        if debug is None:
            self.alloc_pages = make_alloc_pages(self)
            self.free_pages = make_free_pages(self)
        else:
            self.alloc_pages = make_debug_alloc_pages(self, debug)
            self.free_pages = make_debug_free_pages(self, debug)

    # -- allocate

    def alloc_pages_general(self, order: int, gfp: int, node: int | None) -> Page | None:
        """Whatever the fast path does not do: see `fast_path.make_alloc_pages`."""
        check_order(order)
        context = self._context(gfp, node)
        page = self.get_page_from_freelist(context, order, context.alloc_flags)
        if page is None:
            page = self.slow_path.alloc_pages(context, order, gfp)
            if page is None:
                return None
        self._prep_new_page(page, order, context)
        return page

    def _context(self, gfp: int, node: int | None) -> AllocContext:
        """Where *gfp* may allocate from, looked up once for each CPU."""
        check_gfp(gfp)
        if node is None:
            contexts = self.rt.area()[self._contexts]
        else:
            contexts = self.rt.area()[self._node_contexts].setdefault(self._check_node(node), {})
        context: AllocContext | None = contexts.get(gfp)
        if context is None:
            cpu = self.rt.smp_processor_id()
            preferred = self._node_of_cpu.get(cpu, 0) if node is None else node
            context = contexts[gfp] = build_context(self.nodes, gfp, cpu, preferred)
            if node is None and context.zones:
                pcp = context.zones[0][1]
                migratetype = context.migratetype
                entry = pcp, pcp.lists[migratetype], pcp.trylock, pcp.unlock
                self.rt.area()[HOT][gfp] = (*entry, context.zero)
        return context

    def _check_node(self, node: object) -> int:
        if isinstance(node, bool) or not isinstance(node, int):
            raise BadArgumentType(f"node: expected a node number, got {node!r}")
        if not 0 <= node < len(self.nodes):
            raise BadArgument(f"node: there is no node {node}, only 0 to {len(self.nodes) - 1}")
        return node

    def get_page_from_freelist(
        self, context: AllocContext, order: int, alloc_flags: int
    ) -> Page | None:
        """Try each zone whose watermark allows it; ``None`` when none does. Takes no sleep."""
        for zone, pcp in context.zones:
            if (
                alloc_flags & ALLOC_NOFRAGMENT
                and zone.zone_pgdat is not context.zones[0][0].zone_pgdat
            ):
                break  # rather mix types here than go to another node
            # No lock: an estimate, refreshed by whoever moves pages under zone->lock.
            if (order or not pcp.above_mark) and not self._zone_allows(
                zone, context, order, alloc_flags
            ):
                continue
            page = self._rmqueue(zone, pcp, context, order, alloc_flags)
            if page is not None:
                if alloc_flags & ALLOC_HIGHATOMIC and zone.reserve_highatomic_pageblock(
                    page, order
                ):
                    self.events.count("highatomic_reserved")
                return page
        if alloc_flags & ALLOC_NOFRAGMENT:
            return self.get_page_from_freelist(context, order, alloc_flags & ~ALLOC_NOFRAGMENT)
        return None

    def _zone_allows(self, zone: Zone, context: AllocContext, order: int, alloc_flags: int) -> bool:
        """Test the watermarks, the high one first while the zone was last seen above it."""
        highest = context.highest_zoneidx
        if not zone.below_high():
            if zone.watermark_ok(order, zone.wmark_pages(WMARK_HIGH), highest, alloc_flags):
                return True
            zone.set_flag(ZONE_BELOW_HIGH)
        if alloc_flags & ALLOC_NO_WATERMARKS:
            return True
        wmark = alloc_flags & ALLOC_WMARK_MASK
        if zone.watermark_ok(order, zone.wmark_pages(wmark), highest, alloc_flags):
            return True
        # A boost is there to make kswapd work, not to keep single pages from who cannot wait.
        if order or wmark != WMARK_MIN or not alloc_flags & ALLOC_MIN_RESERVE:
            return False
        return zone.watermark_ok(order, zone.watermark.min, highest, alloc_flags)

    def _rmqueue(
        self,
        zone: Zone,
        pcp: PerCpuPageset,
        context: AllocContext,
        order: int,
        alloc_flags: int,
    ) -> Page | None:
        """From this CPU's page set if possible, else from the buddy system."""
        if pcp_allowed_order(order):
            # trylock: the set may be held by a drain, or by what an interrupt interrupted.
            if pcp.trylock():
                try:
                    page = pcp.rmqueue(order, context.migratetype, alloc_flags)
                finally:
                    pcp.unlock()
                if page is not None:
                    return page
            else:
                self.events.count("pcp_trylock_failed")
        page = zone.rmqueue_buddy(order, context.migratetype, alloc_flags)
        if page is not None:
            self.events.count("pgalloc_direct", 1 << order)
        return page

    def _prep_new_page(self, page: Page, order: int, context: AllocContext) -> None:
        """Nobody else knows the page yet (``prep_new_page``)."""
        page.order = order
        page.migratetype = context.migratetype
        if context.zero:
            self.memory.fill(pfn_to_virt(page.pfn), 1 << order + PAGE_SHIFT)
        page._count.add(True)

    # -- free

    def split_page(self, page: Page) -> None:
        """
        Make an allocation of order *n* 2**n allocations of order 0, each with one reference.

        The caller is the only one who has a reference (``split_page``).

        Raises:
            BadFree: *page* heads no allocation, or others have references.
        """
        self._check_page(page)
        if page._count.read() != 1 or page._mapcount != PAGE_TYPE_NONE:
            raise BadFree(f"split_page: {page!r} heads no allocation of the caller's own")
        nr_pages = 1 << page.order
        for pfn in range(page.pfn + 1, page.pfn + nr_pages):
            tail = self.mem_map.page(pfn, page.zone)
            tail.order = 0
            tail.migratetype = page.migratetype
            tail._count.add(True)
        if self.debug is not None:
            self.debug.split(page, page.order)
        page.order = 0

    def put_page(self, page: Page) -> None:
        """Drop a reference taken with :meth:`get_page` (``put_page``)."""
        if not isinstance(page, Page):
            raise BadArgumentType(f"page: expected a Page, got {page!r}")
        self.free_pages(page, max(page.order, 0))

    def get_page(self, page: Page) -> None:
        """
        Take one more reference. The caller must have one already (``get_page``).

        Raises:
            DoubleFree: the page is free, so the caller has none.
        """
        self._check_page(page)
        if not page._count.inc_not_zero():
            raise DoubleFree(f"get_page: {page!r} is free")

    def free_unref_page(self, page: Page, order: int, migratetype: int, pcp: PerCpuPageset) -> None:
        """Into this CPU's page set if it may go there and is not in use, else to the buddies."""
        if migratetype >= PCPTYPES and migratetype != ISOLATE:
            migratetype = MOVABLE
        if migratetype == ISOLATE or not pcp_allowed_order(order) or not pcp.trylock():
            self._free_direct(page, order, page.zone)
            return
        try:
            pcp.commit(page, order, migratetype)
        finally:
            pcp.unlock()

    def _free_direct(self, page: Page, order: int, zone: Zone) -> None:
        zone.free_one_page(page, order)
        self.events.count("pgfree_direct", 1 << order)

    # -- what was wrong with a free

    def check_free(self, page: Page, order: int) -> tuple[Any, ...]:
        """Raise what is wrong with a free; else the fast path's entry for the page's zone."""
        check_order(order)
        self._check_page(page)
        if page.order != order:
            self._raise_bad_free(page, order)
        pcp = page.zone.pageset.this()
        entry = pcp, pcp.lists, pcp.trylock, pcp.unlock, self.mem_map.pageblock_types
        self.rt.area()[HOT_FREE][page.zone_id] = entry
        return entry

    def _check_page(self, page: object) -> None:
        if not isinstance(page, Page):
            raise BadArgumentType(f"page: expected a Page, got {page!r}")
        self.mem_map.check_page(page)

    def _raise_bad_free(self, page: Page, order: int) -> None:
        head = self.mem_map.head(page.pfn)
        if page.ref_count():
            raise BadFree(
                f"order: pfn {page.pfn:#x} was allocated with order {page.order}, freed with {order}"
            )
        if head is None or head is page or not head.ref_count():
            raise self.double_free(page, order)
        raise BadFree(
            f"page: pfn {page.pfn:#x} is a tail page of the order-{head.order} block at pfn "
            f"{head.pfn:#x}; free its first page"
        )

    def double_free(self, page: Page, order: int) -> DoubleFree:
        zone = page.zone
        return DoubleFree(
            f"page: pfn {page.pfn:#x} (node {zone.zone_pgdat.node_id}, zone {ZONE_NAMES[zone.index]}) "
            f"freed with order {order}, but it is free already"
        )

    def check_page_state(self, page: Page) -> None:
        """
        ``BUG: Bad page state``, unless it is only a flag that does not matter.

        The caller has just dropped the last reference; it is taken back before this raises.
        """
        reasons = []
        if page._mapcount != PAGE_TYPE_NONE:
            reasons.append("nonzero mapcount")
        if page.mapping is not None:
            reasons.append("non-NULL mapping")
        if page.flags & FLAGS_CHECK_AT_FREE:
            reasons.append("PAGE_FLAGS_CHECK_AT_FREE flag(s) set")
        if not reasons:
            return
        page._count.add(True)
        reason = (
            f"BUG: Bad page state in process cpu{self.rt.smp_processor_id()}  pfn:{page.pfn:05x}"
        )
        why = ", ".join(reasons)
        if self.debug is None:
            raise BadPageState("\n".join([reason, *dump_page(page, why)]))
        address = pfn_to_virt(page.pfn)
        raise BadPageState(self.debug.reporter.report(page, reason, address, [], why, raised=True))
