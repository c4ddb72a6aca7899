"""Pages, and what is made of them: locks on them, contiguous areas, blocks offline, reserves, reclaim."""

from __future__ import annotations

from functools import partial
from typing import Any

from concmem.machine import Machine
from concmem.mm import gfp
from concmem.mm.migratetype import MOVABLE
from concmem.mm.reclaim import Shrinker
from concmem.units import MAX_PAGE_ORDER, PAGEBLOCK_NR_PAGES

from .base import Parts, nothing, program

ATOMIC_NOWARN = gfp.GFP_ATOMIC | gfp.NOWARN


@program
def pages(m: Machine) -> Parts:
    """Blocks of small orders, straight from the buddy system and by way of the page sets."""

    def body() -> None:
        blocks = [(m.alloc_pages(order, gfp.GFP_KERNEL), order) for order in (0, 4, 0)]
        for page, order in blocks:
            m.free_pages(page, order)

    return [body, body], nothing


@program
def page_locks(m: Machine) -> Parts:
    """PG_locked of one page, taken, tried and waited for."""
    page = m.run([m.alloc_pages])[0]
    order: list[int] = []

    def body(number: int) -> None:
        m.lock_page(page)
        order.append(number)
        order.append(number)
        m.unlock_page(page)
        if m.trylock_page(page):
            m.unlock_page(page)
        m.wait_on_page_locked(page, 5.0)

    def after() -> None:
        assert order in ([0, 0, 1, 1], [1, 1, 0, 0])
        m.run([lambda: m.free_pages(page)])

    return [partial(body, 0), partial(body, 1)], after


@program
def contiguous(m: Machine) -> Parts:
    """The CMA area."""

    def body() -> None:
        page = m.cma_alloc(8)
        if page is not None:
            m.cma_release(page, 8)

    return [body, body], nothing


@program
def offline(m: Machine) -> Parts:
    """Page blocks that go offline and come back, while pages of theirs are used."""

    def body() -> None:
        page = m.alloc_pages(4)
        m.free_pages(page, 4)
        if m.offline_pages(PAGEBLOCK_NR_PAGES, PAGEBLOCK_NR_PAGES):
            m.online_pages(PAGEBLOCK_NR_PAGES, PAGEBLOCK_NR_PAGES)

    return [body, body], nothing


@program
def reserve(m: Machine) -> Parts:
    """``vm.min_free_kbytes``, while pages are allocated."""

    def body(kbytes: int) -> None:
        m.set_min_free_kbytes(kbytes)
        m.free_pages(m.alloc_pages(0))

    return [partial(body, 300), partial(body, 600)], nothing


@program
def pool(m: Machine) -> Parts:
    """A memory pool of one element, with an allocator that has none."""
    pools = m.run([lambda: m.mempool_create_kmalloc_pool(1, 64)])
    pool: Any = pools[0]
    pool.alloc_fn = lambda _gfp: None

    def body() -> None:
        for _ in range(2):
            element = pool.alloc(timeout=60.0)
            assert element is not None
            pool.free(element)
        pool.resize(2)

    def after() -> None:
        m.run([pool.destroy])

    return [body, body], after


@program
def shrinkers(m: Machine) -> Parts:
    """Reclaim that asks shrinkers which come and go, and kswapd."""
    kept: list[Any] = []

    def scan(nr: int) -> int:
        freed = 0
        while kept and freed < nr:
            m.free_pages(kept.pop())
            freed += 1
        return freed

    def body(number: int) -> None:
        shrinker = Shrinker(lambda: len(kept), scan, f"shrinker-{number}")
        m.register_shrinker(shrinker)
        page = m.alloc_pages()
        if page is not None:
            kept.append(page)
        m.reclaim.reclaimable()
        for node in m.nodes:
            m.reclaim.shrink(node, 1, "direct")
            node.wakeup_kswapd(0, 0)
        m.unregister_shrinker(shrinker)

    def after() -> None:
        m.run([lambda: scan(99) and None])

    return [partial(body, 0), partial(body, 1)], after


