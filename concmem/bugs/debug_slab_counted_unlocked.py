"""
``mm/slub: restrict sysfs validation to debug caches and make it safe`` (2022, v6.1).

A new slab of a debug cache was counted before it was on a list, in two steps that list_lock did not join.

    CPU 0                                   CPU 1
    allocates a slab, nr_slabs += 1
                                            validate, under list_lock: counts the slabs on the
                                            lists, and finds one fewer than nr_slabs
    puts it on a list, under list_lock

Symptom: ``SLUB: objects 1 slabs counted but counter=2``, a false report. Fix: both under list_lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.slub_debug_alloc import SlubDebugAlloc
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.page import Page


class _CountedUnlocked(SlubDebugAlloc):
    def _alloc_single_from_new_slab(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, orig_size: int | None
    ) -> int:
        n = self._cpu_slabs.get_node(s, slab)
        n.inc_slabs_node(slab.objects)
        with n.list_lock:
            n.add_slab(slab)
            return self._alloc_single_from_slab(s, c, n, slab, orig_size)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One needs a new slab while somebody looks at the cache."""
    m = Machine(memory="16M", runtime=rt, classes=classes, slab_debug="F,objects")
    cache = m.kmem_cache_create("objects", 1500)
    return Program([cache.alloc, cache.validate], m.verify)


BUG = Bug(
    name="debug-slab-counted-unlocked",
    number="B07",
    title="a new slab of a debug cache is counted before it is on a list",
    fixed_by='c7323a5ad078 ("mm/slub: restrict sysfs validation to debug caches and make it safe") (in v6.1)',
    subsystem="slub",
    kind="accounting",
    depth=2,
    cpus=2,
    replaces={SlubDebugAlloc: _CountedUnlocked},
    expect=frozenset({"MemoryCorruption"}),
    workload=_workload,
    witness="v1:59.0",
    executions={"pb": 200, "pct": 1000},  # pct: seeds 0 to 9 need 54 at the median
)
