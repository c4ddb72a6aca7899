"""
d50d82faa0c9 ``slub: fix failure when we delete and create a slab cache`` (2018).

The directory of a destroyed cache in sysfs was removed by a worker, some time later. A cache of the same
name could not be made until then.

    CPU 0                                   worker
    destroy("objects"): queues the removal
    create("objects"): the name is taken
                                            removes the name

Symptom: kmem_cache_create fails with -EEXIST. Fix: take the name out of sysfs at once; only what is left
of the directory goes later.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.slab_common import SlabCommon


class _LateRemoval(SlabCommon):
    """Has a kernel thread remove the name."""

    def _remove_name(self, name: str) -> None:
        remove = super()._remove_name
        self.rcu.call_rcu(lambda: remove(name))


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A cache is destroyed, and another of its name made."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)

    def body() -> None:
        cache.destroy()
        m.kmem_cache_create("objects", 4096)

    return Program([body], m.verify)


BUG = Bug(
    name="name-removed-late",
    number="B63",
    title="the name of a destroyed cache is given up by a worker, later",
    fixed_by="d50d82faa0c9 slub: fix failure when we delete and create a slab cache",
    subsystem="slab_common",
    kind="stale read",
    depth=1,
    cpus=1,
    replaces={SlabCommon: _LateRemoval},
    expect=frozenset({"BadArgument"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 1, "pb": 1},  # every execution shows it
)
