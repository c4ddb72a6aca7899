"""Splitting and merging, by brute force against a buddy system made of sets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.machine import Machine
from concmem.mm.free_area import FreeArea
from concmem.mm.page import Page

from .helpers import alloc, buddy_blocks, free, free_all, nr_buddy_pages, on_cpu, take_all

UNMOVABLE = 0xCC0 | 0x2000
MOVABLE = 0xCC8 | 0x2000
MAX_ORDER = 10


class NaiveBuddies:
    """A set of first pfns for each order; every rule written down as in a textbook."""

    def __init__(self, blocks: dict[int, set[int]]) -> None:
        self.free = {order: set(pfns) for order, pfns in blocks.items()}

    def take(self, pfn: int, order: int) -> None:
        """Allocate exactly that block, splitting whatever holds it."""
        for larger in range(order, MAX_ORDER + 1):
            head = pfn // 2**larger * 2**larger
            if head in self.free[larger]:
                break
        else:
            raise AssertionError(f"{pfn:#x} order {order} is not free")
        self.free[larger].remove(head)
        while larger > order:
            larger -= 1
            half = head + 2**larger
            if pfn >= half:
                self.free[larger].add(head)
                head = half
            else:
                self.free[larger].add(half)

    def smallest(self, order: int) -> int:
        """Order of the smallest block that can serve *order*."""
        return min(o for o in range(order, MAX_ORDER + 1) if self.free[o])

    def give(self, pfn: int, order: int) -> None:
        """Free a block: merge with its buddy for as long as that is free and as large."""
        while order < MAX_ORDER and pfn ^ 2**order in self.free[order]:
            self.free[order].remove(pfn ^ 2**order)
            pfn &= ~(2**order)
            order += 1
        self.free[order].add(pfn)


def buddies(m: Machine) -> dict[int, set[int]]:
    """All free blocks of a quiet machine."""
    blocks: dict[int, set[int]] = {order: set() for order in range(MAX_ORDER + 1)}
    for zone in m.zones:
        for order, pfns in buddy_blocks(zone).items():
            blocks[order] |= pfns
    return blocks


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["alloc", "alloc", "free"]),
        st.integers(0, MAX_ORDER),
        st.sampled_from([UNMOVABLE, MOVABLE, UNMOVABLE | 0x10]),
        st.integers(0, 100),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=STEPS)
def test_split_and_merge_as_sets_do(steps: list[tuple[str, int, int, int]]) -> None:
    """After every step, the free blocks are those of the naive buddy system."""
    with Machine(cpus=1, memory="12M", pagesets=False) as m:
        naive = NaiveBuddies(buddies(m))
        live: list[tuple[Page, int]] = []
        for what, order, gfp, index in steps:
            if what == "alloc":
                page = alloc(m, order, gfp)
                if page is None:
                    continue
                naive.take(page.pfn, order)
                live.append((page, order))
            elif live:
                page, order = live.pop(index % len(live))
                free(m, page, order)
                naive.give(page.pfn, order)
            assert buddies(m) == naive.free
        for page, order in live:
            free(m, page, order)
            naive.give(page.pfn, order)
        assert buddies(m) == naive.free
        m.verify()


def test_one_type_takes_the_smallest_block_that_fits() -> None:
    """Larger blocks are split only when no smaller one serves, and the low half is kept."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        naive = NaiveBuddies(buddies(m))
        for order in (0, 3, 0, 1, 5, 5, 2, 0, 9, 4):
            expected = naive.smallest(order)
            page = alloc(m, order, MOVABLE)
            heads = naive.free[expected]
            assert page.pfn in heads
            naive.take(page.pfn, order)
        assert buddies(m) == naive.free


def test_everything_freed_merges_to_the_largest_order() -> None:
    """Single pages of all memory, freed in any order, become blocks of the largest order again."""
    with Machine(cpus=2, memory="16M") as m:
        at_boot = buddies(m)
        assert len(at_boot[10]) == 3
        pages = take_all(m, 0, UNMOVABLE)
        low = nr_buddy_pages(m)
        free_all(m, pages[::2], cpu=0)
        free_all(m, pages[1::2][::-1], cpu=1)
        m.drain_all_pages()
        assert low < 1024
        assert buddies(m) == at_boot
        m.verify()


