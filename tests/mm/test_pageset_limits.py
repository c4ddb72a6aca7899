"""How large page sets may be: examples worked out by hand from the kernel's rules."""

from __future__ import annotations

import pytest

import concmem
from concmem.errors import FreeListError, PageCountError
from concmem.mm.gfp import GFP_NOWAIT, NOWARN
from concmem.mm.migratetype import HIGHATOMIC, UNMOVABLE
from concmem.mm.zone import ZONE_BELOW_HIGH, ZONE_RECLAIM_ACTIVE


@pytest.fixture
def machine() -> concmem.Machine:  # type: ignore[misc]
    with concmem.Machine(cpus=1, memory="1G") as m:
        yield m


def test_a_set_shrinks_while_reclaim_is_active(machine: concmem.Machine) -> None:
    """With RECLAIM_ACTIVE and memory short, no more than four batches stay cached."""
    zone = machine.zones[-1]
    pcp = zone.pageset.of(0)

    def body() -> None:
        pages = [machine.alloc_pages(0) for _ in range(3000)]
        zone.set_flag(ZONE_RECLAIM_ACTIVE)
        pcp.above_mark = False  # as below the mark
        for page in pages:
            assert page is not None
            machine.free_pages(page, 0)
        assert pcp.count <= 4 * pcp.batch
        zone.clear_flag(ZONE_RECLAIM_ACTIVE)

    machine.run([body])
    machine.verify()


def test_refills_double_and_make_room(machine: concmem.Machine) -> None:
    """Refills without a free in between fetch 63, 126, 252, ...; `high` grows by the same."""
    zone = machine.zones[-1]
    pcp = zone.pageset.of(0)

    def body() -> None:
        expected, high = pcp.batch, pcp.high
        for _ in range(4):
            before = pcp.nr_refilled
            page = machine.alloc_pages(0)
            assert page is not None
            assert pcp.nr_refilled - before == expected
            high += expected
            assert pcp.high == high
            while pcp.count:
                machine.alloc_pages(0)
            expected *= 2

    machine.run([body])


def test_below_high_a_set_does_not_grow(machine: concmem.Machine) -> None:
    """While the zone is below its high mark, a refill leaves `high` alone."""
    zone = machine.zones[-1]
    pcp = zone.pageset.of(0)

    def body() -> None:
        high = pcp.high
        zone.set_flag(ZONE_BELOW_HIGH)
        machine.alloc_pages(0)
        assert pcp.high == high

    machine.run([body])


@pytest.mark.parametrize(("order", "blocks"), [(0, 63), (1, 31), (2, 15), (3, 7)])
def test_a_first_refill_is_one_batch(machine: concmem.Machine, order: int, blocks: int) -> None:
    """A batch of 63 pages is 63 >> order blocks."""
    pcp = machine.zones[-1].pageset.of(0)

    def body() -> None:
        machine.alloc_pages(order)
        assert pcp.nr_refilled == blocks << order

    machine.run([body])


def test_without_page_sets_one_block_is_fetched() -> None:
    """Batch 1, high 0: a refill is one block, a free goes straight through."""
    with concmem.Machine(cpus=1, memory="16M", pagesets=False) as m:
        pcp = m.zones[-1].pageset.of(0)

        def body() -> None:
            page = m.alloc_pages(0)
            assert page is not None
            assert pcp.count == 0
            m.free_pages(page, 0)
            assert pcp.count == 0

        m.run([body])
        m.verify()


def test_kswapd_does_not_empty_a_cache_for_a_high_order() -> None:
    """One failed allocation of order 10 makes kswapd free about 2 << 10 pages, not everything."""
    with concmem.Machine(cpus=1, memory="64M") as m:
        cache: list[concmem.Page] = []
        lock = m.runtime.spinlock("cache")

        def scan(nr: int) -> int:
            freed = 0
            for _ in range(nr):
                with lock:
                    if not cache:
                        break
                    # From the middle: nothing merges to a large block.
                    page = cache.pop(len(cache) // 2)
                m.free_pages(page, 0)
                freed += 1
            return freed

        def fill() -> None:
            while (page := m.alloc_pages(0, GFP_NOWAIT | NOWARN)) is not None:
                cache.append(page)

        m.run([fill])
        full = len(cache)
        m.register_shrinker(concmem.Shrinker(lambda: len(cache), scan))
        m.run([lambda: m.alloc_pages(10, GFP_NOWAIT | NOWARN)])
        pgdat = m.nodes[0]
        m.run([lambda: m.reclaim.balance_pgdat(pgdat, 10, 2)])
        assert len(cache) > full // 4
        m.unregister_shrinker(m.reclaim._shrinkers[0])

        def empty() -> None:
            while cache:
                m.free_pages(cache.pop(), 0)

        m.run([empty])
        m.verify()


def test_verify_looks_at_every_page_block_of_a_block(machine: concmem.Machine) -> None:
    """The second page block of a free block of order 10 has another type: found."""
    zone = machine.zones[-1]
    page = zone.free_area[10].free_list[1].first()
    assert page is not None
    zone.mem_map.set_pageblock_type(page.pfn + 512, 9, UNMOVABLE)
    with pytest.raises(FreeListError, match=f"pfn {page.pfn + 512:#x} is Unmovable"):
        machine.verify()


def test_verify_looks_at_blocks_never_used(machine: concmem.Machine) -> None:
    """They are movable: found when one is not."""
    zone = machine.zones[-1]
    zone.mem_map.set_pageblock_type(zone.deferred[-1], 9, HIGHATOMIC)
    with pytest.raises(FreeListError, match="HighAtomic"):
        machine.verify()


def test_verify_counts_the_reserve(machine: concmem.Machine) -> None:
    """A wrong nr_reserved_highatomic is found."""
    machine.zones[-1].nr_reserved_highatomic = 12345
    with pytest.raises(PageCountError, match="nr_reserved_highatomic 12345"):
        machine.verify()


def test_verify_mistrusts_above_mark() -> None:
    """A page set that would skip the watermark test for ever is found."""
    with concmem.Machine(cpus=1, memory="16M") as m:
        zone = m.zones[0]
        zone.fast_mark = zone.managed_pages + 1
        zone.pageset.of(0).above_mark = True
        with pytest.raises(PageCountError, match="above_mark"):
            m.verify()
