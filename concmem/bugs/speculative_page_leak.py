"""
e320d3012d25 ``mm/page_alloc.c: fix freeing non-compound pages`` (2020).

A block of pages that is no compound page does not know its order. Somebody who looks a page up without a lock
may have a reference for a moment, and be the last one to drop it.

    CPU 0                                   CPU 1
    alloc_pages(1): P, one reference
                                            finds P, takes a reference
    free_pages(P, 1): not the last one
                                            put_page(P): the last one
                                            frees P alone; the page after it is lost

Symptom: a leak, slow enough for twelve years. Fix: who frees a block that is no compound page frees the rest of
it, whoever has P.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.page_alloc import PageAllocator


class _NoCompoundPages(PageAllocator):
    """Who drops the last reference frees what it knows of."""

    def put_page(self, page: Page) -> None:
        if page._count.dec_and_test():
            page.order = 0
            page._count.add(True)
            self.free_pages(page, 0)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU frees two pages, while another takes a reference to the first if it can, and drops it."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    (page,) = m.run([lambda: m.alloc_pages(1)])
    assert page is not None

    def free() -> None:
        m.free_pages(page, 1)

    def look() -> None:
        if page._count.inc_not_zero():
            m.put_page(page)

    return Program([free, look], m.verify)


BUG = Bug(
    name="speculative-page-leak",
    number="B25",
    title="the last reference to a block is a speculative one, and frees its first page only",
    fixed_by='e320d3012d25 ("mm/page_alloc.c: fix freeing non-compound pages")',
    subsystem="page_alloc",
    kind="leak",
    depth=2,
    cpus=2,
    replaces={PageAllocator: _NoCompoundPages},
    expect=frozenset({"PageCountError"}),
    workload=_workload,
    witness="v1:0.0,1.0",
    executions={"random": 50, "pb": 40},  # random: seeds 0 to 4 need 2 at the median
)
