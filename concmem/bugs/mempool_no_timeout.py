"""
Reported as 0b1d647a02c5 ``[PATCH] dm: work around mempool_alloc, bio_alloc_bioset deadlocks`` (2006).

A pool makes progress as long as everybody who has an element gives it back without waiting for another. Drivers
on top of each other that share a pool do not: each has one, and needs a second.

    CPU 0                                   CPU 1
    mempool_alloc: one of two
                                            mempool_alloc: the other one
    mempool_alloc: none; sleeps
                                            mempool_alloc: none; sleeps

Symptom: both sleep for ever, although there is memory again. Fix: who waits asks the allocator every 5 seconds.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mempool import Mempool


class _NoTimeout(Mempool):
    """Sleeps until it is woken."""

    def _seconds_to_sleep(self, deadline: int | None) -> float | None:
        return None if deadline is None else super()._seconds_to_sleep(deadline)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs take two elements each, one after the other; a third frees memory past the pool, a second later."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    memory = ["a", "b"]
    (pool,) = m.run(
        [lambda: m.mempool_create(2, lambda _gfp: memory.pop() if memory else None, memory.append)]
    )
    assert pool is not None

    def stacked() -> None:
        outer = pool.alloc()
        inner = pool.alloc()
        assert outer != inner, "handed out twice"
        pool.free(inner)
        pool.free(outer)

    lock = rt.spinlock("memory")
    sleep = rt.waitqueue(lock, "memory")

    def free_memory() -> None:
        with lock:
            sleep.wait(1.0)
        memory.append("c")

    return Program([stacked, stacked, free_memory])


BUG = Bug(
    name="mempool-no-timeout",
    number="B79",
    title="who waits for an element of a memory pool never asks the allocator again",
    fixed_by='reported as 0b1d647a02c5 ("dm: work around mempool_alloc, bio_alloc_bioset deadlocks")',
    subsystem="mempool",
    kind="deadlock",
    depth=2,
    cpus=3,
    replaces={Mempool: _NoTimeout},
    expect=frozenset({"Deadlock"}),
    workload=_workload,
    witness="v1:1.0,5.0",
    executions={"random": 40, "pb": 40},  # random: seeds 0 to 4 need 1 at the median
)
