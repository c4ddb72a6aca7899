"""
The leak detector's objects: made when memory is allocated, taken away when it is freed.

Locks::

    scan_mutex -> kmemleak_lock -> object->lock

    scan_mutex (mutex)          one scan, or one command, at a time
    object->lock (irqsave)      see kmemleak_object.py
    kmemleak_lock (irqsave)     the search tree, changes of object_list, min_addr, max_addr, del_state, the pool
    (the list is walked under RCU; nothing is printed and nothing is allocated under either spinlock)

An object is freed after a grace period when its `use_count` comes to 0. The tree holds one reference; who
looks an object up and goes on to use it takes another. Whoever removes it from the tree, in the same critical
section as the look-up, drops that of the tree; so of two who free the same block, one finds nothing.

Follows ``mm/kmemleak.c`` of Linux 6.12. Not there: physical and per-CPU objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from concmem.errors import NotACpu
from concmem.mm import gfp as gfp_flags
from concmem.mm.debug.kmemleak_object import (
    DELSTATE_NO_DELETE,
    DELSTATE_REMOVED,
    KMEMLEAK_BLACK,
    OBJECT_ALLOCATED,
    OBJECT_FULL_SCAN,
    OBJECT_NO_SCAN,
    KmemleakObject,
    Trace,
    show_trace,
    stack_trace_save,
)
from concmem.mm.debug.kmemleak_tree import ObjectTree
from concmem.mm.list_head import List
from concmem.mm.rculist import list_del_rcu
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE
from concmem.runtime.api import lockdep_assert_held

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

SIZE_MAX: Final = (1 << 64) - 1


def gfp_nested_mask(gfp: int) -> int:
    """How the detector's own structs are allocated, inside of an allocation with *gfp*."""
    gfp &= gfp_flags.GFP_KERNEL | gfp_flags.GFP_ATOMIC
    return gfp | gfp_flags.NORETRY | gfp_flags.NOMEMALLOC | gfp_flags.NOWARN


