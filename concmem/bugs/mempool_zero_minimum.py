"""
a2152fef2902 ``mm: mempool: fix crash in mempool_free() for zero-minimum pools`` (2025), and the patch before it,
``mm: mempool: fix wake-up edge case bug for zero-minimum pools`` (Y. Fan).

A pool of 0 elements is never short of any, so what is freed goes past it, and past who waits for it.

    CPU 0                                   CPU 1
                                            mempool_alloc: gets the last element
    mempool_alloc: the allocator has none
    curr_nr is 0: sleeps
                                            mempool_free: curr_nr < min_nr? 0 < 0: no
                                            gives it to the allocator; no wake-up

Symptom: the waiter sleeps for 5 seconds, until it asks the allocator again. Fix: such a pool takes one element,
and wakes; the first fix forgot to make room for it.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mempool import Mempool


class _NoRoom(Mempool):
    """There is room for what is kept in reserve."""

    def _nr_slots(self) -> int:
        return self.min_nr


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two users of a single element, which both hand back at once; neither should wait for long."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    free = ["element"]
    (pool,) = m.run(
        [lambda: m.mempool_create(0, lambda _gfp: free.pop() if free else None, free.append)]
    )
    assert pool is not None

    def use() -> None:
        element = pool.alloc(timeout=1.0)
        assert element is not None, "it has come back, and the waiter was not told"
        rt.cpu_relax()
        pool.free(element)

    return Program([use, use])


BUG = Bug(
    name="mempool-zero-minimum",
    number="B30",
    title="a memory pool that keeps no elements never wakes who waits for one",
    fixed_by='a2152fef2902 ("mm: mempool: fix crash in mempool_free() for zero-minimum pools")',
    subsystem="mempool",
    kind="lost wake-up",
    depth=1,
    cpus=2,
    replaces={Mempool: _NoRoom},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 10, "pct": 10, "pb": 10},  # most schedules
)
