"""
Reported as 66c4c35c6bc5 ``slub: Do not hold slub_lock when calling sysfs_slab_add()`` (2012).

A new cache was announced in sysfs with the lock of all caches held. Sysfs starts a helper in user space,
and waits for it; to run it takes memory, files, and perhaps a new cache.

    CPU 0                                   CPU 1
    create: takes slab_mutex
    announces the cache, waits for the
    helper
                                            helper: create: waits for slab_mutex

Symptom: deadlock. Fix: put the cache on the list, release the mutex, then tell sysfs.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_sysfs import SlabSysfs


class _AnnouncesAtOnce(SlabSysfs):
    """Tells user space when a cache is added."""

    def add(self, s: KmemCache) -> None:
        super().add(s)
        super().uevent(s.name)

    def uevent(self, name: str) -> None:
        pass


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU makes a cache; the helper of the kernel, on another, makes one of its own."""
    m = Machine(memory="2M", runtime=rt, slab_merge=False, classes=classes)

    def uevent_helper(name: str) -> None:
        if name == "objects":
            rt.submit(1, m.kmem_cache_create, "helper", 256).result()

    m.slab.sysfs.uevent_helper = uevent_helper

    def after() -> None:
        assert [cache.object_size for cache in m.slab.caches()[:2]] == [256, 128]

    return Program([lambda: m.kmem_cache_create("objects", 128)], after, verify=m.verify)


BUG = Bug(
    name="callout-under-slab-mutex",
    number="B60",
    title="user space is told of a new cache, and waited for, with slab_mutex held",
    fixed_by="reported as 66c4c35c6bc5 slub: Do not hold slub_lock when calling sysfs_slab_add()",
    subsystem="slab_common",
    kind="deadlock",
    depth=1,
    cpus=2,
    replaces={SlabSysfs: _AnnouncesAtOnce},
    expect=frozenset({"Deadlock"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 1, "pb": 1},  # every execution shows it
)
