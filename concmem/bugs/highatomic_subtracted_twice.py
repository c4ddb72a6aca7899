"""
4855e4a7f29d ``mm: prevent double decrease of nr_reserved_highatomic`` (2016).

A page that was freed with the type that its block had before ends up on the list of the reserve, though its block
is no part of it any more. Who trusts the list gives the same block back twice.

    CPU 0                                   CPU 1
    frees a page: its block is reserved
                                            gives the block back, reserve - 512
    puts the page on the reserve's list
                                            finds the page there
                                            gives the block back, reserve - 512

Symptom: the number of reserved pages is too small, and watermark tests are wrong by that. Fix: the block's own type
says whether it is reserved.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.migratetype import HIGHATOMIC, MOVABLE
from concmem.mm.page import Page
from concmem.mm.zone import Zone
from concmem.units import PAGEBLOCK_NR_PAGES


class _TrustsTheList(Zone):
    """The type of a freed page is looked up early, as was done then; and what is on the list is reserved."""

    def free_one_page(self, page: Page, order: int, to_tail: bool = False) -> None:
        migratetype = self.mem_map.pageblock_type(page.pfn)
        with self.lock:
            self._free_one_page(page, order, migratetype, to_tail)

    def _account_unreserved(self, page: Page, order: int) -> None:
        nr = max(PAGEBLOCK_NR_PAGES, 1 << order)
        self.nr_reserved_highatomic -= min(nr, self.nr_reserved_highatomic)
        self.update_fast_mark()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Of two reserved blocks a page is freed, while they are given back."""
    m = Machine(memory="256M", runtime=rt, classes=classes)
    zone = m.zones[-1]
    order = 4

    def prepare() -> Page:
        found = [m.alloc_pages(order) for _ in range(2 * PAGEBLOCK_NR_PAGES >> order)]
        pages = [page for page in found if page is not None]
        for page in pages[1], pages[-3], pages[-4]:
            m.free_pages(page, order)
        for page in pages[0], pages[-1]:
            assert zone.reserve_highatomic_pageblock(page, order)
        return pages[0]

    (page,) = m.run([prepare])
    assert page is not None

    def free() -> None:
        m.free_pages(page, order)

    def unreserve() -> None:
        for _ in range(2):
            zone.unreserve_highatomic_pageblock(MOVABLE, force=True)

    def counted() -> None:
        nr_blocks = m.mem_map.pageblock_types.count(HIGHATOMIC)
        assert zone.nr_reserved_highatomic == nr_blocks * PAGEBLOCK_NR_PAGES, "not what is reserved"

    return Program([free, unreserve], counted)


BUG = Bug(
    name="highatomic-subtracted-twice",
    number="B24",
    title="a page block is given back from the reserve twice",
    fixed_by='4855e4a7f29d ("mm: prevent double decrease of nr_reserved_highatomic")',
    subsystem="page_alloc",
    kind="accounting",
    depth=3,
    cpus=2,
    replaces={Zone: _TrustsTheList},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:1.0,17.0",
    executions={"random": 50, "pb": 60},  # random: seeds 0 to 5 need 3 at the median
)
