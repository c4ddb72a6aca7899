"""
The structs of the leak detector's objects: their memory, and their life.

An object is freed after a grace period when its `use_count` comes to 0. The search tree holds one reference; who looks
an object up and goes on to use it takes another.

Locks:
    kmemleak_lock (irqsave)     the pool; see kmemleak_track.py
    (nothing is printed and nothing is allocated under it)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from concmem.errors import NotACpu
from concmem.mm import gfp as gfp_flags
from concmem.mm.debug.kmemleak_object import KmemleakObject, stack_trace_save
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.log import KernelLog
    from concmem.mm.memory import Memory
    from concmem.mm.rcu import Rcu
    from concmem.mm.slab_common import SlabCommon
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Lock, Runtime

OBJECT_SIZE: Final = 168
"""Bytes of a ``struct kmemleak_object``."""
SCAN_AREA_SIZE: Final = 32
"""Bytes of a ``struct kmemleak_scan_area``."""
TASK_COMM_LEN: Final = 15
"""Letters of a name."""


def gfp_nested_mask(gfp: int) -> int:
    """How the detector's own structs are allocated, inside of an allocation with *gfp*."""
    gfp &= gfp_flags.GFP_KERNEL | gfp_flags.GFP_ATOMIC
    return gfp | gfp_flags.NORETRY | gfp_flags.NOMEMALLOC | gfp_flags.NOWARN


class KmemleakStructs(ABC):
    """What of the leak detector makes and frees structs."""

    __guarded_by__: ClassVar = {"_mem_pool_free": "kmemleak_lock"}

    MEM_POOL_SIZE = 16000
    """Objects in the pool, for when there is no memory, or no allocator yet."""

    def __init__(
        self, rt: Runtime, memory: Memory, log: KernelLog, events: VmEvents, rcu: Rcu
    ) -> None:
        self._rt = rt
        self._memory = memory
        self._log = log
        self._events = events
        self._rcu = rcu
        self.kmemleak_lock = rt.spinlock("kmemleak_lock", irqsave=True)
        self._mem_pool_free = self.MEM_POOL_SIZE  # kmemleak_lock
        self._pool_warned = rt.atomic(0, "kmemleak mem_pool warned")
        self._object_cache: KmemCache | None = None
        self._scan_area_cache: KmemCache | None = None
        # Locks of objects that are gone, for new ones: making one is slow, and a kernel's is a word in the
        # struct. Both ends of a deque are indivisible.
        self._locks: deque[Lock] = deque()
        self._tasks: dict[int, tuple[str, int]] = {}
        """Name and number of the task of each CPU."""

    def create_caches(self, slab: SlabCommon) -> None:
        """From now on objects are in memory of the machine (``kmemleak_init``)."""
        flags = SLAB_NOLEAKTRACE
        self._object_cache = slab.create("kmemleak_object", OBJECT_SIZE, flags=flags)
        self._scan_area_cache = slab.create("kmemleak_scan_area", SCAN_AREA_SIZE, flags=flags)

    # -- references

    @staticmethod
    def _get_object(obj: KmemleakObject) -> bool:
        """One more reference; false when there is none any more. Caller is an RCU reader, or holds a lock."""
        return obj.use_count.inc_not_zero()

    def _put_object(self, obj: KmemleakObject) -> None:
        """Drop a reference; a grace period after the last the struct is freed. Never sleeps."""
        if obj.use_count.dec_and_test():
            self._rcu.call_rcu(partial(self._free_object_rcu, obj))

    def _free_object_rcu(self, obj: KmemleakObject) -> None:
        """Nobody can be on the way to *obj* any more: what is left of it leads nowhere."""
        obj.next = None
        self._free_object(obj)

    # -- structs

    def _alloc_object(self, gfp: int) -> KmemleakObject | None:
        """A struct, with one reference, for the task that allocates now; without one, the detector ends."""
        metadata = self._mem_pool_alloc(gfp)
        if metadata is None:
            self._warn("Cannot allocate a kmemleak_object structure")
            self.disable()
            return None
        use_count = self._rt.refcount("object->use_count")
        use_count.add(True)
        return KmemleakObject(
            self._alloc_lock(),
            self.kmemleak_lock,
            use_count,
            metadata,
            self._current(),
            stack_trace_save(2),
        )

    def _alloc_lock(self) -> Lock:
        try:
            return self._locks.pop()
        except IndexError:
            return self._rt.spinlock("object->lock", irqsave=True)

    def _mem_pool_alloc(self, gfp: int) -> int | None:
        """Memory for a struct: its address, 0 for one of the pool, ``None`` when that is empty, too."""
        address = self._alloc_metadata(self._object_cache, gfp)
        if address is not None:
            return address
        with self.kmemleak_lock:
            found = self._mem_pool_take()
        # Since Linux kernel commit 47b0f6d8f0d2 ("mm/kmemleak: avoid deadlock by moving pr_warn() outside
        # kmemleak_lock") (in v6.17): who prints may allocate. This model follows that.
        if not found:
            self._warn_pool_empty()
        return 0 if found else None

    def _mem_pool_take(self) -> bool:
        """One of the pool's, if there is one left. Caller holds kmemleak_lock."""
        if not self._mem_pool_free:
            return False
        self._mem_pool_free -= 1
        return True

    def _warn_pool_empty(self) -> None:
        if not self._pool_warned.xchg(1):
            self._warn("Memory pool empty, consider increasing CONFIG_DEBUG_KMEMLEAK_MEM_POOL_SIZE")

    def _alloc_metadata(self, cache: KmemCache | None, gfp: int) -> int | None:
        """An object of one of the detector's own caches. Early, and on a thread that is no CPU: none."""
        if cache is None:
            return None
        try:
            return cache.alloc(gfp_nested_mask(gfp))
        except NotACpu:
            return None

    def _free_object(self, obj: KmemleakObject) -> None:
        """Nobody knows *obj*: give its memory back. On a CPU, if it is not of the pool."""
        if obj.area_metadata:
            assert self._scan_area_cache is not None
            self._scan_area_cache.free_bulk(obj.area_metadata)
        if obj.metadata:
            assert self._object_cache is not None
            self._object_cache.free(obj.metadata)
        else:
            with self.kmemleak_lock:
                self._mem_pool_free += 1
        self._locks.append(obj.lock)

    def _current(self) -> tuple[str, int]:
        """Name and number of the task that runs: that of its CPU."""
        try:
            cpu = self._rt.smp_processor_id()
        except NotACpu:
            return "swapper/0", 0
        if self._rt.in_interrupt():
            return "hardirq", 0
        # No lock: of two that come first, both make the same.
        task = self._tasks.get(cpu)
        if task is None:
            comm = self._rt.cpus[cpu].name.removeprefix("concmem-")[:TASK_COMM_LEN]
            task = self._tasks[cpu] = comm, cpu
        return task

    # -- the end

    @abstractmethod
    def disable(self) -> None:
        """Stop for good, soon: something went wrong, or somebody wants it so. Never sleeps."""

    # -- words

    def _warn(self, *lines: str) -> None:
        self._log.printk("\n".join(f"kmemleak: {line}" for line in lines))