class KmemleakTrack(ABC):
    """What of the leak detector has to do with allocations. See :mod:`concmem.mm.debug.kmemleak`."""

    __guarded_by__: ClassVar = dict.fromkeys(
        ("_tree", "min_addr", "max_addr", "_mem_pool_free"), "kmemleak_lock"
    )

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
        self.scan_mutex = rt.mutex("scan_mutex")
        self.kmemleak_lock = rt.spinlock("kmemleak_lock", irqsave=True)
        self.object_list: List[KmemleakObject] = List()
        """All objects, the oldest first. Changed under kmemleak_lock, walked under RCU."""
        # kmemleak_lock
        self._tree = ObjectTree()
        self.min_addr = SIZE_MAX
        """No object begins below."""
        self.max_addr = 0
        """No object ends above."""
        self._mem_pool_free = self.MEM_POOL_SIZE
        # Since Linux kernel commit c5f3b1a51a59 ("mm: kmemleak: allow safe memory scanning during
        # kmemleak disabling") (in v4.2) there are two: frees are followed until no scan runs.
        self._enabled = rt.cell(True, "kmemleak_enabled")
        self._free_enabled = rt.cell(True, "kmemleak_free_enabled")
        self._error = rt.atomic(0, "kmemleak_error")
        self._pool_warned = rt.atomic(0, "kmemleak mem_pool warned")
        self._area_warned = rt.atomic(0, "kmemleak scan area warned")
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

    # -- from the allocators

    def create_object(self, pointer: int, size: int, min_count: int, gfp: int) -> None:
        """A block has been allocated, and nobody knows of it yet. Does not sleep but as *gfp* allows."""
        if not self._enabled.value:
            return
        obj = self._alloc_object(gfp)
        if obj is None:
            return
        with self.kmemleak_lock:
            other = self._link_object(obj, pointer, size, min_count)
        if other is not None:
            self._free_object(obj)
            self._overlaps(pointer, other)
            return
        with suppress(NotACpu):  # such a thread has no counters
            self._events.count("kmemleak_tracked")

    def delete_object_full(self, pointer: int) -> None:
        """The block at *pointer* is about to be freed. From interrupts, too."""
        if not self._free_enabled.value:
            return
        obj = self._find_and_remove_object(pointer, alias=False)
        if obj is not None:
            self._delete_object(obj)

    def delete_object_part(self, pointer: int, size: int, gfp: int) -> None:
        """Of a block, *size* bytes at *pointer* are freed; what is left before and behind are blocks."""
        if not self._free_enabled.value:
            return
        spare = [self._alloc_object(gfp), self._alloc_object(gfp)]
        with self.kmemleak_lock:
            obj = self._lookup_object(pointer)
            if obj is not None:
                self._remove_object(obj)
                rests = (obj.pointer, pointer), (pointer + size, obj.pointer + obj.size)
                for start, end in rests:
                    if start < end and spare and (rest := spare.pop()) is not None:
                        self._link_object(rest, start, end - start, obj.min_count)
        if obj is not None:
            self._delete_object(obj)
        for unused in spare:
            if unused is not None:
                self._free_object(unused)

    # -- find

    def _lookup_object(self, pointer: int) -> KmemleakObject | None:
        """The object that *pointer* is in. Caller holds kmemleak_lock."""
        lockdep_assert_held(self.kmemleak_lock)
        return self._tree.find(pointer)

    def _find_and_get_object(self, pointer: int, alias: bool) -> KmemleakObject | None:
        """
        The object at *pointer*, for a caller who will put it.

        Args:
            alias: any address inside will do.
        """
        with self.kmemleak_lock:
            obj = self._lookup_object(pointer)
            is_alias = obj is not None and obj.pointer != pointer
            if obj is None or (is_alias and not alias) or not self._get_object(obj):
                obj = None
        if is_alias and not alias:
            self._warn(f"Found object by alias at {pointer:#010x}")
        return obj

    def _find_and_remove_object(self, pointer: int, alias: bool) -> KmemleakObject | None:
        """
        The object at *pointer*, which nobody finds any more; its reference is the caller's.

        Since Linux kernel commit e781a9ab4847 ("mm: kmemleak: fix delete_object_*() race when called on the
        same memory block") (in v4.2, reported so) in one critical section. This model follows that.
        """
        with self.kmemleak_lock:
            obj = self._lookup_object(pointer)
            is_alias = obj is not None and obj.pointer != pointer
            if obj is not None and (alias or not is_alias):
                self._remove_object(obj)
            else:
                obj = None
        if is_alias and not alias:
            self._warn(f"Found object by alias at {pointer:#010x}")
        return obj

    # -- link and remove

    def _link_object(
        self, obj: KmemleakObject, pointer: int, size: int, min_count: int
    ) -> KmemleakObject | None:
        """Make *obj* known; if it overlaps another one, that one instead. Caller holds kmemleak_lock."""
        obj.pointer = pointer
        obj.size = size
        obj.min_count = min_count
        obj.flags = OBJECT_ALLOCATED
        obj.jiffies = self._rt.jiffies
        self._rt.watch(obj)
        other = self._tree.insert(obj)
        if other is not None:
            return other
        self.min_addr = min(self.min_addr, pointer)
        self.max_addr = max(self.max_addr, pointer + size)
        self.object_list.add_tail(obj)
        return None

    def _remove_object(self, obj: KmemleakObject) -> None:
        """Take *obj* out of tree and list. Caller holds kmemleak_lock."""
        self._tree.remove(obj)
        # Since Linux kernel commit 782e41795359 ("mm/kmemleak: fix UAF bug in kmemleak_scan()") (in v6.2), and
        # as of v6.12: while a walk sleeps here, the object keeps its place, and the walk takes it off the list.
        if not obj.del_state & DELSTATE_NO_DELETE:
            list_del_rcu(obj)
        obj.del_state |= DELSTATE_REMOVED

    def _delete_object(self, obj: KmemleakObject) -> None:
        """The block of *obj*, which has been removed, is gone; the caller's reference, too."""
        # Also waits for a scan that reads the block.
        with obj.lock:
            obj.flags &= ~OBJECT_ALLOCATED
        self._put_object(obj)

    def _overlaps(self, pointer: int, other: KmemleakObject) -> None:
        self._warn(
            f"Cannot insert {pointer:#x} into the object search tree (overlaps existing)",
            *self._dump_object_info(other),
        )
        self.disable()

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

    # -- colours, scan areas, traces

    def _paint_ptr(self, pointer: int, color: int) -> None:
        name = "Black" if color == KMEMLEAK_BLACK else "Grey"
        obj = self._find_and_get_object(pointer, alias=False)
        if obj is None:
            self._warn(f"Trying to color unknown object at {pointer:#010x} as {name}")
            return
        with obj.lock:
            self._paint_it(obj, color)
        self._put_object(obj)

    @staticmethod
    def _paint_it(obj: KmemleakObject, color: int) -> None:
        """Caller holds object->lock."""
        obj.min_count = color
        if color == KMEMLEAK_BLACK:
            obj.flags |= OBJECT_NO_SCAN

    def _add_scan_area(self, pointer: int, size: int, gfp: int) -> None:
        obj = self._find_and_get_object(pointer, alias=True)
        if obj is None:
            self._warn(f"Adding scan area to unknown object at {pointer:#010x}")
            return
        end = obj.pointer + obj.size
        if size == SIZE_MAX:
            size = end - pointer
        if pointer + size > end:
            self._warn(
                f"Scan area larger than object {pointer:#010x}", *self._dump_object_info(obj)
            )
        else:
            self._insert_scan_area(obj, pointer, size, gfp)
        self._put_object(obj)

    def _insert_scan_area(self, obj: KmemleakObject, pointer: int, size: int, gfp: int) -> None:
        metadata = self._alloc_metadata(self._scan_area_cache, gfp)
        if metadata is None and not self._area_warned.xchg(1):
            self._warn("Cannot allocate a scan area, scanning the full object")
        with obj.lock:
            if metadata is None:
                obj.flags |= OBJECT_FULL_SCAN
                return
            obj.area_list.append((pointer, size))
            obj.area_metadata.append(metadata)

    def _object_no_scan(self, pointer: int) -> None:
        obj = self._find_and_get_object(pointer, alias=False)
        if obj is None:
            self._warn(f"Not scanning unknown object at {pointer:#010x}")
            return
        with obj.lock:
            obj.flags |= OBJECT_NO_SCAN
        self._put_object(obj)

    def _update_trace(self, pointer: int) -> None:
        """Take who calls now for who has allocated the block at *pointer*, if it is known."""
        obj = self._find_and_get_object(pointer, alias=True)
        if obj is None:
            return
        trace: Trace = stack_trace_save(2)
        with obj.lock:
            obj.trace = trace
        self._put_object(obj)

    # -- the end

    @abstractmethod
    def disable(self) -> None:
        """Stop for good, soon: something went wrong, or somebody wants it so. Never sleeps."""

    # -- words

    def _warn(self, *lines: str) -> None:
        self._log.printk("\n".join(f"kmemleak: {line}" for line in lines))

    def _dump_object_info(self, obj: KmemleakObject) -> list[str]:
        """All that is known of *obj*, in lines, as it is at the moment."""
        with obj.lock:
            return [
                f"Object {obj.pointer:#010x} (size {obj.size}):",
                f'  comm "{obj.comm}", pid {obj.pid}, jiffies {obj.jiffies}',
                f"  min_count = {obj.min_count}",
                f"  count = {obj.count}",
                f"  flags = {obj.flags:#x}",
                f"  checksum = {obj.checksum}",
                "  backtrace:",
                *(f" {entry}" for entry in show_trace(obj.trace)),
            ]
