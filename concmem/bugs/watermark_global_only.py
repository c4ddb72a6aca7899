"""
Reported as aa45484031dd ``mm: page allocator: calculate a better estimate of NR_FREE_PAGES when memory is low and
kswapd is awake`` (2010).

Each CPU keeps a small difference to the number of free pages to itself. With many CPUs these add up.

    CPU 0                                   CPU 1 to 3
    10 pages above the mark: allocates 6
    keeps -6 to itself
                                            10 pages above the mark: allocate 6 each
                                            keep -6 each to themselves
    the counter says: still 10 above

Symptom: the reserve is used up by those who have no right to it; in the end everybody waits for memory that only
the reserve could free. Fix: near the mark, the differences of all CPUs are added up.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, NOWARN, RECLAIM
from concmem.mm.zone import Zone


class _GlobalOnly(Zone):
    """The counter is good enough."""

    def nr_free_pages_snapshot(self) -> int:
        return self.nr_free_pages.value


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Four CPUs allocate until they may no more; the reserve stays what it is."""
    m = Machine(memory="2M", pagesets=False, runtime=rt, classes=classes)
    zone = m.zones[-1]
    gfp = GFP_KERNEL & ~RECLAIM | NOWARN

    def fill() -> None:
        for order in (8, 7, 6, 5, 4, 3, 2, 1):
            while zone.nr_free_pages_exact() - (1 << order) > zone.watermark.min + 6:
                assert m.alloc_pages(order, gfp) is not None

    def allocate() -> None:
        for _ in range(4):
            m.alloc_pages(0, gfp)

    def reserve() -> None:
        # All four may have looked when there was a single page left for them.
        assert zone.nr_free_pages_exact() > zone.watermark.min - 4, "the reserve is used up"

    m.run([fill])
    return Program([allocate] * 4, reserve, verify=m.verify)


BUG = Bug(
    name="watermark-global-only",
    number="B26",
    title="a watermark test does not see what CPUs have not told yet",
    fixed_by='reported as aa45484031dd ("mm: page allocator: calculate a better estimate of NR_FREE_PAGES when memory '
    'is low and kswapd is awake")',
    subsystem="page_alloc",
    kind="accounting",
    depth=1,
    cpus=4,
    replaces={Zone: _GlobalOnly},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 10, "pb": 5},  # any schedule with four CPUs
)
