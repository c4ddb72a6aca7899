"""
The leak detector's objects: made when memory is allocated, taken away when it is freed.

Locks::

    scan_mutex -> kmemleak_lock -> object->lock

    scan_mutex (mutex)          one scan, or one command, at a time
    object->lock (irqsave)      see kmemleak_object.py
    kmemleak_lock (irqsave)     the search tree, changes of object_list, min_addr, max_addr, del_state, the pool
    (the list is walked under RCU; nothing is printed and nothing is allocated under either spinlock)

Whoever removes an object from the tree, in the same critical section as the look-up, drops the reference of the
tree; so of two who free the same block, one finds nothing.

Follows ``mm/kmemleak.c`` of Linux 6.12. Not there: physical and per-CPU objects.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final

from concmem.errors import NotACpu
from concmem.mm.debug.kmemleak_object import (
    DELSTATE_NO_DELETE,
    DELSTATE_REMOVED,
    OBJECT_ALLOCATED,
    KmemleakObject,
    show_trace,
)
from concmem.mm.debug.kmemleak_structs import KmemleakStructs
from concmem.mm.debug.kmemleak_tree import ObjectTree
from concmem.mm.list_head import List
from concmem.mm.rculist import list_del_rcu
from concmem.runtime.api import lockdep_assert_held

SIZE_MAX: Final = (1 << 64) - 1


class KmemleakTrack(KmemleakStructs):
    """What of the leak detector has to do with allocations. See :mod:`concmem.mm.debug.kmemleak`."""

    __guarded_by__: ClassVar = dict.fromkeys(("_tree", "min_addr", "max_addr"), "kmemleak_lock")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        rt = self._rt
        self.scan_mutex = rt.mutex("scan_mutex")
        self.object_list: List[KmemleakObject] = List()
        """All objects, the oldest first. Changed under kmemleak_lock, walked under RCU."""
        # kmemleak_lock
        self._tree = ObjectTree()
        self.min_addr = SIZE_MAX
        """No object begins below."""
        self.max_addr = 0
        """No object ends above."""
        # Since Linux kernel commit c5f3b1a51a59 ("mm: kmemleak: allow safe memory scanning during
        # kmemleak disabling") (in v4.2) there are two: frees are followed until no scan runs.
        self._enabled = rt.cell(True, "kmemleak_enabled")
        self._free_enabled = rt.cell(True, "kmemleak_free_enabled")
        self._error = rt.atomic(0, "kmemleak_error")

    # -- from the allocators

    def create_object(self, pointer: int, size: int, min_count: int, gfp: int) -> None:
        """A block has been allocated, and nobody knows of it yet. Does not sleep but as *gfp* allows."""
        if not self._enabled.value:
            return
        obj = self._alloc_object(gfp)
        if obj is None:
            return
        with self.kmemleak_lock:
            # Looked at again: everything may have been forgotten meanwhile, and this would never be. (As of v6.12
            # a kernel does not look, and keeps such an object.)
            tracking = self._free_enabled.value
            other = self._link_object(obj, pointer, size, min_count) if tracking else None
        if other is not None or not tracking:
            self._free_object(obj)
            if other is not None:
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

        Since Linux kernel commit e781a9ab4847 (reported as such; "mm: kmemleak: fix delete_object_*() race when
        called on the same memory block") in one critical section. This model follows that.
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
