"""
``verify()``: do the structures of the page allocator agree?

Called with every CPU parked between two operations, so nothing is in anybody's hands. Reads the
structures only, and finds each page by walking, never by trusting a counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concmem.errors import FreeListError, ListCorruption, PageCountError, PageOwnershipError
from concmem.mm.mem_map import MemMap
from concmem.mm.migratetype import CMA, ISOLATE, MOVABLE, NAMES, is_mergeable
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import PerCpuPageset, pindex_to_order
from concmem.mm.zone import Zone
from concmem.units import MAX_PAGE_ORDER, PAGEBLOCK_ORDER


def validate_pages(mem_map: MemMap, zones: Sequence[Zone]) -> None:
    """
    Every rule for every zone.

    Raises:
        FreeListError: a free block is misaligned, on the wrong list, or not merged.
        PageCountError: a counter differs from what it counts, or pages are lost.
        PageOwnershipError: a page is in two places.
    """
    owners: dict[Zone, dict[int, tuple[int, str]]] = {zone: {} for zone in zones}
    for page in list(mem_map.pages.values()):
        if page.is_allocated():
            _check_allocated(page)
            owners[page.zone][page.pfn] = (page.order, "allocated")
    for zone in zones:
        _validate_zone(zone, owners[zone])


def _where(zone: Zone) -> str:
    return f"node {zone.zone_pgdat.node_id} zone {zone.name}"


def _check_allocated(page: Page) -> None:
    if page.is_buddy() or page.next is not None:
        raise PageOwnershipError(
            f"{_where(page.zone)} order {page.order} pfn {page.pfn:#x}: allocated and on a free list"
        )
    if page.order < 0:
        raise PageCountError(
            f"{_where(page.zone)} pfn {page.pfn:#x}: has {page._count.read()} reference(s), but heads "
            "no allocation"
        )


def _validate_zone(zone: Zone, owned: dict[int, tuple[int, str]]) -> None:
    """All blocks of one zone: walk the lists, then check that they tile it."""
    nr_free = 0
    nr_cma = 0
    for order, migratetype, page in _for_each_free_block(zone):
        _claim(zone, owned, page, order, f"the {NAMES[migratetype]} free list")
        if migratetype != ISOLATE:
            nr_free += 1 << order
        nr_cma += (1 << order) * (migratetype == CMA)
    for pfn in zone.deferred:
        owned.setdefault(pfn, (MAX_PAGE_ORDER, "never used"))
        nr_free += 1 << MAX_PAGE_ORDER
    for cpu, pcp in enumerate(zone.pageset.all()):
        _validate_pageset(zone, cpu, pcp, owned)
    _check_counter(zone, nr_free, nr_cma)
    _check_tiling(zone, owned)


def _claim(
    zone: Zone, owned: dict[int, tuple[int, str]], page: Page, order: int, place: str
) -> None:
    other = owned.setdefault(page.pfn, (order, place))
    if other != (order, place) or place != other[1]:
        raise PageOwnershipError(
            f"{_where(zone)} order {order} pfn {page.pfn:#x}: in {place} and also {other[1]} "
            f"(order {other[0]})"
        )


def _for_each_free_block(zone: Zone) -> Iterator[tuple[int, int, Page]]:
    for order, area in enumerate(zone.free_area):
        on_lists = 0
        on_cma = 0
        seen: set[int] = set()
        for migratetype, free_list in enumerate(area.free_list):
            try:
                for page in free_list:
                    if page.pfn in seen:
                        raise PageOwnershipError(
                            f"{_where(zone)} order {order} pfn {page.pfn:#x}: twice on free lists"
                        )
                    seen.add(page.pfn)
                    _check_free_block(zone, page, order, migratetype)
                    on_lists += 1
                    on_cma += migratetype == CMA
                    yield order, migratetype, page
                if order == MAX_PAGE_ORDER and migratetype == MOVABLE:
                    on_lists += len(zone.deferred)
            except ListCorruption as error:
                raise FreeListError(
                    f"{_where(zone)} order {order} {NAMES[migratetype]}: {error}"
                ) from error
        if on_lists != area.nr_free or on_cma != area.nr_free_cma:
            raise PageCountError(
                f"{_where(zone)} order {order}: nr_free {area.nr_free} (CMA {area.nr_free_cma}), "
                f"but {on_lists} (CMA {on_cma}) blocks on the lists"
            )


def _check_free_block(zone: Zone, page: Page, order: int, migratetype: int) -> None:
    where = f"{_where(zone)} order {order} pfn {page.pfn:#x}"
    mem_map = zone.mem_map
    if mem_map.pages.get(page.pfn) is not page or page.zone is not zone:
        raise FreeListError(f"{where}: on a list of a zone that it is not in")
    if page.pfn & ((1 << order) - 1):
        raise FreeListError(f"{where}: a free block is not aligned to its order")
    if not (zone.zone_start_pfn <= page.pfn and page.pfn + (1 << order) <= zone.zone_end_pfn()):
        raise FreeListError(f"{where}: a free block reaches out of its zone")
    if not page.is_buddy() or page.private != order:
        raise FreeListError(f"{where}: on this order's list, but the page says {page!r}")
    if page._count.read():
        raise PageCountError(f"{where}: free with {page._count.read()} references")
    block_type = mem_map.pageblock_type(page.pfn)
    if block_type != migratetype:
        raise FreeListError(
            f"{where}: on the {NAMES[migratetype]} list, but its page block is {NAMES[block_type]}"
        )
    buddy = zone._find_buddy_page(page.pfn, order) if order < MAX_PAGE_ORDER else None
    if buddy is not None and _may_merge(zone, page, buddy, order):
        raise FreeListError(
            f"{where}: its buddy at pfn {buddy.pfn:#x} is free too, and they are not merged"
        )


def _may_merge(zone: Zone, page: Page, buddy: Page, order: int) -> bool:
    if order < PAGEBLOCK_ORDER:
        return True
    types = [zone.mem_map.pageblock_type(page.pfn), zone.mem_map.pageblock_type(buddy.pfn)]
    return types[0] == types[1] or all(map(is_mergeable, types))


def _validate_pageset(
    zone: Zone, cpu: int, pcp: PerCpuPageset, owned: dict[int, tuple[int, str]]
) -> None:
    where = f"{_where(zone)} cpu {cpu}"
    if pcp.lock.locked():
        raise PageCountError(f"{where}: the page set is locked although its CPU is parked")
    count = 0
    for pindex, pages in enumerate(pcp.lists):
        order = pindex_to_order(pindex)
        for page in pages:
            if page.zone is not zone:
                raise PageOwnershipError(
                    f"{where} order {order} pfn {page.pfn:#x}: in a page set of another zone"
                )
            if page.is_buddy() or page._count.read():
                raise PageOwnershipError(
                    f"{where} order {order} pfn {page.pfn:#x}: cached, but the page says {page!r}"
                )
            place = f"list {pindex} of cpu {cpu}'s page set"
            if page.pfn in owned:
                raise PageOwnershipError(
                    f"{where} order {order} pfn {page.pfn:#x}: in {place} and also "
                    f"{owned[page.pfn][1]}"
                )
            owned[page.pfn] = (order, place)
            count += 1 << order
    if count != pcp.count:
        raise PageCountError(f"{where}: count {pcp.count}, but {count} pages on the lists")


def _check_counter(zone: Zone, nr_free: int, nr_cma: int) -> None:
    counted = zone.nr_free_pages.value + sum(p.vm_stat_diff for p in zone.pageset.all())
    if counted != nr_free:
        raise PageCountError(
            f"{_where(zone)}: nr_free_pages {counted}, but {nr_free} free pages on the lists"
        )
    if zone.nr_free_cma_pages.value != nr_cma:
        raise PageCountError(
            f"{_where(zone)}: nr_free_cma {zone.nr_free_cma_pages.value}, but {nr_cma} on the lists"
        )


def _check_tiling(zone: Zone, owned: dict[int, tuple[int, str]]) -> None:
    """The blocks must not overlap, and together they must be all managed pages."""
    end = zone.zone_start_pfn
    total = 0
    previous = "the start of the zone"
    for pfn in sorted(owned):
        order, place = owned[pfn]
        if pfn < end:
            raise PageOwnershipError(
                f"{_where(zone)} order {order} pfn {pfn:#x}: {place}, but also part of {previous}"
            )
        end = pfn + (1 << order)
        total += 1 << order
        previous = f"the order-{order} block at pfn {pfn:#x} ({place})"
    if total != zone.managed_pages:
        raise PageCountError(
            f"{_where(zone)}: free, cached and allocated pages are {total}, "
            f"but {zone.managed_pages} are managed: {zone.managed_pages - total} lost"
        )
