"""
5b990546e334 ``mempool: fix and document synchronization and memory barrier usage`` (T. Heo, 2012).

Who frees an element looks at the number in reserve without a lock. That is enough only if what it sees is not
older than the allocation of that element; without a barrier it may be.

    CPU 0                                   CPU 1
                                            loads curr_nr: full (ahead of time)
    mempool_alloc: takes p of the reserve
    curr_nr - 1
    hands p to CPU 1
                                            mempool_free(p): the reserve is full
                                            gives p to the allocator

Symptom: the reserve is short of an element for good; in the end there is none, and all who wait hang. Fix:
smp_wmb() after taking an element, smp_rmb() before the look.
"""

from __future__ import annotations

from typing import Any

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mempool import AllocFn, FreeFn, Mempool
from concmem.mm.vmstat import VmEvents
from concmem.runtime.api import Runtime


class _EarlyLoad(Mempool):
    """Every CPU loads the number for the next look as soon as it is done with the last one."""

    def __init__(
        self,
        rt: Runtime,
        events: VmEvents,
        min_nr: int,
        alloc_fn: AllocFn,
        free_fn: FreeFn,
        pool_data: object = None,
        allocator_first: bool = False,
    ) -> None:
        self._loaded = rt.percpu(list[int], "loaded")
        super().__init__(rt, events, min_nr, alloc_fn, free_fn, pool_data, allocator_first)

    def _needs_elements(self) -> bool:
        loaded = self._loaded.this()
        loaded.append(self.curr_nr)
        return loaded.pop(0) < self.min_nr if len(loaded) > 1 else super()._needs_elements()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU takes the reserve, another frees that and one of its own; then the reserve is full again."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    elements: list[Any] = []

    def prepare() -> Mempool:
        pool = m.mempool_create(1, lambda _gfp: object(), _forget)
        elements.extend((pool.alloc(), pool.alloc()))
        pool.free(elements.pop())
        return pool

    (pool,) = m.run([prepare])
    assert pool is not None
    passed = rt.cell(None, "passed")

    def allocate() -> None:
        passed.value = pool.alloc()

    def free() -> None:
        pool.free(elements.pop())
        while (element := passed.value) is None:
            rt.cpu_relax()
        pool.free(element)

    def full() -> None:
        assert pool.curr_nr == pool.min_nr, "all is back, and the reserve is short"

    return Program([allocate, free], full)


def _forget(_element: object) -> None:
    pass


BUG = Bug(
    name="mempool-early-load",
    number="B31",
    title="mempool_free looks at a number of elements that is older than the allocation",
    fixed_by='5b990546e334 ("mempool: fix and document synchronization and memory barrier usage")',
    subsystem="mempool",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={Mempool: _EarlyLoad},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:0.0",
    executions={"random": 50, "pct": 50, "pb": 10},  # random: seeds 0 to 4 need 2 at the median,
    note="Memory is sequentially consistent here: the load is early in the program, not by the processor, and "
    "so no later than the look before.",
)
