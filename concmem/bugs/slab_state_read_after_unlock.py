"""
No commit found: a comment in ``kmem_cache_destroy`` of ``mm/slab_common.c``, Linux 6.12.117, says it.

Before sysfs is there caches have no directories; when it comes all of them get one. Who destroys a cache at
that time must ask with slab_mutex held whether it has one to drop. It asked after.

    CPU 0                                   CPU 1
    destroy: takes the cache off the list
    of caches, releases slab_mutex
                                            sysfs is up: directories for all caches
                                            of the list
    sysfs is up: drops the directory, which
    the cache never had

Symptom: "kobject: is not initialized, yet kobject_put() is being called". Fix: read the state while
slab_mutex is held.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_sysfs import SlabSysfs


class _LateState(SlabCommon):
    """Asks for the state when it needs it."""

    def _finish(self, s: KmemCache, rcu_set: bool, in_sysfs: bool) -> None:
        super()._finish(s, rcu_set, self.sysfs.is_up)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU destroys a cache while another one is as far as late_init."""
    m = Machine(memory="2M", runtime=rt, slab_merge=False, classes=classes)
    m.slab.sysfs = SlabSysfs(rt)  # as it was before
    cache = m.kmem_cache_create("objects", 128)
    return Program([cache.destroy, m.slab.late_init], m.verify)


BUG = Bug(
    name="slab-state-read-after-unlock",
    number="B83",
    title="whether a cache has a directory in sysfs is asked after slab_mutex is released",
    fixed_by="no commit found; a comment in mm/slab_common.c of 6.12.117",
    subsystem="slab_common",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={SlabCommon: _LateState},
    expect=frozenset({"KernelBug"}),
    workload=_workload,
    witness="v1:23.0",
    executions={"random": 30, "pb": 20},  # seed 0: 4 with both
)
