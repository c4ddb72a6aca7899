"""
Reported as 7ed9f7e5db58 ``fix RCU-callback-after-kmem_cache_destroy problem in sl[aou]b`` (2009).

The slabs of a SLAB_TYPESAFE_BY_RCU cache go by call_rcu. Before the cache itself went, a grace period was
waited for, but not the callbacks, which run some time after it.

    CPU 0                                   CPU 1 (callbacks)
    shrink: call_rcu(free the slab)
    synchronize_rcu: no reader is left
    frees the cache
                                            frees the slab, for which it asks the cache

Symptom: a callback uses a cache that is gone. Fix: rcu_barrier, which waits for the callbacks.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU


class _WaitsForReaders(SlabCommon):
    """Waits for a grace period only."""

    def _wait_for_slabs(self) -> None:
        self.rcu.synchronize_rcu()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A cache with one slab is destroyed: then there must be no slab of it."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192, flags=SLAB_TYPESAFE_BY_RCU)

    def prepare() -> None:
        address = cache.alloc()
        assert address is not None
        cache.free(address)

    m.run([prepare])

    def destroy() -> None:
        cache.destroy()
        left = [slab for slab in m.mem_map.slabs.values() if slab.slab_cache is cache]
        assert not left, "a slab outlives its cache"

    return Program([destroy], m.verify)


BUG = Bug(
    name="destroy-waits-for-readers-only",
    number="B19",
    title="a cache goes when a grace period is over, but callbacks that need it have not run",
    fixed_by="reported as 7ed9f7e5db58 fix RCU-callback-after-kmem_cache_destroy problem in sl[aou]b",
    subsystem="slab_common",
    kind="use after free",
    depth=2,
    cpus=1,
    replaces={SlabCommon: _WaitsForReaders},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:61.0",
    executions={"random": 20, "pb": 10},  # seeds 0 to 7: 3 at the median with random
)
