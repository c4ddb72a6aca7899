"""
``mm, slub: prevent VM_BUG_ON in PageSlabPfmemalloc from ___slab_alloc`` (2021).

The slow path looks at the CPU slab with preemption enabled. What it saw may be flushed, and even be
no slab any more, before it has the CPU's lock.

    CPU 0                                   interrupt on CPU 0
    ___slab_alloc: the CPU slab is S
                                            flush: S goes to the node
    takes the CPU's lock, takes the objects
    of S, which is on a list of the node

Symptom: VM_BUG_ON for a page that is no slab; without the second look, a slab with two owners. Fix: a test
that takes any page, and a second look under the lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.page import Page
from concmem.mm.slub_alloc import SlubAlloc


class _NoRecheck(SlubAlloc):
    """Believes what it saw before it had the CPU's lock."""

    @staticmethod
    def _recheck_cpu_slab(c: KmemCacheCpu, slab: Page) -> bool:
        return True


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU whose slab is used up allocates; another one has freed an object of that slab, and flushes."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    objects: list[int] = []
    m.run([lambda: objects.extend(cache.alloc_bulk(4)), None])
    m.run([None, lambda: cache.free(objects.pop())])

    def alloc() -> None:
        address = cache.alloc(GFP_KERNEL)
        assert address is not None
        assert address not in objects, "handed out twice"

    return Program([alloc, cache.flush_all], m.verify)


BUG = Bug(
    name="cpu-slab-not-rechecked",
    number="B18",
    title="the CPU slab, seen without the CPU's lock, is not looked at again under it",
    fixed_by="mm, slub: prevent VM_BUG_ON in PageSlabPfmemalloc from ___slab_alloc",
    subsystem="slub",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={SlubAlloc: _NoRecheck},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:0.0,8.0",
    executions={"pb": 30, "random": 100},  # seeds 0 to 7: 18 at the median with random
)
