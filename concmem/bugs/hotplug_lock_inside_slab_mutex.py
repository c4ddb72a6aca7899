"""
Reported as afe0c26d1968 ``mm, slub: move slub_debug static key enabling outside slab_mutex`` (2021).

Making a cache with debugging switched a static key with slab_mutex held, which keeps CPUs from going: it
takes the lock of CPU hotplug. Hotplug takes the two in the other order.

    CPU 0                                   CPU 1
    create: takes slab_mutex
                                            a CPU goes: takes cpu_hotplug_lock
    waits for cpu_hotplug_lock
                                            its slabs: waits for slab_mutex

Symptom: deadlock. Fix: whatever needs cpu_hotplug_lock comes before slab_mutex.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_common import SlabCommon


class _SwitchesKey(SlabCommon):
    """Keeps CPUs from going while it adds a cache."""

    def _add_cache(self, s: KmemCache) -> None:
        with self._cpu_hotplug_lock.read():
            super()._add_cache(s)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU makes a cache while another one goes."""
    m = Machine(memory="2M", runtime=rt, slab_merge=False, classes=classes)
    return Program(
        [lambda: m.kmem_cache_create("objects", 128), lambda: m.slab.cpu_dead(1)], m.verify
    )


BUG = Bug(
    name="hotplug-lock-inside-slab-mutex",
    number="B61",
    title="the lock of CPU hotplug is taken with slab_mutex held",
    fixed_by="reported as afe0c26d1968 mm, slub: move slub_debug static key enabling outside slab_mutex",
    subsystem="slab_common",
    kind="deadlock",
    depth=2,
    cpus=2,
    replaces={SlabCommon: _SwitchesKey},
    expect=frozenset({"Deadlock", "lockdep"}),
    workload=_workload,
    witness="v1:1.0",
    executions={"random": 20, "pb": 20},  # seed 0: random 1, pb 3
)
