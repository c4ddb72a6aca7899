"""
``verify()``: do the structures of the page allocator agree?

Called with every CPU parked between two operations, or asleep in one (in reclaim, in a drain), so no
critical section is under way. Reads the
structures only, and finds each page by walking, never by trusting a counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from concmem.errors import FreeListError, ListCorruption, PageCountError, PageOwnershipError
from concmem.mm.mem_map import MemMap
from concmem.mm.migratetype import (
    CMA,
    HIGHATOMIC,
    ISOLATE,
    MIGRATE_TYPES,
    MOVABLE,
    NAMES,
    is_mergeable,
)
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import PerCpuPageset, pindex_to_order
from concmem.mm.zone import Zone
from concmem.units import MAX_PAGE_ORDER, PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER


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
    # A slab may be on a list of its cache.
    if page.is_buddy() or (page.next is not None and not page.is_slab()):
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
    free = [0] * MIGRATE_TYPES
    for order, migratetype, page in _for_each_free_block(zone):
        _claim(zone, owned, page.pfn, order, f"the {NAMES[migratetype]} free list")
        free[migratetype] += 1 << order
    for pfn in zone.deferred:
        _claim(zone, owned, pfn, MAX_PAGE_ORDER, "the blocks never used")
        _check_block_types(zone, pfn, MAX_PAGE_ORDER, MOVABLE)
        free[MOVABLE] += 1 << MAX_PAGE_ORDER
    for cpu, pcp in enumerate(zone.pageset.all()):
        _validate_pageset(zone, cpu, pcp, owned)
    _check_counters(zone, free)
    _check_above_mark(zone)
    _check_tiling(zone, owned)


def _claim(zone: Zone, owned: dict[int, tuple[int, str]], pfn: int, order: int, place: str) -> None:
    """Note that the block at *pfn* is in *place*; it must not be anywhere else."""
    if pfn in owned:
        other_order, other = owned[pfn]
        raise PageOwnershipError(
            f"{_where(zone)} order {order} pfn {pfn:#x}: in {place} and also {other} "
            f"(order {other_order})"
        )
    owned[pfn] = (order, place)


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
    _check_block_types(zone, page.pfn, order, migratetype)
    buddy = zone._find_buddy_page(page.pfn, order) if order < MAX_PAGE_ORDER else None
    if buddy is not None and _may_merge(zone, page, buddy, order):
        raise FreeListError(
            f"{where}: its buddy at pfn {buddy.pfn:#x} is free too, and they are not merged"
        )


def _check_block_types(zone: Zone, pfn: int, order: int, migratetype: int) -> None:
    """Every page block that a free block of *migratetype* reaches into has that type."""
    for block in range(pfn, pfn + (1 << order), PAGEBLOCK_NR_PAGES):
        block_type = zone.mem_map.pageblock_type(block)
        if block_type != migratetype:
            raise FreeListError(
                f"{_where(zone)} order {order} pfn {pfn:#x}: on the {NAMES[migratetype]} list, but "
                f"the page block at pfn {block:#x} is {NAMES[block_type]}"
            )


def _may_merge(zone: Zone, page: Page, buddy: Page, order: int) -> bool:
    if order < PAGEBLOCK_ORDER:
        return True
    types = [zone.mem_map.pageblock_type(page.pfn), zone.mem_map.pageblock_type(buddy.pfn)]
    if ISOLATE in types:
        return False  # a contiguous allocation is at work, asleep while CPUs drain
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
            _claim(zone, owned, page.pfn, order, f"list {pindex} of cpu {cpu}'s page set")
            count += 1 << order
    if count != pcp.count:
        raise PageCountError(f"{where}: count {pcp.count}, but {count} pages on the lists")


def _check_counters(zone: Zone, free: list[int]) -> None:
    """The zone's counters against *free*, the pages on the lists by migratetype."""
    nr_free = sum(free) - free[ISOLATE]  # isolated pages do not count as free
    types = zone.statistics_pageblocks()
    for name, counter, counted in (
        ("nr_free_pages", zone.nr_free_pages_exact(), nr_free),
        ("nr_free_cma", zone.nr_free_cma_pages.value, free[CMA]),
        ("nr_free_highatomic", zone.nr_free_highatomic.value, free[HIGHATOMIC]),
        (
            "nr_reserved_highatomic",
            zone.nr_reserved_highatomic,
            types[HIGHATOMIC] * PAGEBLOCK_NR_PAGES,
        ),
    ):
        if counter != counted:
            raise PageCountError(f"{_where(zone)}: {name} {counter}, but {counted} pages counted")


def _check_above_mark(zone: Zone) -> None:
    """A page set that skips the watermark test must be right to do so."""
    above = zone.nr_free_pages.value >= zone.fast_mark
    for cpu, pcp in enumerate(zone.pageset.all()):
        if pcp.above_mark and not above:
            raise PageCountError(
                f"{_where(zone)} cpu {cpu}: above_mark is set, but nr_free_pages is "
                f"{zone.nr_free_pages.value} and fast_mark {zone.fast_mark}"
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
