"""
Reported as bc6697d8a506 ``slub: avoid potential NULL dereference or corruption`` (2011).

Statistics look at the slabs of all CPUs without a lock. They read the pointer to a CPU's slab twice: to
see whether there is one, and to use it.

    CPU 0                                   CPU 1
    statistics: CPU 1 has a slab
                                            flush: it has none
    reads the slab of CPU 1 again: NULL

Symptom: NULL dereference, or the counters of a page that is somebody else's. Fix: read the pointer once.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.statistics import SlabCpuStatistics


class _FetchesTwice(KmemCache):
    """Looks for a slab, then reads where it is once more."""

    @staticmethod
    def _cpu_statistics(cpu: int, c: KmemCacheCpu) -> SlabCpuStatistics:
        node = objects = inuse = -1
        if c.page is not None:
            node = c.page.zone.zone_pgdat.node_id
            objects = c.page.objects
            inuse = c.page.inuse
        return SlabCpuStatistics(cpu, node, objects, inuse, 0, -1)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU reads statistics, another flushes its slab."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)
    m.run([None, cache.alloc])
    return Program([cache.statistics, lambda: m.slab.cpu_slabs.flush_cpu_slab(cache)], m.verify)


BUG = Bug(
    name="statistics-fetch-twice",
    number="B09",
    title="statistics test a pointer and then read it again",
    fixed_by="reported as bc6697d8a506 slub: avoid potential NULL dereference or corruption",
    subsystem="slub",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={KmemCache: _FetchesTwice},
    expect=frozenset({"AttributeError"}),
    workload=_workload,
    witness="v1:12.0",
    executions={"pb": 30, "random": 200, "pct": 200},  # medians: random 91, pct 13
)
