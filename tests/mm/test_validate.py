"""verify() finds what was planted, says which rule and where, and is silent on correct structures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from concmem.errors import (
    FreeListError,
    PageCountError,
    PageOwnershipError,
    ValidationError,
)
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.zone import Zone

from .helpers import alloc, free, free_all, nr_buddy_pages, on_cpu, snapshot

MOVABLE = 1
UNMOVABLE = 0


@pytest.fixture
def m() -> Iterator[Machine]:
    """Two zones, some pages allocated, some cached; all in order."""
    with Machine(cpus=2, memory="32M", cma="4M") as machine:
        pages = [alloc(machine, order, cpu=cpu) for order in (0, 0, 0, 1, 3, 5) for cpu in (0, 1)]
        for page, order in zip(pages[::2], (0, 0, 0, 1, 3, 5), strict=True):
            free(machine, page, order)
        machine.verify()
        yield machine


def zone_of(m: Machine) -> Zone:
    """Zone DMA32, where unlabelled allocations come from."""
    return m.zones[1]


def free_block(m: Machine, order: int, migratetype: int = UNMOVABLE) -> Page:
    """Some free block of zone DMA32 with exactly that order."""
    page = zone_of(m).free_area[order].free_list[migratetype].first()
    assert page is not None
    return page


def reports(m: Machine, error: type[ValidationError], match: str) -> None:
    """verify() raises exactly that, and only looks."""
    before = snapshot(m)
    with pytest.raises(error, match=match) as caught:
        m.verify()
    assert caught.type is error
    assert snapshot(m) == before


def locked(m: Machine, zone: Zone, fn: Callable[[], None]) -> None:
    """Run *fn* on a CPU with zone->lock held."""

    def body() -> None:
        with zone.lock:
            fn()

    on_cpu(m, body)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("order", [0, 3, 10])
def test_nr_free_off_by_one(m: Machine, order: int, by: int) -> None:
    """A free area that counts one block too many or too few."""
    zone_of(m).free_area[order].nr_free += by
    reports(m, PageCountError, f"node 0 zone DMA32 order {order}: nr_free")


@pytest.mark.parametrize("by", [1, -1, 4096])
def test_zone_counter_off(m: Machine, by: int) -> None:
    """NR_FREE_PAGES that differs from the lists."""
    zone_of(m).nr_free_pages.value += by
    reports(m, PageCountError, r"node 0 zone DMA32: nr_free_pages \d+, but \d+ pages")


def test_lost_update_of_a_cpu_difference(m: Machine) -> None:
    """A CPU's share of the counter that went missing."""
    zone_of(m).pageset.of(1).vm_stat_diff += 1
    reports(m, PageCountError, "node 0 zone DMA32: nr_free_pages")


@pytest.mark.parametrize("field", ["nr_free_cma_pages", "nr_free_cma"])
def test_cma_counter_off(m: Machine, field: str) -> None:
    """Counters of free CMA pages, of the zone and of each order."""
    if field == "nr_free_cma":
        zone_of(m).free_area[10].nr_free_cma += 1
    else:
        zone_of(m).nr_free_cma_pages.value += 1
    reports(m, PageCountError, r"node 0 zone DMA32.*CMA|nr_free_cma")


def test_lost_block(m: Machine) -> None:
    """A free block that is on no list any more, with all counters adjusted."""
    zone = zone_of(m)
    page = free_block(m, 7)

    def lose() -> None:
        zone.free_area[7].remove(page, UNMOVABLE)
        zone._account_freepages(-128, UNMOVABLE)

    locked(m, zone, lose)
    reports(m, PageCountError, "node 0 zone DMA32: .*128 lost")


def test_lost_allocated_page(m: Machine) -> None:
    """An allocation that nobody has a reference to and that was not freed."""
    page = alloc(m, 4)
    page._count.dec_and_test()
    reports(m, PageCountError, "zone DMA32: .*16 lost")


def test_lost_cached_page(m: Machine) -> None:
    """A page that a set dropped, with its count adjusted."""
    free(m, alloc(m))
    pcp = zone_of(m).pageset.of(0)
    pcp.lists[0].popleft()
    pcp.count -= 1
    reports(m, PageCountError, "zone DMA32: .*1 lost")


def test_page_twice_in_a_set(m: Machine) -> None:
    """A page freed twice into one list."""
    page = alloc(m)
    free(m, page)
    pcp = zone_of(m).pageset.of(0)
    pcp.lists[0].append(page)
    pcp.count += 1
    reports(m, PageOwnershipError, f"node 0 zone DMA32 order 0 pfn {page.pfn:#x}: .*also")


def test_page_in_two_sets(m: Machine) -> None:
    """A page in the sets of two CPUs."""
    page = alloc(m)
    free(m, page)
    pcp = zone_of(m).pageset.of(1)
    pcp.lists[0].append(page)
    pcp.count += 1
    reports(m, PageOwnershipError, f"zone DMA32 order 0 pfn {page.pfn:#x}: .*cpu 1.*cpu 0")


def test_cached_page_that_somebody_uses(m: Machine) -> None:
    """A page handed out without being taken off its list."""
    page = alloc(m)
    free(m, page)
    page._count.add(True)
    reports(m, PageOwnershipError, f"zone DMA32 .*order 0 pfn {page.pfn:#x}: cached")


def test_page_of_another_zone_in_a_set(m: Machine) -> None:
    """A page that went into the wrong zone's set."""
    page = alloc(m, 0, 0xCC1)
    free(m, page)
    m.zones[0].pageset.of(0).lists[0].remove(page)
    m.zones[0].pageset.of(0).count -= 1
    zone_of(m).pageset.of(0).lists[0].append(page)
    zone_of(m).pageset.of(0).count += 1
    with pytest.raises(ValidationError, match=r"lost|another zone"):
        m.verify()


