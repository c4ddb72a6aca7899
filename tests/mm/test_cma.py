"""Contiguous memory areas: what may go there, what comes out, and what a failure leaves behind."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from concmem.errors import BadFree, SleepInAtomic
from concmem.machine import Machine
from concmem.mm.page import Page

from .helpers import (
    alloc,
    buddy_blocks,
    free,
    free_all,
    free_runs,
    nr_buddy_pages,
    on_cpu,
    snapshot,
    take_all,
)

MOVABLE = 0x100CCA | 0x2000
UNMOVABLE = 0xCC0 | 0x2000
AREA = range(0x1800, 0x2000)  # the last 8 MiB of 32
NR_AREA = len(AREA)


def boot(**parameters: Any) -> Machine:
    """A machine with 8 MiB of CMA: four page blocks, which are free as two order-10 blocks."""
    return Machine(**({"cpus": 2, "memory": "32M", "cma": "8M"} | parameters))


def contiguous(m: Machine, page: Page, nr: int) -> list[Page]:
    """The pages of a contiguous allocation, checked."""
    assert AREA.start <= page.pfn
    assert page.pfn + nr <= AREA.stop
    pages = [m.pfn_to_page(page.pfn + i) for i in range(nr)]
    assert all(p.ref_count() == 1 and p.order == 0 for p in pages)
    return pages


@pytest.mark.parametrize("nr", [1, 3, 100, 511, 512, 513, 1000, 1024, 1025, 1536, 2047, 2048])
def test_alloc_and_release(nr: int) -> None:
    """The pages are in the area, one reference each; a release makes everything as it was."""
    with boot() as m:
        at_boot = [buddy_blocks(zone) for zone in m.zones]
        page = on_cpu(m, m.cma_alloc, nr)
        contiguous(m, page, nr)
        m.verify()
        assert not any(free_runs(m)[page.pfn : page.pfn + nr])
        on_cpu(m, m.cma_release, page, nr)
        m.drain_all_pages()
        m.verify()
        assert [buddy_blocks(zone) for zone in m.zones] == at_boot


def test_many_sizes_at_once() -> None:
    """Random ranges never overlap, and the area can be had whole again at the end."""
    rng = Random(7)
    with boot() as m:
        live: dict[int, int] = {}
        used = bytearray(AREA.stop)
        for _ in range(120):
            if live and rng.random() < 0.5:
                pfn = rng.choice(sorted(live))
                nr = live.pop(pfn)
                on_cpu(m, m.cma_release, m.pfn_to_page(pfn), nr, cpu=rng.randrange(2))
                used[pfn : pfn + nr] = bytes(nr)
            else:
                nr = rng.choice([1, 5, 64, 300, 512, 700])
                page = on_cpu(m, m.cma_alloc, nr, cpu=rng.randrange(2))
                if page is None:
                    assert used.find(bytes(nr), AREA.start) < 0
                    continue
                contiguous(m, page, nr)
                assert not any(used[page.pfn : page.pfn + nr])
                used[page.pfn : page.pfn + nr] = b"\1" * nr
                live[page.pfn] = nr
            m.verify()
        for pfn, nr in live.items():
            on_cpu(m, m.cma_release, m.pfn_to_page(pfn), nr)
        whole = on_cpu(m, m.cma_alloc, NR_AREA)
        assert whole.pfn == AREA.start
        m.verify()


def test_only_movable_pages_go_there() -> None:
    """Unmovable and reclaimable allocations fail rather than use the area; movable ones use it."""
    with boot() as m:
        for gfp in (UNMOVABLE, UNMOVABLE | 0x10, 0x820 | 0x2000):
            pages = take_all(m, 0, gfp)
            assert not any(page.pfn in AREA for page in pages)
            assert sum(free_runs(m)[AREA.start :]) == NR_AREA
            free_all(m, pages)
        pages = take_all(m, 0, MOVABLE)
        assert sum(page.pfn in AREA for page in pages) > NR_AREA // 2
        free_all(m, pages)
        m.drain_all_pages()
        m.verify()


def test_movable_pages_prefer_the_area_while_it_is_over_half_of_free_memory() -> None:
    """With more than half of free memory in the area, a movable allocation comes from it."""
    with boot(pagesets=False) as m:
        first = alloc(m, 0, MOVABLE)
        assert first.pfn not in AREA or m.zones[-1].nr_free_cma_pages.value * 2 > 4096
        zone = m.zones[-1]
        rest = take_all(m, 10, UNMOVABLE) + take_all(m, 9, UNMOVABLE)
        assert zone.nr_free_cma_pages.value * 2 > zone.nr_free_pages_snapshot()
        assert alloc(m, 0, MOVABLE).pfn in AREA
        assert len(rest) > 2


def test_a_movable_page_in_the_way() -> None:
    """The model does not migrate: a page in use makes ranges around it fail, and only those."""
    with boot(pagesets=False) as m:
        pages = take_all(m, 0, MOVABLE)
        obstacle = next(page for page in pages if page.pfn == AREA.start + 700)
        free_all(m, [page for page in pages if page is not obstacle])
        m.drain_all_pages()
        before = snapshot(m)
        assert on_cpu(m, m.cma_alloc, 1400) is None
        after = snapshot(m)
        assert after["types"] == before["types"]
        assert after["cma"] == before["cma"]
        m.verify()
        page = on_cpu(m, m.cma_alloc, 1300)
        assert page.pfn == AREA.start + 701
        m.verify()
        on_cpu(m, m.cma_release, page, 1300)
        free(m, obstacle)
        m.drain_all_pages()
        assert on_cpu(m, m.cma_alloc, NR_AREA).pfn == AREA.start
        m.verify()


def test_pages_of_page_sets_are_no_obstacle() -> None:
    """Free pages that CPUs keep to themselves are fetched first."""
    with boot() as m:
        for cpu in (0, 1):
            free_all(m, take_all(m, 0, MOVABLE, cpu=cpu), cpu=cpu)
        assert on_cpu(m, m.cma_alloc, NR_AREA) is not None
        m.verify()


def test_a_block_that_is_freed_while_half_of_it_is_isolated() -> None:
    """An order-10 block spans two page blocks; each half goes to the list of its own type."""
    with boot() as m:
        zone = m.zones[-1]
        take_all(m, 10, UNMOVABLE)
        page = alloc(m, 10, MOVABLE)
        assert page.pfn in AREA

        def free_while_isolated(page: Page, half: int) -> None:
            with zone.lock:
                zone._isolate_block(page.pfn + 512 * half)
            m.free_pages(page, 10)

        for half in (0, 1):
            on_cpu(m, free_while_isolated, page, half)
            m.verify()

            def unisolate(pfn: int) -> None:
                with zone.lock:
                    zone._unisolate_block(pfn, 4)

            on_cpu(m, unisolate, page.pfn + 512 * half)
            m.verify()
            assert page.pfn in buddy_blocks(zone)[10]
            assert alloc(m, 10, MOVABLE) is not None
            page = next(p for p in m.mem_map.pages.values() if p.order == 10 and p.pfn in AREA)


def test_counter_of_free_cma_pages() -> None:
    """NR_FREE_CMA_PAGES is the free part of the area."""
    with boot() as m:
        assert m.zones[-1].nr_free_cma_pages.value == NR_AREA
        page = on_cpu(m, m.cma_alloc, 700)
        assert m.zones[-1].nr_free_cma_pages.value == NR_AREA - 700
        on_cpu(m, m.cma_release, page, 700)
        m.drain_all_pages()
        assert m.zones[-1].nr_free_cma_pages.value == NR_AREA


def test_an_interrupt_handler_may_not_allocate_here() -> None:
    """cma_alloc sleeps; refusing it in a handler leaves nothing marked as allocated."""
    with boot() as m:
        before = snapshot(m)
        with pytest.raises(SleepInAtomic):
            m.call_on(0, lambda: m.cma_alloc(10))
        assert snapshot(m) == before
        assert on_cpu(m, m.cma_alloc, NR_AREA) is not None


def test_release_of_a_range_with_a_free_page_in_it() -> None:
    """When one page of the range was freed already, nothing of the rest is."""
    with boot() as m:
        page = on_cpu(m, m.cma_alloc, 8)
        free(m, m.pfn_to_page(page.pfn + 5))
        before = snapshot(m)
        with pytest.raises(BadFree, match=f"{page.pfn + 5:#x}"):
            on_cpu(m, m.cma_release, page, 8)
        assert snapshot(m) == before
        m.verify()


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_alongside_movable_allocations(runtime: str) -> None:
    """Two CPUs allocate and free movable pages in the area while two others want it contiguous."""
    with boot(cpus=4, runtime=runtime, seed=3) as m:
        at_start = nr_buddy_pages(m)

        def movable(cpu: int) -> None:
            rng = Random(cpu)
            live = []
            for _ in range(400):
                if len(live) > 30 or (live and rng.random() < 0.5):
                    m.free_pages(*live.pop(rng.randrange(len(live))))
                else:
                    order = rng.choice([0, 0, 0, 1, 4, 9, 10])
                    page = m.alloc_pages(order, MOVABLE)
                    if page is not None:
                        live.append((page, order))
            for page, order in live:
                m.free_pages(page, order)

        def contiguous_pages(cpu: int) -> int:
            rng = Random(cpu)
            got = 0
            for _ in range(30):
                nr = rng.choice([1, 10, 300, 600])
                page = m.cma_alloc(nr)
                if page is not None:
                    got += 1
                    assert all(m.pfn_to_page(page.pfn + i).ref_count() == 1 for i in range(nr))
                    m.cma_release(page, nr)
            return got

        results = m.run(
            [
                lambda: movable(0),
                lambda: movable(1),
                lambda: contiguous_pages(2),
                lambda: contiguous_pages(3),
            ]
        )
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == at_start
        assert results[2]
        assert results[3]
        assert on_cpu(m, m.cma_alloc, NR_AREA) is not None


def test_verify_while_a_contiguous_allocation_sleeps() -> None:
    """Verification in the middle of alloc_contig_range, while page blocks are isolated, is clean."""
    with Machine(cpus=2, memory="32M", cma="8M") as m:
        drain = m.cma._drain_all_pages

        def drain_and_verify() -> None:
            drain()
            m.verify()

        m.cma._drain_all_pages = drain_and_verify
        m.run([lambda: m.cma_release(m.cma_alloc(1024), 1024)])
        m.verify()
