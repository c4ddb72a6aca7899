"""Per-CPU page sets: how much they fetch, keep and give back, and who gets in between."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import (
    PerCpuPageset,
    order_to_pindex,
    pcp_allowed_order,
    pindex_to_order,
)

from .helpers import (
    WAIT,
    alloc,
    cached_pages,
    free,
    free_all,
    nr_buddy_pages,
    nr_managed,
    on_cpu,
)

GFP_KERNEL = 0xCC0
GFP_ATOMIC = 0x820


def large(**parameters: Any) -> Machine:
    """A zone DMA32 of about 2 GiB, whose batch is 63."""
    m = Machine(**({"cpus": 1, "memory": "2G"} | parameters))
    assert m.zones[1].pageset.of(0).batch == 63
    return m


def test_lists() -> None:
    """Orders 0 to 3 of three types, then two lists of order 9: 14 lists, each its own."""
    pairs = [(order, mt) for order in (0, 1, 2, 3) for mt in (0, 1, 2)] + [(9, 0), (9, 1)]
    assert [order_to_pindex(order, mt) for order, mt in pairs] == list(range(14))
    assert [pindex_to_order(pindex) for pindex in range(14)] == [order for order, _ in pairs]
    assert order_to_pindex(9, 2) == order_to_pindex(9, 0)
    assert [order for order in range(11) if pcp_allowed_order(order)] == [0, 1, 2, 3, 9]


@pytest.mark.parametrize(("order", "blocks"), [(0, 63), (1, 31), (2, 15), (3, 7), (9, 2)])
def test_a_refill_fetches_a_batch(order: int, blocks: int) -> None:
    """An empty list is filled with a batch: 63 pages, fewer blocks of higher orders, at least 2."""
    with large() as m:
        alloc(m, order)
        assert cached_pages(m, 0) == (blocks - 1) << order
        assert m.zones[1].pageset.of(0).statistics().nr_refill == 1
        m.verify()


@pytest.mark.parametrize("order", [4, 5, 8, 10])
def test_other_orders_are_not_cached(order: int) -> None:
    """Orders 4 to 8 and 10 come from the buddy system and go back there."""
    with large() as m:
        page = alloc(m, order)
        assert cached_pages(m, 0) == 0
        free(m, page, order)
        assert cached_pages(m, 0) == 0
        assert m.events.sum()["pgalloc_direct"] == m.events.sum()["pgfree_direct"] == 1 << order


def test_batches_double() -> None:
    """A CPU that only allocates fetches twice as much each time: 63, 126, 252, 504, 1008."""
    with large() as m:

        def body() -> list[int]:
            pcp = m.zones[1].pageset.this()
            sizes = []
            for _ in range(5):
                before = pcp.nr_refilled
                while pcp.nr_refilled == before:
                    assert m.alloc_pages(0) is not None
                sizes.append(pcp.nr_refilled - before)
            return sizes

        assert on_cpu(m, body) == [63, 126, 252, 504, 1008]


def test_freeing_halves_the_next_batch() -> None:
    """Each free takes one doubling back."""
    with large() as m:

        def body() -> int:
            pcp = m.zones[1].pageset.this()
            pages = [m.alloc_pages(0) for _ in range(63 + 126 + 252)]
            assert pcp.count == 0
            m.free_pages(pages.pop(), 0)  # type: ignore[arg-type]
            m.free_pages(pages.pop(), 0)  # type: ignore[arg-type]
            m.alloc_pages(0)
            m.alloc_pages(0)
            before = pcp.nr_refilled
            m.alloc_pages(0)
            return pcp.nr_refilled - before

        # Factor 3 after three refills, 0 after two frees: 3 >> 1 >> 1.
        assert on_cpu(m, body) == 63


def test_never_more_than_high() -> None:
    """A CPU that only frees keeps at most `high` pages and gives back at least a batch at once."""
    with large(cpus=2) as m:
        pages = on_cpu(m, lambda: [m.alloc_pages(0) for _ in range(6000)])

        def body() -> set[int]:
            pcp = m.zones[1].pageset.this()
            flushed = set()
            for page in pages:
                before = pcp.nr_flushed
                m.free_pages(page, 0)  # type: ignore[arg-type]
                assert pcp.count <= pcp.high
                if pcp.nr_flushed > before:
                    flushed.add(pcp.nr_flushed - before)
            return flushed

        flushed = on_cpu(m, body, cpu=1)
        assert flushed
        assert min(flushed) >= 63
        assert max(flushed) <= 63 << 5
        m.verify()


def test_hot_pages_are_reused_first() -> None:
    """The page freed last is allocated next."""
    with large() as m:

        def body() -> None:
            pages = [m.alloc_pages(0) for _ in range(5)]
            for page in pages:
                m.free_pages(page, 0)  # type: ignore[arg-type]
            assert [m.alloc_pages(0) for _ in range(5)] == pages[::-1]

        on_cpu(m, body)


def test_refilled_pages_come_in_address_order() -> None:
    """A batch from one large block is handed out from its start to its end."""
    with large() as m:
        pfns = on_cpu(m, lambda: [m.alloc_pages(0).pfn for _ in range(63)])  # type: ignore[union-attr]
        assert pfns == list(range(pfns[0], pfns[0] + 63))


def test_types_do_not_mix_in_a_set() -> None:
    """A freed movable page is not handed to an unmovable allocation."""
    with large() as m:
        movable = alloc(m, 0, GFP_KERNEL | 0x8)
        unmovable = alloc(m, 0, GFP_KERNEL)
        assert movable.pfn // 512 != unmovable.pfn // 512
        free(m, movable)
        assert alloc(m, 0, GFP_KERNEL) is not movable
        assert alloc(m, 0, GFP_KERNEL | 0x8) is movable


def test_a_stale_type_is_corrected_at_the_flush() -> None:
    """A page block that is retyped while its pages are cached gets them on its new list."""
    with large() as m:
        page = alloc(m, 0, GFP_KERNEL | 0x8)
        free(m, page)
        zone = m.zones[1]

        def retype() -> None:
            with zone.lock:
                zone._move_freepages_block(page.pfn, 1, 2)

        on_cpu(m, retype)
        m.verify()
        m.drain_all_pages()
        m.verify()
        # 512 pages of the block, all of them on Reclaimable lists now, but where they merged
        # with the other half of the 4 MiB block, which took the type along.
        types = m.mem_map.pageblock_types
        assert types[page.pfn // 512] == types[(page.pfn // 512) ^ 1]


@pytest.mark.parametrize("cpus", [1, 4])
def test_a_drained_idle_cpu_keeps_nothing(cpus: int) -> None:
    """drain_all_pages empties every set, whatever is in it, and all pages are there."""
    with Machine(cpus=cpus, memory="64M") as m:

        def body(seed: int) -> None:
            rng = Random(seed)
            pages: list[tuple[Page, int]] = []
            for _ in range(200):
                order = rng.choice([0, 0, 1, 2, 3, 9])
                page = m.alloc_pages(order, GFP_KERNEL | rng.choice([0, 8, 16]) | 0x2000)
                if page is not None:
                    pages.append((page, order))
            # Single pages last: the CPU that ends last frees them with all memory free, so that
            # they stay in its set. (All CPUs together ask for more than there is.)
            for page, order in sorted(pages, key=lambda entry: -entry[1]):
                m.free_pages(page, order)

        m.run([lambda cpu=cpu: body(cpu) for cpu in range(cpus)])
        assert sum(cached_pages(m, cpu) for cpu in range(cpus)) > 0
        m.drain_all_pages()
        assert [cached_pages(m, cpu) for cpu in range(cpus)] == [0] * cpus
        assert nr_buddy_pages(m) == nr_managed(m)
        m.verify()


def test_no_pagesets() -> None:
    """With pagesets=False nothing is ever kept."""
    with Machine(cpus=2, memory="64M", pagesets=False) as m:
        for order in (0, 1, 2, 3, 9):
            for gfp in (GFP_KERNEL, GFP_KERNEL | 8, GFP_ATOMIC):
                page = alloc(m, order, gfp)
                assert cached_pages(m, 0) == 0
                free(m, page, order, cpu=1)
                assert cached_pages(m, 1) == 0
        assert nr_buddy_pages(m) == nr_managed(m)
        m.verify()


class InterruptedPageset(PerCpuPageset):
    """Calls `hook` in the middle of a refill, with the set's lock held."""

    __slots__ = ()
    hook: Any = None

    def _refill(self, pages: Any, order: int, migratetype: int, alloc_flags: int) -> bool:
        got = super()._refill(pages, order, migratetype, alloc_flags)
        hook, type(self).hook = InterruptedPageset.hook, None
        InterruptedPageset.hook = None
        if hook is not None:
            hook(self)
        return got