def use_up(m: Machine) -> list[tuple[Any, int]]:
    """Allocate all pages; the blocks, the largest first."""
    taken: list[tuple[Any, int]] = []
    for order in range(MAX_PAGE_ORDER, -1, -1):
        while page := m.run([partial(m.alloc_pages, order, ATOMIC_NOWARN)])[0]:
            taken.append((page, order))
    return taken


def give_back(m: Machine, taken: list[tuple[Any, int]]) -> None:
    for page, order in taken:
        m.run([partial(m.free_pages, page, order)])


@partial(program, cma="12M")
def contiguous_in_use(m: Machine) -> Parts:
    """A contiguous range cannot be had, since pages of it are used."""
    taken: list[Any] = m.run([partial(m.alloc_pages, 0, gfp.GFP_HIGHUSER_MOVABLE)])

    def whole() -> None:
        assert m.cma_alloc(12 << 20 >> 12) is None

    def some() -> None:
        page = m.cma_alloc(8)
        if page is not None:
            m.cma_release(page, 8)

    def after() -> None:
        m.run([lambda: m.free_pages(taken[0])])

    return [whole, some], after


@partial(program, nodes=2, cpusets=True, cma=0)
def cpusets(m: Machine) -> Parts:
    """The nodes of one CPU are changed by two at once; afterwards it still can allocate."""

    def body(node: int) -> None:
        m.set_mems_allowed(0, [node])

    def after() -> None:
        m.run([lambda: m.alloc_pages(MAX_PAGE_ORDER, ATOMIC_NOWARN)])
        assert m.kernel.cpusets is not None
        m.run([m.kernel.cpusets.read_begin])

    return [partial(body, 0), partial(body, 1)], after


@partial(program, memory="256M", cma=0)
def atomic_reserve(m: Machine) -> Parts:
    """Page blocks become a reserve for atomic allocations, and are given back."""
    zone = m.zones[-1]

    def reserve() -> None:
        page: Any = m.alloc_pages(5)
        zone.reserve_highatomic_pageblock(page, 5)
        m.free_pages(page, 5)
        zone.unreserve_highatomic_pageblock(MOVABLE, True)

    def other() -> None:
        for _ in range(3):
            m.free_pages(m.alloc_pages(5), 5)

    return [reserve, other], nothing


@program
def never_used(m: Machine) -> Parts:
    """Blocks that were never used get their page structs, by those who look and those who allocate."""

    def body() -> None:
        for megabyte in (5, 9):
            m.compound_head(megabyte << 20 >> 12)
        page = m.alloc_pages(MAX_PAGE_ORDER)
        m.free_pages(page, MAX_PAGE_ORDER)

    return [body, body], nothing


@program
def boosted(m: Machine) -> Parts:
    """Watermarks are boosted, set and lowered again."""
    zone = m.zones[0]

    def body() -> None:
        with zone.lock:
            zone._boost_watermark(True)
        zone.drop_boost(PAGEBLOCK_NR_PAGES)
        m.free_pages(m.alloc_pages(4), 4)

    def other() -> None:
        m.set_min_free_kbytes(300)
        with zone.lock:
            zone._boost_watermark(True)

    return [body, other], nothing


@program
def exhausted(m: Machine) -> Parts:
    """Memory is used up: kswapd is asked, and somebody must not fail."""
    taken = use_up(m)

    def must() -> None:
        page = m.alloc_pages(0, gfp.GFP_KERNEL | gfp.NOFAIL)
        m.free_pages(page)

    def other() -> None:
        assert m.alloc_pages(0, gfp.GFP_KERNEL | gfp.NOWARN) is None  # takes as long as the other
        m.free_pages(*taken.pop(0))

    def after() -> None:
        give_back(m, taken)

    return [must, other], after


@program
def offline_in_use(m: Machine) -> Parts:
    """A page block cannot go offline, since a page of it is used."""
    taken: list[Any] = m.run([partial(m.alloc_pages, 4)])
    start = taken[0].pfn & -PAGEBLOCK_NR_PAGES

    def body() -> None:
        assert not m.offline_pages(start, PAGEBLOCK_NR_PAGES)

    def other() -> None:
        m.free_pages(m.alloc_pages(4), 4)

    def after() -> None:
        m.run([partial(m.free_pages, taken[0], 4)])

    return [body, other], after
