"""
``slub: Take node lock during object free checks`` (2012, v3.6).

A free to a debug cache made the object look free before it was on the slab's free list, without list_lock in
between. Who looked at the slab under list_lock then found an object that was neither in use nor free.

    CPU 0                                   CPU 1
    free: checks the object, writes 0xbb
    over its red zones
                                            validate_slab, under list_lock: the object is on no
                                            free list, so its red zones must be 0xcc
                                            "Redzone overwritten"
    links the object, under list_lock

Symptom: a false report of the checker; nothing is corrupted. Fix: list_lock for all of it.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.slub_debug_free import Chain, SlubDebugFree
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.page import Page


class _ChecksUnlocked(SlubDebugFree):
    def _free_locked(
        self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode, slab: Page, chain: Chain, handle: int
    ) -> tuple[bool, bool]:
        if not self._free_debug_processing(s, c, slab, chain, handle):
            return False, False
        with n.list_lock:
            return True, self._link(s, c, n, slab, chain)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One frees an object of a slab that somebody looks at."""
    m = Machine(memory="16M", runtime=rt, classes=classes, slab_debug="FZ,objects")
    cache = m.kmem_cache_create("objects", 1500)
    addresses = m.run([lambda: cache.alloc_bulk(2)])[0]
    assert addresses is not None
    return Program([lambda: cache.free(addresses[0]), cache.validate], m.verify)


BUG = Bug(
    name="debug-free-unlocked",
    number="B06",
    title="an object of a debug cache looks free before it is on the free list",
    fixed_by='19c7ff9ecd89 ("slub: Take node lock during object free checks") (in v3.6)',
    subsystem="slub",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={SlubDebugFree: _ChecksUnlocked},
    expect=frozenset({"MemoryCorruption"}),
    workload=_workload,
    witness="v1:8.0",
    executions={"pb": 50, "random": 50},  # random: seeds 0 to 9 need 1 or 2
)