@pytest.fixture
def interrupted() -> Any:
    """Set `hook` on this class; it is gone after the test."""
    InterruptedPageset.hook = None
    yield InterruptedPageset
    InterruptedPageset.hook = None


def test_a_handler_that_allocates_in_the_middle_of_an_allocation(interrupted: Any) -> None:
    """The handler cannot have the interrupted set: it goes straight to the buddy system."""
    with Machine(cpus=1, memory="64M", classes={PerCpuPageset: interrupted}) as m:
        got: list[Page | None] = []

        def handler() -> None:
            pages = [m.alloc_pages(order, GFP_ATOMIC) for order in (0, 0, 1, 3)]
            got.extend(pages)
            m.free_pages(pages[1], 0)  # type: ignore[arg-type]

        def hook(pcp: PerCpuPageset) -> None:
            assert pcp.lock.locked()
            m.runtime.cpus[0].post_interrupt(handler)
            m.runtime.cpu_relax()
            assert len(got) == 4

        interrupted.hook = hook
        page = alloc(m)
        assert page not in got
        assert None not in got
        events = m.events.sum()
        assert events["pcp_trylock_failed"] == 4
        assert events["pgalloc_direct"] == 1 + 1 + 2 + 8
        assert events["pgfree_direct"] == 1
        m.verify()
        for held, order in ((page, 0), (got[0], 0), (got[2], 1), (got[3], 3)):
            free(m, held, order)
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == nr_managed(m)