def test_memory_that_ends_inside_of_a_block() -> None:
    """An uneven size is covered by ever smaller blocks at its end."""
    with Machine(cpus=1, memory=(8 << 20) + 11 * 4096) as m:
        blocks = buddies(m)
        assert {2048 + 0, 2048 + 8, 2048 + 10} <= {p for pfns in blocks.values() for p in pfns}
        assert nr_buddy_pages(m) == 2048 + 11 - 1
        pages = take_all(m, 0, UNMOVABLE)
        free_all(m, pages)
        m.drain_all_pages()
        assert buddies(m) == blocks
        m.verify()


@pytest.mark.parametrize("order", range(11))
def test_blocks_of_each_order_are_aligned_and_apart(order: int) -> None:
    """All that can be had of one order: aligned to it, no two overlap, and all merge back."""
    with Machine(cpus=1, memory="16M") as m:
        at_boot = buddies(m)
        pages = take_all(m, order, UNMOVABLE)
        assert pages
        spans = sorted(page.pfn for page in pages)
        assert all(pfn % 2**order == 0 for pfn in spans)
        assert all(b - a >= 2**order for a, b in pairwise(spans))
        free_all(m, pages, order)
        m.drain_all_pages()
        assert buddies(m) == at_boot


def test_a_zone_boundary_is_never_merged_over() -> None:
    """Blocks on both sides of 16 MiB stay in their zones."""
    with Machine(cpus=1, memory="32M", pagesets=False) as m:
        pages = take_all(m, 10, UNMOVABLE)
        assert {page.zone.name for page in pages} == {"DMA", "DMA32"}
        free_all(m, pages, 10)
        m.verify()
        assert all(pfn < 4096 for pfns in buddy_blocks(m.zones[0]).values() for pfn in pfns)


def test_split_page_gives_pages_that_are_freed_one_by_one() -> None:
    """After split_page each page has a reference of its own; freed, they merge again."""
    with Machine(cpus=1, memory="16M") as m:
        at_boot = buddies(m)
        page = alloc(m, 4)
        on_cpu(m, m.split_page, page)
        pages = [m.pfn_to_page(page.pfn + i) for i in range(16)]
        assert [p.ref_count() for p in pages] == [1] * 16
        m.verify()
        free_all(m, pages)
        m.drain_all_pages()
        m.verify()
        assert buddies(m) == at_boot


def test_large_memory_costs_few_page_structs() -> None:
    """Booting 16 GiB makes a handful of page structs; any page frame can be asked for."""
    with Machine(cpus=1, memory="16G") as m:
        assert len(m.mem_map.pages) < 100
        for pfn in (1, 4095, 4096, 99_999, 1_000_000, (1 << 20) + 12345, (1 << 22) - 1):
            head = m.compound_head(pfn)
            assert head is not None
            assert head.is_buddy()
            assert head.pfn <= pfn < head.pfn + 2**head.private
            assert m.pfn_to_page(pfn).pfn == pfn
            m.verify()
        # 32 blocks are linked at once, and the range before each pfn had to be, too: two structs
        # for each 4 MiB are far from one for each page.
        assert len(m.mem_map.pages) < 10_000
        page = alloc(m, 10, MOVABLE)
        free(m, page, 10)
        m.verify()


def test_readers_without_the_lock_always_see_a_never_used_block() -> None:
    """While blocks of the zone were never used, the list they come from is never seen empty."""
    seen: list[int] = []

    class Watched(FreeArea):
        __slots__ = ()

        def remove(self, page: Page, migratetype: int) -> None:
            super().remove(page, migratetype)
            if self.order == 10 and page.zone.deferred and self.free_list[1].empty():
                seen.append(page.pfn)

    with Machine(cpus=1, memory="1G", classes={FreeArea: Watched}) as m:
        pages = take_all(m, 10, MOVABLE)
        assert len(pages) > 200
    assert seen == []


@pytest.mark.parametrize("gfp", [MOVABLE, UNMOVABLE])
def test_all_of_a_large_memory_can_be_used(gfp: int) -> None:
    """Never used blocks are used up one by one, for every type, and none is lost."""
    with Machine(cpus=1, memory="1G") as m:
        total = nr_buddy_pages(m)
        pages = take_all(m, 10, gfp)
        assert len(pages) << 10 > total * 9 // 10
        m.verify()
        free_all(m, pages, 10)
        m.verify()
        assert nr_buddy_pages(m) == total
