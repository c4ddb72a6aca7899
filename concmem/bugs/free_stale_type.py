"""
``memory-hotplug: fix pages missed by race rather than failing`` (2012, seen in a mirror as 6174ee72aeb7).

Which free list a page belongs on depends on its page block, whose type may change until zone->lock is held.

    CPU 0                                   CPU 1
    frees a page: its block is CMA
                                            isolates the block: its free pages
                                            go to the isolated list
    puts the page on the CMA list
                                            takes the block's free pages

Symptom: a page of an isolated block that is allocated all the same; the isolation fails, or takes a page off a
list that it is not on. Fix: the type is looked up again under the lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_HIGHUSER_MOVABLE
from concmem.mm.page import Page
from concmem.mm.zone import Zone


class _StaleType(Zone):
    """Looks the type up, then takes the lock."""

    def free_one_page(self, page: Page, order: int, to_tail: bool = False) -> None:
        migratetype = self.mem_map.pageblock_type(page.pfn)
        with self.lock:
            self._free_one_page(page, order, migratetype, to_tail)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A block of movable pages is freed next to where a contiguous allocation finds room."""
    m = Machine(memory="4M", cma="2M", min_free_kbytes=16, runtime=rt, classes=classes)
    order = 4

    def prepare() -> Page:
        """Of the area two blocks are left: a free one, and the one that is returned."""
        for _ in range(14):
            assert m.alloc_pages(5) is not None
        first = m.alloc_pages(order, GFP_HIGHUSER_MOVABLE)
        second = m.alloc_pages(order, GFP_HIGHUSER_MOVABLE)
        for others in (8, 7, 6, 5):
            assert m.alloc_pages(others, GFP_HIGHUSER_MOVABLE) is not None
        assert first is not None
        assert second is not None
        m.free_pages(first, order)
        return second

    (page, _) = m.run([prepare, None])
    assert page is not None

    def free() -> None:
        m.free_pages(page, order)

    def allocate() -> None:
        m.cma_alloc(1)

    return Program([free, allocate], m.verify)


BUG = Bug(
    name="free-stale-type",
    number="B77",
    title="the type of a page block is looked up before zone->lock is held",
    fixed_by='seen as 6174ee72aeb7 ("memory-hotplug: fix pages missed by race rather than failing")',
    subsystem="page_alloc",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={Zone: _StaleType},
    expect=frozenset({"FreeListError", "PageCountError", "ListCorruption"}),
    workload=_workload,
    witness="v1:0.0,4.0,14.0",
    executions={"random": 40, "pb": 60},  # random: seeds 0 to 4 need 4 at the median
    note="Who isolates the block is a contiguous allocation: the model does not take memory offline.",
)
