"""
72853e2991a2 ``mm: page allocator: update free page counters after pages are placed on the free list`` (2010).

Whether there is enough memory is looked up without zone->lock, in a counter. If that is ahead of the free lists,
it lets allocations pass that take what is there instead: the reserve.

    CPU 0                                   CPU 1
    gives a batch of pages back
    nr_free_pages + 20
                                            allocates: above the mark; takes a page
                                            ... and another one, and another
    zone->lock: puts them on the lists

Symptom: the reserve is drained by those who have no right to it; with many CPUs everybody waits for memory. Fix: the
counter after the lists. In Linux 6.12 it is before them again, for each page by itself and in the same critical
section: who has seen it gets the lock after that, and finds the page. That much is allowed, here too.
"""

from __future__ import annotations

from collections.abc import Iterable

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, NOWARN, RECLAIM
from concmem.mm.page import Page
from concmem.mm.zone import Zone


class _CountsFirst(Zone):
    """Counts a batch in one critical section, and puts it on the lists in another."""

    counted = 0

    def free_bulk(self, pages: Iterable[tuple[Page, int]]) -> None:
        batch = list(pages)
        with self.lock:
            for page, order in batch:
                self._account_freepages(1 << order, self.mem_map.pageblock_type(page.pfn))
        with self.lock:
            self.counted = len(batch)
            for page, order in batch:
                self._free_one_page(page, order, self.mem_map.pageblock_type(page.pfn))

    def _account_freepages(self, nr_pages: int, migratetype: int) -> None:
        if self.counted:
            self.counted -= 1
        else:
            super()._account_freepages(nr_pages, migratetype)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU gives back what its page set has, while another allocates until it may no more."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    zone = m.zones[-1]
    gfp = GFP_KERNEL & ~RECLAIM | NOWARN
    nr_cached = 20
    pcp = zone.pageset.of(0)

    def fill() -> None:
        """To the mark, exactly."""
        pcp.set_sizes(batch=nr_cached, high_min=4 * nr_cached, high_max=4 * nr_cached)
        pages = [m.alloc_pages(0, gfp) for _ in range(nr_cached)]
        for order in (8, 7, 6, 5, 4):
            while zone.nr_free_pages_exact() - (1 << order) > zone.watermark.min:
                m.alloc_pages(order, gfp)
        for page in pages:
            assert page is not None
            m.free_pages(page)

    m.run([fill])

    def free() -> None:
        m.drain_all_pages()

    def allocate() -> None:
        for _ in range(3):
            m.alloc_pages(4, gfp)
            with zone.lock:
                free = sum(area.nr_free << area.order for area in zone.free_area)
            assert free >= zone.watermark.min, "the reserve is used up"

    return Program([free, allocate], m.verify)


BUG = Bug(
    name="count-before-list",
    number="B20",
    title="pages are counted as free before they are on a list",
    fixed_by='72853e2991a2 ("mm: page allocator: update free page counters after pages are placed on the free list")',
    subsystem="page_alloc",
    kind="accounting",
    depth=2,
    cpus=2,
    replaces={Zone: _CountsFirst},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:25.0,68.0",
    executions={"pct": 60},  # seeds 0 to 5 need 3 at the median
)
