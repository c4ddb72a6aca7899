"""
``struct kmemleak_object``: what the leak detector knows of one block of memory.

The *colour* of an object follows from two numbers, `min_count` and `count`, the references that the scan under
way has found:

    white   count < min_count: not referenced often enough, so far
    grey    count >= min_count: referenced, and scanned for references to others; with min_count 0, always
    black   min_count -1: neither reported nor scanned

Locks:
    object->lock (irqsave)      flags, min_count, count, checksum, trace, scan areas. Whoever holds it keeps the
                                block from being freed: who frees takes it first
    kmemleak_lock (irqsave)     del_state
    (everything else is set before the object can be found)
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Final

from concmem.mm.list_head import ListHead
from concmem.runtime.api import lockless_reads

if TYPE_CHECKING:
    from concmem.runtime.api import Lock, Refcount

KMEMLEAK_GREY: Final = 0
KMEMLEAK_BLACK: Final = -1

OBJECT_ALLOCATED: Final = 1 << 0
"""The block is allocated."""
OBJECT_REPORTED: Final = 1 << 1
"""It has been reported as unreferenced once."""
OBJECT_NO_SCAN: Final = 1 << 2
"""It is not scanned."""
OBJECT_FULL_SCAN: Final = 1 << 3
"""There was no memory for a scan area: all of it is scanned."""

DELSTATE_REMOVED: Final = 1 << 0
"""It is not in the search tree any more."""
DELSTATE_NO_DELETE: Final = 1 << 1
"""A walk of the list sleeps here: it stays on the list meanwhile."""

MAX_TRACE: Final = 16
"""Callers kept of each allocation."""

Trace = tuple[tuple[CodeType, int], ...]
"""Callers, innermost first: code, and byte offset in it."""

Area = tuple[int, int]
"""A part of an object: where it begins and its bytes."""


class KmemleakObject(ListHead):
    """One block: *size* bytes at *pointer*. A node of ``object_list``."""

    __slots__ = (
        "area_list",
        "area_metadata",
        "checksum",
        "comm",
        "count",
        "del_state",
        "flags",
        "jiffies",
        "kmemleak_lock",
        "lock",
        "metadata",
        "min_count",
        "pid",
        "pointer",
        "size",
        "trace",
        "use_count",
    )

    # The colour, and whether there is still a block, may be looked at without the lock first, by a scan: what it
    # misses so it finds the next time.
    __guarded_by__: Final = {
        **dict.fromkeys(("count", "min_count", "flags"), lockless_reads("lock")),
        **dict.fromkeys(("checksum", "trace", "area_list", "area_metadata"), "lock"),
        "del_state": "kmemleak_lock",
    }

    def __init__(
        self,
        lock: Lock,
        kmemleak_lock: Lock,
        use_count: Refcount,
        metadata: int,
        task: tuple[str, int],
        trace: Trace,
    ) -> None:
        self.next = None
        self.prev = None
        self.lock = lock
        self.kmemleak_lock = kmemleak_lock
        self.use_count = use_count
        """References to this struct: that of the search tree, and of those who work with it."""
        self.metadata = metadata
        """Where the struct is in memory: an object of the detector's own cache; 0: of its pool."""
        self.comm, self.pid = task
        """Who allocated the block."""
        self.trace = trace
        self.pointer = 0
        self.size = 0
        """Bytes."""
        self.jiffies = 0
        """When it was allocated."""
        self.flags = 0
        """``OBJECT_*`` bits."""
        self.min_count = 0
        self.count = 0
        self.checksum = 0
        """CRC of the contents when a scan last found it white."""
        self.del_state = 0
        """``DELSTATE_*`` bits."""
        self.area_list: list[Area] = []
        """The parts to be scanned; empty: all of it."""
        self.area_metadata: list[int] = []
        """Where the structs of those are in memory."""

    def color_white(self) -> bool:
        """Referenced less often than is wanted, so far."""
        return self.count < self.min_count

    def color_gray(self) -> bool:
        """Referenced often enough, or taken for referenced."""
        return self.count >= self.min_count != KMEMLEAK_BLACK

    def __repr__(self) -> str:
        return f"<kmemleak_object {self.pointer:#x} size:{self.size}>"


def stack_trace_save(depth: int) -> Trace:
    """The callers of whoever calls this, without the *depth* innermost."""
    entries: list[tuple[CodeType, int]] = []
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None and len(entries) < MAX_TRACE:
        entries.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(entries)


def show_trace(trace: Trace) -> tuple[str, ...]:
    """As ``%pS``: each function, the offset in its byte code, and the length of that."""
    return tuple(f"{code.co_qualname}+{offset:#x}/{len(code.co_code):#x}" for code, offset in trace)
