"""
``mm/slub: restore/expand unfreeze_partials() local exclusion scope`` (M. Galbraith, 2021, PREEMPT_RT).

The list of partial slabs of a CPU was changed without the CPU's local lock. That lock is "interrupts off"
here; what comes in between is an interrupt, there it was another task of the same CPU.

    CPU 0                                   interrupt on CPU 0
    put_cpu_partial: reads partial (S1)
                                            ___slab_alloc: takes S1 off the list
    links S2 in front of S1, stores S2
                                            ... allocates from S1, which is on the list again

Symptom: a slab with two owners, its free list torn. Fix: every change of the list under the local lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.local_lock import LocalLock
from concmem.runtime.api import Runtime


class _NoLock(LocalLock):
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Unlocked(KmemCacheCpu):
    """Changes with interrupts enabled."""

    __slots__ = ()

    def __init__(self, rt: Runtime, offset: int) -> None:
        super().__init__(rt, offset)
        self.lock = _NoLock(rt)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU frees to full slabs, which puts them on its partial list; its interrupt allocates."""
    m = Machine(memory="16M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: list[int] = []

    def prepare() -> None:
        for _ in range(4 * 4):
            address = cache.alloc()
            assert address is not None
            objects.append(address)
        cache.free(objects.pop(8))

    m.run([prepare])

    def free() -> None:
        cache.free(objects.pop(4))

    def interrupt() -> None:
        for _ in range(2):
            address = cache.alloc(GFP_ATOMIC)
            assert address is not None
            assert address not in objects, "handed out twice"
            objects.append(address)

    return Program([free], m.verify, interrupts=[(0, interrupt)])


BUG = Bug(
    name="cpu-partial-unlocked",
    number="B04",
    title="the CPU partial list changes while interrupts are enabled",
    fixed_by="M. Galbraith's patch for PREEMPT_RT, 2021 (no commit cited); in 6.12 all of it is under cpu_slab->lock",
    subsystem="slub",
    kind="list corruption",
    depth=2,
    cpus=1,
    replaces={KmemCacheCpu: _Unlocked},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:10.0",
    executions={"pb": 20, "random": 500},  # random: seeds 0 to 9 need 83 at the median
)
