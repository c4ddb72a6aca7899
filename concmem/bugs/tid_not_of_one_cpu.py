"""
Reported as 7cccd80b4397 ``slub: tid must be retrieved from the percpu area of the current processor`` (2013).

A task took the address of its CPU's structure and the transaction id in two steps, and could be moved to
another CPU in between. Only an id that no other CPU ever has tells then that the two do not belong together.

    CPU 0                                   CPU 1
    free: c is the structure of CPU 0
    (the task moves)
                                            reads an id, the same as CPU 0's
    (the task moves back)
    exchanges: the id is right; the object
    goes on the free list of another slab

Symptom: an object on the free list of a slab that it is not of. Fix: preemption off for both steps; later,
read again if they differ. Both rely on ids that are unique: modulo TID_STEP they are the CPU's number.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.runtime.api import Words


class _SameTids(KmemCacheCpu):
    """Begins with the same id on every CPU."""

    __slots__ = ()

    def come_up(self, cpu: int, words: Words) -> None:
        super().come_up(cpu, words)
        self.freelist_tid.set(0, 0)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs use a cache; no transaction id of one is ever one of the other."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)
    tids: list[set[int]] = [set(), set()]

    def body() -> None:
        cpu = m.smp_processor_id()
        for _ in range(3):
            address = cache.alloc()
            assert address is not None
            tids[cpu].add(cache.cpu_slab.this().tid)

    def after() -> None:
        assert not tids[0] & tids[1], "two CPUs have had the same transaction id"

    return Program([body, body], after, verify=m.verify)


BUG = Bug(
    name="tid-not-of-one-cpu",
    number="B03",
    title="transaction ids of different CPUs can be the same",
    fixed_by="reported as 7cccd80b4397 slub: tid must be retrieved from the percpu area of the current processor",
    subsystem="slub",
    kind="aba",
    depth=1,
    cpus=2,
    replaces={KmemCacheCpu: _SameTids},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 1, "pb": 1},  # every execution shows it
    note="Tasks never move to another CPU in the model: the rule itself, that ids are unique, is what is watched.",
)
