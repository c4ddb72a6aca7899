"""
73444bc4d8f9 ``mm, page_alloc: do not wake kswapd with zone lock held`` (2019).

Types begin to mix, the watermarks are raised, and kswapd is to be told. To wake somebody is not a small thing: it
may start a timer, and with CONFIG_DEBUG_OBJECTS that allocates memory.

    CPU 0                                   CPU 1
    allocates: zone->lock
    boosts the watermarks
    wakes kswapd
    starts a timer, allocates for it
    waits for zone->lock, which it holds
                                            allocates: waits for zone->lock

Symptom: lockdep tells of a circle of locks; with bad luck a hang. Fix: a flag under the lock, the wake-up after it.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_HIGHUSER_MOVABLE
from concmem.mm.node import PgData
from concmem.mm.page_alloc import PageAllocator
from concmem.mm.zone import Zone


class _WakesAtOnce(Zone):
    """Does not wait until the lock is free."""

    def _boost_watermark(self, wake_kswapd: bool) -> None:
        super()._boost_watermark(wake_kswapd)
        self._wake_kswapd_if_boosted()


class _DebugObjects(PgData):
    """Who wakes kswapd starts a timer, and allocates a debug object for it."""

    allocator: PageAllocator | None = None

    def wakeup_kswapd(self, order: int, highest_zoneidx: int) -> None:
        super().wakeup_kswapd(order, highest_zoneidx)
        allocator, self.allocator = self.allocator, None
        if allocator is not None:
            allocator.alloc_pages(0, GFP_ATOMIC)
            self.allocator = allocator


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs allocate unmovable pages where all free memory is movable."""
    m = Machine(memory="16M", runtime=rt, classes={PgData: _DebugObjects, **classes})

    def prepare() -> None:
        for order in (10, 10, 10, 9):
            assert m.alloc_pages(order, GFP_HIGHUSER_MOVABLE) is not None

    m.run([prepare])
    (node,) = m.nodes
    assert isinstance(node, _DebugObjects)
    node.allocator = m.page_alloc

    def allocate() -> None:
        assert m.alloc_pages(0) is not None

    return Program([allocate, allocate], m.verify)


BUG = Bug(
    name="wake-under-zone-lock",
    number="B62",
    title="kswapd is woken while zone->lock is held",
    fixed_by='73444bc4d8f9 ("mm, page_alloc: do not wake kswapd with zone lock held")',
    subsystem="page_alloc",
    kind="lock order",
    depth=1,
    cpus=2,
    replaces={Zone: _WakesAtOnce},
    expect=frozenset({"Deadlock", "LockMisuse"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 10, "pb": 5},  # any schedule
    note="The way from a wake-up to the page allocator is part of the workload: there are no timers here.",
)
