"""
d71608a87736 ``mm/slab_common: fix possible double free of kmem_cache`` (2022).

Who destroys a SLAB_TYPESAFE_BY_RCU cache hands it over to a worker. Whether it is such a cache was then
read from the cache, which may be gone.

    CPU 0                                   worker
    destroy: queues the release
    releases slab_mutex
                                            rcu_barrier, releases the cache
    reads its flags: not TYPESAFE_BY_RCU
    releases the cache

Symptom: use after free, then a double free of the kmem_cache. Fix: read the flag before, while slab_mutex
is held.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU


class _LateFlag(SlabCommon):
    """Leaves the release to a worker, and asks the cache whether it did."""

    def _shutdown(self, s: KmemCache) -> None:
        super()._shutdown(s)
        if s.flags & SLAB_TYPESAFE_BY_RCU:
            self.rcu.call_rcu(lambda: self._release(s))

    def _finish(self, s: KmemCache, rcu_set: bool, in_sysfs: bool) -> None:
        if not s.flags & SLAB_TYPESAFE_BY_RCU:
            self._release(s)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A cache whose slabs wait for readers is destroyed."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192, flags=SLAB_TYPESAFE_BY_RCU)

    def prepare() -> None:
        address = cache.alloc()
        assert address is not None
        cache.free(address)

    m.run([prepare])
    return Program([cache.destroy], m.verify)


BUG = Bug(
    name="flag-read-after-handover",
    number="B14",
    title="a flag of a cache is read after the cache has been given to a worker that frees it",
    fixed_by="d71608a87736 mm/slab_common: fix possible double free of kmem_cache",
    subsystem="slab_common",
    kind="double free",
    depth=2,
    cpus=1,
    replaces={SlabCommon: _LateFlag},
    expect=frozenset({"DoubleFree"}),
    workload=_workload,
    witness="v1:41.0,44.0,45.0,47.0,48.0,50.0,51.0,53.0,54.0,88.0,91.0,92.0,94.0,95.0,97.0,98.0,100.0,101.0",
    executions={"pct": 50, "pos": 100},  # seed 0: pct 4, pos 5
)
