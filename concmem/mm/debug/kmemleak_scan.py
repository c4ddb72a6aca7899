"""
The leak detector's scan: which objects does no word of memory lead to?

1. All objects are made white; those that need no reference are grey, and go to the grey list.
2. Roots are scanned: static data, per-CPU data, page structs, vm_structs, stacks. Each word that is an address in
   an object, at its beginning or inside, is a reference to it; with enough of them it becomes grey.
3. The objects on the grey list are scanned, and what they refer to comes to its end.
4. Objects that are still white, but whose contents have changed since the scan before, are in use: their
   addresses are on the way from one place to another. They are grey this time, and scanned, too.
5. What is white now, and old enough, is reported, once.

A scan stops nobody. Memory changes meanwhile, and an address that is moved at the wrong moment is not seen;
steps 4 and 5 are there for that.

Memory is read in pieces of at most 4 KiB. A piece without a byte that addresses in a kernel begin with is
done with two operations on all of it; only the words of others are looked at one by one.

Follows ``kmemleak_scan`` of ``mm/kmemleak.c``, Linux 6.12.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.debug.kmemleak_object import (
    DELSTATE_NO_DELETE,
    DELSTATE_REMOVED,
    OBJECT_ALLOCATED,
    OBJECT_FULL_SCAN,
    OBJECT_NO_SCAN,
    OBJECT_REPORTED,
    KmemleakObject,
)
from concmem.mm.debug.kmemleak_roots import KmemleakRoots
from concmem.mm.rculist import list_del_rcu, list_for_each_entry_rcu
from concmem.units import HZ

if TYPE_CHECKING:
    from concmem.mm.log import KernelLog
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.rcu import Rcu
    from concmem.mm.sections import Sections
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

MAX_SCAN_SIZE: Final = 4096
"""Bytes that are scanned without a break."""
MSECS_MIN_AGE: Final = 5000
"""Age below which an object is not reported."""
CRC_SIZE: Final = 1 << 16
"""Bytes that are read at a time for a checksum."""

_WORD: Final = 8
_TOP_BYTE: Final = 0xFF
"""The highest byte of every address in a kernel."""


class KmemleakScan(KmemleakRoots):
    """What of the leak detector looks for references."""

    # scan_mutex: who scans has it
    __guarded_by__: ClassVar = {
        **dict.fromkeys(("_gray_list", "_jiffies_last_scan"), "scan_mutex"),
    }

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        log: KernelLog,
        events: VmEvents,
        rcu: Rcu,
        mem_map: MemMap,
        sections: Sections,
    ) -> None:
        super().__init__(rt, memory, log, events, rcu, mem_map)
        self._sections = sections
        self._stack_scan = rt.cell(True, "kmemleak_stack_scan")
        self._found_leaks = rt.cell(False, "kmemleak_found_leaks")
        self._min_age = rt.cell(_msecs_to_jiffies(MSECS_MIN_AGE), "jiffies_min_age")
        self.nr_scans = rt.atomic(0, "kmemleak scans")
        # scan_mutex
        self._gray_list: deque[KmemleakObject] = deque()
        """Grey objects that have not been scanned yet, each with a reference."""
        self._jiffies_last_scan = 0

    # -- parameters

    @property
    def msecs_min_age(self) -> int:
        """Milliseconds below which an object is too young to be reported; 5000 at first."""
        return self._min_age.value * 1000 // HZ

    @msecs_min_age.setter
    def msecs_min_age(self, msecs: int) -> None:
        if isinstance(msecs, bool) or not isinstance(msecs, int):
            raise BadArgumentType(f"msecs_min_age: expected a whole number, got {msecs!r}")
        if msecs < 0:
            raise BadArgument(f"msecs_min_age: must not be negative, got {msecs}")
        self._min_age.value = _msecs_to_jiffies(msecs)

    # -- the whole

    def kmemleak_scan(self) -> int:
        """Scan, and report what is new; how many that is. On a CPU; caller holds scan_mutex. May sleep."""
        self._jiffies_last_scan = self._rt.jiffies
        self.nr_scans.inc()
        try:
            self._for_each_object(self._whiten)
            self._scan_roots()
            self._scan_gray_list()
            self._for_each_object(self._gray_if_modified)
            self._scan_gray_list()
        finally:
            while self._gray_list:
                self._put_object(self._gray_list.popleft())
        if self._scan_should_stop():
            return 0
        new_leaks = 0

        def report(obj: KmemleakObject) -> None:
            nonlocal new_leaks
            new_leaks += self._report_if_new(obj)

        self._for_each_object(report)
        if new_leaks:
            self._found_leaks.value = True
            self._warn(f"{new_leaks} new suspected memory leaks (see /sys/kernel/debug/kmemleak)")
        return new_leaks

    @abstractmethod
    def _scan_should_stop(self) -> bool:
        """Whether the scan under way is of no use any more."""

    # -- step by step

    def _whiten(self, obj: KmemleakObject) -> None:
        with obj.lock:
            obj.count = 0
            if obj.color_gray() and self._get_object(obj):
                self._gray_list.append(obj)

    def _gray_if_modified(self, obj: KmemleakObject) -> None:
        # No lock: what is missed here is caught in the next scan.
        if not obj.color_white():
            return
        with obj.lock:
            if (
                obj.color_white()
                and obj.flags & OBJECT_ALLOCATED
                and self._update_checksum(obj)
                and self._get_object(obj)
            ):
                obj.count = obj.min_count
                self._gray_list.append(obj)

    def _report_if_new(self, obj: KmemleakObject) -> bool:
        # No lock: as above.
        if not obj.color_white():
            return False
        with obj.lock:
            if obj.flags & OBJECT_REPORTED or not self._unreferenced_object(obj):
                return False
            obj.flags |= OBJECT_REPORTED
            return True

    def _unreferenced_object(self, obj: KmemleakObject) -> bool:
        """Whether the last scan has found too few references. Caller holds object->lock."""
        return (
            obj.color_white()
            and bool(obj.flags & OBJECT_ALLOCATED)
            and obj.jiffies + self._min_age.value <= self._jiffies_last_scan
        )

    def _update_checksum(self, obj: KmemleakObject) -> bool:
        """
        Whether the contents have changed since this was last asked. Caller holds object->lock.

        Since Linux kernel commit 04609ccc40c4 ("kmemleak: Reduce the false positives by checking for modified
        objects") (in v2.6.33) such objects are not reported. This model follows that.
        """
        old = obj.checksum
        obj.checksum = self._crc32(obj.pointer, obj.size)
        return obj.checksum != old

    def _crc32(self, pointer: int, size: int) -> int:
        """As the kernel's ``crc32(0, ...)``, which inverts neither before nor after."""
        crc = 0xFFFF_FFFF
        for start in range(0, size, CRC_SIZE):
            crc = zlib.crc32(self._memory.read(pointer + start, min(CRC_SIZE, size - start)), crc)
        return ~crc & 0xFFFF_FFFF

    # -- the list of all objects

    def _for_each_object(self, visit: Callable[[KmemleakObject], object]) -> None:
        """Call *visit* with each object, in an RCU reader that is left when others want the CPU."""
        self._rcu.read_lock()
        try:
            for obj in list_for_each_entry_rcu(self.object_list):
                if self._need_resched():
                    self._cond_resched(obj)
                visit(obj)
        finally:
            self._rcu.read_unlock()

    def _need_resched(self) -> bool:
        return bool(self._rt.area()[0])

    def _cond_resched(self, obj: KmemleakObject) -> None:
        """Leave the RCU reader for a moment, in a walk that is at *obj*, and goes on from there."""
        if not self._get_object(obj):
            return  # at the next one
        pinned = self._pin_object(obj)
        if pinned:
            self._rcu.read_unlock()
            try:
                self._rt.cond_resched()
            finally:
                self._rcu.read_lock()
                self._unpin_object(obj)
        self._put_object(obj)

    def _pin_object(self, obj: KmemleakObject) -> bool:
        """Have *obj* stay on the list, if it is there still."""
        with self.kmemleak_lock:
            if obj.del_state & DELSTATE_REMOVED:
                return False
            obj.del_state |= DELSTATE_NO_DELETE
            return True

    def _unpin_object(self, obj: KmemleakObject) -> None:
        with self.kmemleak_lock:
            if obj.del_state & DELSTATE_REMOVED:
                list_del_rcu(obj)
            obj.del_state &= ~DELSTATE_NO_DELETE

    # -- roots

    def _scan_roots(self) -> None:
        for start, end in (self._sections.data_range(), *self._sections.percpu_ranges()):
            self._scan_large_block(start, end)
        for words in self._root_words():
            self._scan_words(words)
            self._rt.cond_resched()
        if self._stack_scan.value:
            for start, end in self._sections.stack_ranges():
                self._scan_large_block(start, end)

    # -- blocks

    def _scan_large_block(self, start: int, end: int) -> None:
        while start < end and not self._scan_should_stop():
            following = min(start + MAX_SCAN_SIZE, end)
            self._scan_words(self._read_words(start, following))
            start = following
            self._rt.cond_resched()

    def _read_words(self, start: int, end: int) -> list[int]:
        """The whole words from *start* to *end*, or none if none can be an address."""
        start = _align(start)
        nr_bytes = (end - start) // _WORD * _WORD
        if nr_bytes <= 0:
            return []
        data = self._memory.read(start, nr_bytes)
        if _TOP_BYTE not in data[_WORD - 1 :: _WORD]:
            return []
        return memoryview(data).cast("Q").tolist()

    def _scan_words(self, words: Iterable[int], scanned: KmemleakObject | None = None) -> None:
        """Find references in *words*, but those of *scanned* to itself."""
        if not words:
            return
        with self.kmemleak_lock:
            low, high = self.min_addr, self.max_addr
            find = self._tree.find
            for pointer in words:
                if low <= pointer < high:
                    obj = find(pointer)
                    # No lock for the colour: only this scan makes white objects grey.
                    if obj is not None and obj is not scanned and obj.color_white():
                        self._update_refs(obj)

    def _update_refs(self, obj: KmemleakObject) -> None:
        """One reference more. Caller holds kmemleak_lock."""
        with obj.lock:
            if not obj.color_white():
                return
            obj.count += 1
            if obj.color_gray() and self._get_object(obj):
                self._gray_list.append(obj)

    # -- grey objects

    def _scan_gray_list(self) -> None:
        while self._gray_list:
            self._rt.cond_resched()
            obj = self._gray_list.popleft()
            try:
                if not self._scan_should_stop():
                    self._scan_object(obj)
            finally:
                self._put_object(obj)

    def _scan_object(self, obj: KmemleakObject) -> None:
        """
        Find references in one object. While its lock is held, the block is not freed.

        A kernel looks the words up under that lock, too, and takes those of other objects inside of it. Here the
        words are copied anyway.
        """
        start, end = _align(obj.pointer), obj.pointer + obj.size
        while start < end:
            following = min(start + MAX_SCAN_SIZE, end)
            with obj.lock:
                if obj.flags & OBJECT_NO_SCAN or not obj.flags & OBJECT_ALLOCATED:
                    return
                if obj.area_list and not obj.flags & OBJECT_FULL_SCAN:
                    following = end
                    parts = [self._read_words(first, first + size) for first, size in obj.area_list]
                else:
                    parts = [self._read_words(start, following)]
            for words in parts:
                self._scan_words(words, obj)
            start = following
            self._rt.cond_resched()


def _align(address: int) -> int:
    """*address*, or the next one that a word may begin at."""
    return -(-address // _WORD) * _WORD


def _msecs_to_jiffies(msecs: int) -> int:
    return -(-msecs * HZ // 1000)
