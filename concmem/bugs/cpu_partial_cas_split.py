"""
Reported as 42d623a8cd08 ``slub: use irqsafe_cpu_cmpxchg for put_cpu_partial`` (2011).

Where the processor has no such instruction, this_cpu_cmpxchg was a load, a comparison and a store with
preemption disabled, but with interrupts enabled.

    CPU 0                                   interrupt on CPU 0
    put_cpu_partial: the list is P, links
    its slab in front of P
    compares: still P
                                            put_cpu_partial: X in front of P, stores X
    stores its slab: X is on no list

Symptom: slab X is lost, and its objects with it. Fix: the variant that disables interrupts.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.page import Page
from concmem.mm.slub_cpu import CpuSlabs


class _CasSplit(CpuSlabs):
    """Compares and exchanges the list in two steps."""

    def put_cpu_partial(self, s: KmemCache, slab: Page, drain: bool) -> None:
        c = s.cpu_slab.this()
        while True:
            old = c.partial
            slab.private = old.private + 1 if old is not None else 1
            slab.next = old
            if self._cmpxchg_partial(c, old, slab):
                return

    @staticmethod
    def _cmpxchg_partial(c: KmemCacheCpu, old: Page | None, new: Page) -> bool:
        if c.partial is not old:
            return False
        c.partial = new
        return True


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU and its interrupt each free to a full slab, which puts it on the CPU partial list."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: list[int] = []
    m.run([lambda: objects.extend(cache.alloc_bulk(3 * 4))])
    return Program(
        [lambda: cache.free(objects[0])],
        m.verify,
        interrupts=[(0, lambda: cache.free(objects[4]))],
    )


BUG = Bug(
    name="cpu-partial-cas-split",
    number="B05",
    title="an interrupt comes between comparing and exchanging the CPU partial list",
    fixed_by="reported as 42d623a8cd08 slub: use irqsafe_cpu_cmpxchg for put_cpu_partial",
    subsystem="slub",
    kind="lost update",
    depth=2,
    cpus=1,
    replaces={CpuSlabs: _CasSplit},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:11.0",
    executions={"pb": 20, "pct": 100, "pos": 200},  # medians: pct 25, pos 49
)
