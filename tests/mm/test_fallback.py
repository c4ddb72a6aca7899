"""Mobility grouping: claiming and stealing, the high-atomic reserve, and keeping types apart."""

from __future__ import annotations

import pytest

from concmem import explore
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.zone import Zone

from .helpers import (
    alloc,
    buddy_blocks,
    exact_counters,
    free,
    free_all,
    nr_buddy_pages,
    on_cpu,
    take_all,
)

NOWARN = 0x2000
NORETRY = 0x10000
UNMOVABLE = 0xCC0 | NOWARN | NORETRY
MOVABLE = 0xCC8 | NOWARN | NORETRY
RECLAIMABLE = 0xCD0 | NOWARN | NORETRY
ATOMIC = 0x820 | NOWARN
TYPES = {UNMOVABLE: 0, MOVABLE: 1, RECLAIMABLE: 2}


@pytest.fixture(autouse=True)
def no_boost(monkeypatch: pytest.MonkeyPatch) -> None:
    """``vm.watermark_boost_factor = 0``: marks stay where they are when types mix."""
    monkeypatch.setattr("concmem.mm.zone.WATERMARK_BOOST_FACTOR", 0)


def block_type(m: Machine, pfn: int) -> int:
    """Migratetype of the page block around *pfn*."""
    return m.mem_map.pageblock_types[pfn // 512]


def free_by_type(zone: Zone, pfn: int) -> dict[int, int]:
    """Free pages of the page block around *pfn* by the list they are on."""
    found: dict[int, int] = {}
    start = pfn // 512 * 512
    for area in zone.free_area:
        for migratetype, free_list in enumerate(area.free_list):
            for page in free_list:
                if start <= page.pfn < start + 512:
                    found[migratetype] = found.get(migratetype, 0) + (1 << area.order)
    return found


def by_block(pages: list[Page]) -> dict[int, list[Page]]:
    """Pages by the number of their page block."""
    blocks: dict[int, list[Page]] = {}
    for page in pages:
        blocks.setdefault(page.pfn // 512, []).append(page)
    return blocks


def test_boot_types() -> None:
    """All of memory is movable at first."""
    with Machine(cpus=1, memory="16M") as m:
        assert set(m.mem_map.pageblock_types) == {1}


@pytest.mark.parametrize("gfp", [UNMOVABLE, RECLAIMABLE])
@pytest.mark.parametrize("order", [0, 4, 9, 10])
def test_a_whole_block_is_claimed(gfp: int, order: int) -> None:
    """The largest movable block changes type as a whole, so that the types stay apart."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        page = alloc(m, order, gfp)
        assert page.pfn % 1024 == 0
        assert [block_type(m, page.pfn + offset) for offset in (0, 512)] == [TYPES[gfp]] * 2
        assert m.mem_map.pageblock_types.count(TYPES[gfp]) == 2
        m.verify()
        again = alloc(m, 0, gfp)
        if order < 10:  # what is left of the block serves the next of its type
            assert again.pfn // 1024 == page.pfn // 1024
        free(m, again)
        free(m, page, order)
        m.verify()


@pytest.mark.parametrize(("nr_free", "claimed"), [(256, True), (255, False)])
@pytest.mark.parametrize("gfp", [UNMOVABLE, RECLAIMABLE])
def test_half_free_blocks_are_claimed(gfp: int, nr_free: int, claimed: bool) -> None:
    """A movable block that is half free is retyped with its free pages; else one page is stolen."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        m.nodes[0].kswapd_failures = 16
        zone = m.zones[0]
        pages = by_block(take_all(m, 0, MOVABLE | 0x20000))  # MEMALLOC: to the last page
        assert nr_buddy_pages(m) == 0
        zone.watermark = type(zone.watermark)(0, 0, 0, 0)
        block = sorted(pages[4], key=lambda page: page.pfn)
        # Every second page first, so that nothing merges beyond order 0 until these run out.
        order = [page for page in block if page.pfn % 2] + [
            page for page in block if not page.pfn % 2
        ]
        free_all(m, order[:nr_free])
        assert free_by_type(zone, block[0].pfn) == {1: nr_free}
        page = alloc(m, 0, gfp)
        assert page in block
        assert block_type(m, page.pfn) == (TYPES[gfp] if claimed else 1)
        expected = TYPES[gfp] if claimed else 1
        assert free_by_type(zone, page.pfn) == {expected: nr_free - 1}
        m.verify()


def test_pages_of_the_wanted_kind_count_as_free() -> None:
    """Claiming an unmovable block for movable pages counts the movable ones that it has."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        m.nodes[0].kswapd_failures = 16
        zone = m.zones[0]
        pages = by_block(take_all(m, 0, MOVABLE | 0x20000))
        zone.watermark = type(zone.watermark)(0, 0, 0, 0)
        block = sorted(pages[4], key=lambda page: page.pfn)
        with zone.lock:
            m.mem_map.set_pageblock_type(block[0].pfn, 9, 0)
        # 32 pages are free, which is far from half, but all others are movable.
        free_all(m, block[:32])
        page = alloc(m, 4, MOVABLE)
        assert page.pfn == block[0].pfn
        assert block_type(m, page.pfn) == 1
        m.verify()


def test_movable_pages_are_stolen_one_by_one() -> None:
    """A small movable request takes a page from an unmovable block, which keeps its type."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        m.nodes[0].kswapd_failures = 16
        pages = take_all(m, 0, UNMOVABLE | 0x20000)
        zone = m.zones[0]
        zone.watermark = type(zone.watermark)(0, 0, 0, 0)
        hole = next(page for page in pages if page.pfn == 3000)
        free(m, hole)
        assert block_type(m, 3000) == 0
        assert alloc(m, 0, MOVABLE) is hole
        assert block_type(m, 3000) == 0
        free(m, hole)
        m.verify()
        # Back on the list of its block, not of who had it.
        assert free_by_type(zone, 3000) == {0: 1}


def test_fallback_order() -> None:
    """Movable requests prefer reclaimable blocks to unmovable ones, and so on."""
    fallbacks = {UNMOVABLE: (2, 1), MOVABLE: (2, 0), RECLAIMABLE: (0, 1)}
    for gfp, (first, second) in fallbacks.items():
        with Machine(cpus=1, memory="16M", pagesets=False) as m:
            m.nodes[0].kswapd_failures = 16
            exact_counters(m)
            pages = by_block(take_all(m, 0, MOVABLE | 0x20000))
            m.zones[0].watermark = type(m.zones[0].watermark)(0, 0, 0, 0)
            for number, migratetype in ((3, second), (5, first)):
                m.mem_map.set_pageblock_type(number * 512, 9, migratetype)
            # One free page in each of two blocks: the same order, so the type decides.
            for number in (3, 5):
                free(m, pages[number][7])
            assert alloc(m, 0, gfp).pfn // 512 == 5
            assert alloc(m, 0, gfp).pfn // 512 == 3
            m.verify()


def test_types_are_kept_apart_while_the_zone_below_has_room() -> None:
    """NOFRAGMENT: rather than mix types in zone Normal, an allocation goes to DMA32."""
    with Machine(cpus=1, memory=(4 << 30) + (16 << 20), pagesets=False) as m:
        for node in m.nodes:
            node.kswapd_failures = 16
        normal = m.zones[2]

        def fill_normal() -> list[Page]:
            pages = []
            while (page := m.alloc_pages(0, MOVABLE)).zone is normal:  # type: ignore[union-attr]
                pages.append(page)
            m.free_pages(page, 0)  # type: ignore[arg-type]
            return pages

        pages = on_cpu(m, fill_normal)
        free_all(m, [page for page in pages if page.pfn % 4])
        assert normal.nr_free_pages_snapshot() > 2000
        assert alloc(m, 0, UNMOVABLE).zone.name == "DMA32"
        assert alloc(m, 0, MOVABLE).zone is normal
        assert set(m.mem_map.pageblock_types[(4 << 30) // 4096 // 512 :]) == {1}
        m.verify()


# -- high-atomic


def short_of_memory(m: Machine, order: int = 4) -> list[Page]:
    """Use up zone DMA, and zone DMA32 until it is just below its low mark; blocks of the latter."""
    m.nodes[0].kswapd_failures = 16
    exact_counters(m)
    take_all(m, 0, MOVABLE | 0x1)
    zone = m.zones[1]

    def body() -> list[Page]:
        pages = []
        while zone.nr_free_pages_snapshot() > zone.watermark.low:
            page = m.alloc_pages(order, MOVABLE)
            assert page is not None
            if page.zone is zone:
                pages.append(page)
        return pages

    return on_cpu(m, body)


@pytest.mark.parametrize("order", [1, 3, 4])
def test_an_atomic_allocation_reserves_its_block(order: int) -> None:
    """When memory is short, a page block is kept for atomic allocations of order above 0."""
    with Machine(cpus=1, memory="256M") as m:
        zone = m.zones[1]
        short_of_memory(m)
        assert zone.nr_reserved_highatomic == 0
        page = alloc(m, order, ATOMIC)
        assert page.zone is zone
        assert block_type(m, page.pfn) == 3
        assert zone.nr_reserved_highatomic == 512
        assert m.events.sum()["highatomic_reserved"] == 1
        m.verify()
        free(m, page, order)
        m.drain_all_pages()
        m.verify()


def test_the_reserve_is_for_atomic_allocations_only() -> None:
    """Others do not get pages of a high-atomic block; an atomic one of order 1 does."""
    with Machine(cpus=1, memory="256M", pagesets=False) as m:
        zone = m.zones[1]
        short_of_memory(m, 9)
        page = alloc(m, 4, ATOMIC)
        assert zone.nr_reserved_highatomic == 512
        inside = free_by_type(zone, page.pfn).get(3, 0)
        assert inside > 100
        for gfp in (MOVABLE, UNMOVABLE):
            for other in take_all(m, 0, gfp):
                assert other.pfn // 512 != page.pfn // 512
        assert alloc(m, 2, ATOMIC).pfn // 512 == page.pfn // 512
        m.verify()


def test_the_reserve_is_given_back_before_failing() -> None:
    """A blocking allocation that would fail takes the reserve away."""
    with Machine(cpus=1, memory="256M", pagesets=False) as m:
        zone = m.zones[1]
        pages = short_of_memory(m)
        page = alloc(m, 4, ATOMIC)
        assert zone.nr_reserved_highatomic == 512
        pages += take_all(m, 4, 0xCC8 | NOWARN)
        take_all(m, 0, 0xCC8 | NOWARN)
        assert zone.nr_reserved_highatomic == 0
        assert block_type(m, page.pfn) == 1
        assert m.events.sum()["highatomic_unreserved"] > 0
        m.verify()


def test_an_unreserved_block_merges_with_its_neighbour() -> None:
    """A high-atomic block that is free as a whole merges, when it is given back, with its buddy."""
    with Machine(cpus=1, memory="256M", pagesets=False) as m:
        zone = m.zones[1]
        pages = short_of_memory(m)
        page = alloc(m, 4, ATOMIC)
        free(m, page, 4)
        free_all(m, pages, 4)
        m.drain_all_pages()
        m.verify()
        start = page.pfn // 512 * 512
        assert start in buddy_blocks(zone)[9]
        assert start ^ 512 in buddy_blocks(zone)[9]
        assert on_cpu(m, zone.unreserve_highatomic_pageblock, 1, True)
        assert zone.nr_reserved_highatomic == 0
        m.verify()
        assert start // 1024 * 1024 in buddy_blocks(zone)[10]


def test_the_reserve_is_limited() -> None:
    """About 1 % of the zone: two page blocks of 240 MiB."""
    with Machine(cpus=1, memory="256M", pagesets=False) as m:
        zone = m.zones[1]
        short_of_memory(m, 8)
        blocks = [alloc(m, 8, ATOMIC) for _ in range(8)]
        assert any(blocks)
        assert zone.nr_reserved_highatomic <= 1024
        assert zone.nr_reserved_highatomic == 512 * m.mem_map.pageblock_types.count(3)
        m.verify()


def test_two_reserved_blocks_side_by_side() -> None:
    """Two high-atomic blocks that merged are given back together, and counted together."""
    with Machine(cpus=1, memory="256M", pagesets=False) as m:
        zone = m.zones[1]
        pages = short_of_memory(m, 4)
        page = alloc(m, 4, ATOMIC)
        start = page.pfn // 1024 * 1024
        inside = [p for p in pages if start <= p.pfn < start + 1024]
        other = next(p for p in inside if p.pfn // 512 != page.pfn // 512)
        on_cpu(m, zone.reserve_highatomic_pageblock, other, 4)
        assert zone.nr_reserved_highatomic == 1024
        free_all(m, [page, *pages], 4)
        m.drain_all_pages()
        m.verify()
        assert start in buddy_blocks(zone)[10]
        assert on_cpu(m, zone.unreserve_highatomic_pageblock, 1, True)
        assert zone.nr_reserved_highatomic == 0
        m.verify()


def test_a_block_that_changes_its_type_is_not_missed() -> None:
    """Two CPUs allocate when the only page block is retyped for the first of them; both get their page."""

    def program(rt: explore.ControlledRuntime) -> explore.Program:
        m = Machine(memory="2M", pagesets=False, runtime=rt)

        def body() -> None:
            assert m.alloc_pages(3, UNMOVABLE) is not None

        return explore.Program([body, body], verify=m.verify)

    outcome = explore.check(program, "pb", 50, seed=0, shrink=False)
    assert outcome.failure is None, outcome.failure