@pytest.mark.parametrize("by", [1, -1])
def test_set_count_off(m: Machine, by: int) -> None:
    """A set that counts one page too many or too few."""
    zone_of(m).pageset.of(1).count += by
    reports(m, PageCountError, r"node 0 zone DMA32 cpu 1: count -?\d+, but \d+ pages")


def test_set_left_locked(m: Machine) -> None:
    """A set whose lock was never released."""
    zone_of(m).pageset.of(1).lock.acquire()
    reports(m, PageCountError, "node 0 zone DMA32 cpu 1: .*locked")


def test_misaligned_block(m: Machine) -> None:
    """A free block of order 3 that does not begin at a multiple of 8."""
    zone = zone_of(m)
    page = alloc(m, 5)
    wrong = m.pfn_to_page(page.pfn + 4)
    locked(m, zone, lambda: zone.free_area[3].add(wrong, UNMOVABLE))
    reports(m, FreeListError, f"node 0 zone DMA32 order 3 pfn {wrong.pfn:#x}: .*not aligned")


def test_block_on_the_list_of_another_type(m: Machine) -> None:
    """A block on a list that is not that of its page block."""
    zone = zone_of(m)
    page = free_block(m, 7)
    locked(m, zone, lambda: zone.free_area[7].move(page, UNMOVABLE, MOVABLE))
    reports(
        m,
        FreeListError,
        f"node 0 zone DMA32 order 7 pfn {page.pfn:#x}: on the Movable list, "
        "but the page block at pfn 0x[0-9a-f]+ is Unmovable",
    )


def test_block_on_the_list_of_another_order(m: Machine) -> None:
    """A block whose page says another order than its list."""
    page = free_block(m, 7)
    page.private = 5
    reports(m, FreeListError, f"node 0 zone DMA32 order 7 pfn {page.pfn:#x}: ")


def test_block_on_the_list_of_another_zone(m: Machine) -> None:
    """A block of zone DMA on a list of zone DMA32."""
    zone = zone_of(m)
    page = m.zones[0].free_area[9].free_list[MOVABLE].first()
    assert page is not None
    locked(m, m.zones[0], lambda: m.zones[0].free_area[9].remove(page, MOVABLE))
    locked(m, zone, lambda: zone.free_area[9].add(page, MOVABLE))
    with pytest.raises(ValidationError, match="zone DMA"):
        m.verify()


def test_buddies_that_were_not_merged(m: Machine) -> None:
    """Two free halves of one block."""
    zone = zone_of(m)
    page = free_block(m, 7)

    def split() -> None:
        zone.free_area[7].remove(page, UNMOVABLE)
        zone.free_area[6].add(page, UNMOVABLE)
        zone.free_area[6].add(m.mem_map.page(page.pfn + 64), UNMOVABLE)

    locked(m, zone, split)
    reports(m, FreeListError, f"node 0 zone DMA32 order 6 pfn {page.pfn + 64:#x}: .*not merged")


@pytest.mark.parametrize("order", [0, 2])
def test_allocated_page_inside_a_free_block(m: Machine, order: int) -> None:
    """An allocation that overlaps free memory."""
    block = free_block(m, 7)
    inside = m.pfn_to_page(block.pfn + 32)
    inside.order = order
    inside._count.add(True)
    reports(
        m,
        PageOwnershipError,
        f"node 0 zone DMA32 order {order} pfn {inside.pfn:#x}: allocated, but also part of "
        f"the order-7 block at pfn {block.pfn:#x}",
    )


def test_allocations_that_overlap(m: Machine) -> None:
    """An allocation that reaches into the next one."""
    low, high = sorted((alloc(m, 4), alloc(m, 4)), key=lambda page: page.pfn)
    low.order = order = (high.pfn - low.pfn).bit_length()
    with pytest.raises(
        PageOwnershipError, match=f"but also part of the order-{order} block at pfn {low.pfn:#x}"
    ):
        m.verify()


def test_free_block_with_a_reference(m: Machine) -> None:
    """Somebody has a reference to a block on a free list."""
    page = free_block(m, 7)
    page._count.add(True)
    with pytest.raises(
        (PageOwnershipError, PageCountError), match=f"zone DMA32.* pfn {page.pfn:#x}"
    ):
        m.verify()


def test_corrupted_links(m: Machine) -> None:
    """A free block whose neighbours do not point back."""
    zone = zone_of(m)
    free_all(m, [alloc(m) for _ in range(20)])
    free_list = next(
        (area.order, lists)
        for area in zone.free_area
        for lists in area.free_list
        if not lists.empty()
    )
    order, pages = free_list
    page = pages.first()
    assert page is not None
    page.prev = page
    with pytest.raises(FreeListError, match=f"node 0 zone DMA32 order {order} .*list corruption"):
        m.verify()


def test_which_node() -> None:
    """The message names the node, too."""
    with Machine(cpus=2, memory="64M", nodes=2) as m:
        m.nodes[1].node_zones[1].free_area[2].nr_free += 1
        with pytest.raises(PageCountError, match="node 1 zone DMA32 order 2"):
            m.verify()


def test_verify_on_a_cpu_of_the_machine() -> None:
    """A body may verify its own machine while others run."""
    with Machine(cpus=4, memory="32M", runtime="jitter", seed=9) as m:

        def work() -> None:
            for _ in range(100):
                pages = [m.alloc_pages(order) for order in (0, 1, 0, 3)]
                for page, order in zip(pages, (0, 1, 0, 3), strict=True):
                    assert page is not None
                    m.free_pages(page, order)

        def check() -> None:
            for _ in range(10):
                m.verify()

        m.run([work, check, work, check])
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == 8191
