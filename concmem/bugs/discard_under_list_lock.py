"""
Reported as 9ada19342b24 ``slub: move discard_slab out of node lock`` (2011).

Empty slabs were freed with the list_lock of their node held. Freeing a slab by call_rcu may need memory:
debugging of RCU heads allocates an object to follow each.

    CPU 0 alone
    unfreeze_partials: takes list_lock
    discard_slab: call_rcu
        allocates an object to follow the callback
            get_partial_node: takes list_lock

Symptom: deadlock, if the object's cache is that of the slab; else a report of recursive locking. Fix:
collect the slabs on a list of one's own, and free them after the lock. The way of shrinking and destroying
had the same mistake until 6039892396d8 ``mm/slub.c: run free_partial() outside of the
kmem_cache_node->list_lock`` (2016).
"""

from __future__ import annotations

from collections.abc import Callable

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.page import Page
from concmem.mm.rcu import Rcu
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU
from concmem.mm.slub_cpu import CpuSlabs


class _DiscardsAtOnce(CpuSlabs):
    """Frees an empty slab where it finds it."""

    def _put_partial(self, s: KmemCache, n: KmemCacheNode, slab: Page) -> bool:
        if not super()._put_partial(s, n, slab):
            self._pages.discard_slab(s, slab)
        return True


class _DebugObjects(Rcu):
    """Follows each callback with an object of a cache (CONFIG_DEBUG_OBJECTS_RCU_HEAD)."""

    tracks: KmemCache | None = None

    def call_rcu(self, callback: Callable[[], None]) -> None:
        cache = self.tracks
        if cache is None:
            super().call_rcu(callback)
            return
        address = cache.alloc(GFP_ATOMIC)

        def called() -> None:
            if address is not None:
                cache.free(address)
            callback()

        super().call_rcu(called)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU whose partial list has an empty slab, which waits for readers, flushes it to the node."""
    m = Machine(memory="2M", runtime=rt, classes={Rcu: _DebugObjects, **classes})
    cache = m.kmem_cache_create("objects", 8192, flags=SLAB_TYPESAFE_BY_RCU)
    tracks = m.kmem_cache_create("debug_objects_cache", 256)
    cache.min_partial = 0

    def prepare() -> None:
        objects = cache.alloc_bulk(4 + 1)  # four in a slab
        cache.free_bulk(objects[:4])
        tracks.alloc()
        tracks.flush_all()

    m.run([prepare])
    assert isinstance(m.rcu, _DebugObjects)
    m.rcu.tracks = tracks
    return Program([cache.flush_all], m.verify)


BUG = Bug(
    name="discard-under-list-lock",
    number="B58",
    title="empty slabs are freed with list_lock held",
    fixed_by="reported as 9ada19342b24 slub: move discard_slab out of node lock",
    subsystem="slub",
    kind="lock order",
    depth=1,
    cpus=1,
    replaces={CpuSlabs: _DiscardsAtOnce},
    expect=frozenset({"lockdep"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 1, "pb": 1},  # every execution shows it
)
