"""
What the leak detector is told about blocks: colours, parts to be scanned, who has allocated them.

Locks:
    object->lock    all of that; see kmemleak_object.py
"""

from __future__ import annotations

from typing import Any

from concmem.mm.debug.kmemleak_object import (
    KMEMLEAK_BLACK,
    OBJECT_FULL_SCAN,
    OBJECT_NO_SCAN,
    KmemleakObject,
    Trace,
    stack_trace_save,
)
from concmem.mm.debug.kmemleak_track import SIZE_MAX, KmemleakTrack


class KmemleakPaint(KmemleakTrack):
    """What of the leak detector changes what is known of a block."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._area_warned = self._rt.atomic(0, "kmemleak scan area warned")

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
