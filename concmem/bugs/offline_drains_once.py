"""
968318261221 ``mm/memory_hotplug: drain per-cpu pages again during memory offline`` (2020).

Who frees a page looks up the type of its block without a lock. Then the block may be isolated and all page sets
drained, before the page goes into one of them.

    CPU 0                                   CPU 1
    frees a page: its block is movable
                                            isolates the block
                                            drains all page sets
    puts the page into its page set
                                            waits for the page to get free

Symptom: memory offline never ends, for a page that is free. Fix: the sets are drained each time that the block turns
out not to be free yet.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.memory_hotplug import MemoryHotplug
from concmem.mm.page import Page
from concmem.units import PAGEBLOCK_NR_PAGES


class _DrainsOnce(MemoryHotplug):
    """Waits, since all page sets are empty."""

    def _drain_again(self) -> None:
        self._rt.cpu_relax()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A page block goes offline while its last page is freed."""
    m = Machine(memory="4M", min_free_kbytes=16, runtime=rt, classes=classes)

    def prepare() -> Page:
        """A page of the second block."""
        while True:
            page = m.alloc_pages(0)
            assert page is not None
            if page.pfn >= PAGEBLOCK_NR_PAGES:
                return page

    (page,) = m.run([prepare])
    assert page is not None

    def free() -> None:
        m.free_pages(page)

    def offline() -> None:
        m.offline_pages(page.pfn & -PAGEBLOCK_NR_PAGES, PAGEBLOCK_NR_PAGES)

    return Program([free, offline], m.verify)


BUG = Bug(
    name="offline-drains-once",
    number="B22",
    title="memory offline waits for a page that went into a page set after the drain",
    fixed_by='968318261221 ("mm/memory_hotplug: drain per-cpu pages again during memory offline")',
    subsystem="page_alloc",
    kind="livelock",
    depth=2,
    cpus=2,
    replaces={MemoryHotplug: _DrainsOnce},
    expect=frozenset({"Livelock"}),
    workload=_workload,
    witness="v1:1.0",
    executions={"pb": 20},  # one preemption, in a narrow place: pct needs 17 with one of four seeds
    options={"max_steps": 2000},
)