def test_a_drain_that_comes_in_the_middle_of_an_allocation(interrupted: Any) -> None:
    """A CPU in the middle of its set answers "ask again", and is drained when it is through."""
    with Machine(cpus=2, memory="64M", classes={PerCpuPageset: interrupted}) as m:
        drains = []

        def hook(_pcp: PerCpuPageset) -> None:
            before = m.runtime.cpus[0].nr_interrupts
            drains.append(m.submit(1, m.drain_all_pages))
            while m.runtime.cpus[0].nr_interrupts < before + 3:
                m.runtime.cpu_relax()
            assert not drains[0].done()

        interrupted.hook = hook
        page = alloc(m)
        assert page is not None
        drains[0].result(WAIT)
        assert cached_pages(m, 0) == 0
        m.verify()


def test_a_forced_drain_asks_sets_that_look_empty() -> None:
    """Which any set does that is just being filled."""
    with Machine(cpus=3, memory="64M") as m:
        m.kernel.drain.drain_all_pages()
        asked = m.events.sum()["drain_all_pages"]
        m.kernel.drain.drain_all_pages()
        assert m.events.sum()["drain_all_pages"] == asked
        m.kernel.drain.drain_all_pages(force=True)
        assert m.events.sum()["drain_all_pages"] == asked + 3


def test_drains_from_all_sides_while_all_allocate() -> None:
    """Four CPUs allocate, free and drain each other; nothing hangs and nothing is lost."""
    with Machine(cpus=4, memory="64M", runtime="jitter", seed=2) as m:

        def body(cpu: int) -> None:
            rng = Random(cpu)
            pages: list[tuple[Page, int]] = []
            for step in range(150):
                order = rng.choice([0, 0, 0, 1, 2, 3])
                page = m.alloc_pages(order, GFP_KERNEL | rng.choice([0, 8]))
                if page is not None:
                    pages.append((page, order))
                if rng.random() < 0.6 and pages:
                    m.free_pages(*pages.pop(rng.randrange(len(pages))))
                if step % 15 == cpu:
                    m.drain_all_pages()
            for page, order in pages:
                m.free_pages(page, order)

        m.run([lambda cpu=cpu: body(cpu) for cpu in range(4)])
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == nr_managed(m)


def test_statistics_add_up() -> None:
    """What came into a set is what left it and what is there."""
    with large(cpus=2) as m:
        pages = on_cpu(m, lambda: [m.alloc_pages(0) for _ in range(500)])
        free_all(m, pages[:300])  # type: ignore[arg-type]
        free_all(m, pages[300:], cpu=1)  # type: ignore[arg-type]
        first, second = (m.zones[1].pageset.of(cpu).statistics() for cpu in (0, 1))
        assert (first.nr_alloc, first.nr_free) == (500, 300)
        assert (second.nr_alloc, second.nr_free) == (0, 200)
        assert first.count == cached_pages(m, 0)
        assert second.count == cached_pages(m, 1)
