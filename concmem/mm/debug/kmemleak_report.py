"""
What the leak detector has found, as data and as text.

The text is that of ``/sys/kernel/debug/kmemleak`` as of Linux 6.12, letter by letter. Addresses are plain, the
backtrace has functions of Python with offsets in their byte code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from concmem.mm.debug.kmemleak_object import OBJECT_REPORTED, KmemleakObject, Trace, show_trace
from concmem.mm.debug.kmemleak_scan import KmemleakScan
from concmem.mm.statistics_kmemleak import UnreferencedObject

HEX_ROW_SIZE: Final = 16
HEX_MAX_LINES: Final = 2

_MM: Final = __file__.rpartition("debug")[0]
"""The directory of memory management."""


class KmemleakReport(KmemleakScan):
    """What of the leak detector shows what it has found."""

    def _unreferenced(self) -> list[UnreferencedObject]:
        """
        What has been reported and is unreferenced still, the oldest first.

        On a CPU; caller holds scan_mutex. May sleep.
        """
        found: list[UnreferencedObject] = []

        def look(obj: KmemleakObject) -> None:
            with obj.lock:
                if obj.flags & OBJECT_REPORTED and self._unreferenced_object(obj):
                    found.append(self._snapshot(obj))

        self._for_each_object(look)
        return found

    def _snapshot(self, obj: KmemleakObject) -> UnreferencedObject:
        """Caller holds object->lock, so that the block is there."""
        return UnreferencedObject(
            address=obj.pointer,
            size=obj.size,
            comm=obj.comm,
            pid=obj.pid,
            jiffies=obj.jiffies,
            data=self._memory.read(obj.pointer, min(obj.size, HEX_MAX_LINES * HEX_ROW_SIZE)),
            checksum=obj.checksum,
            backtrace=show_trace(obj.trace),
            callers=show_trace(_outside_of_mm(obj.trace)),
        )


def _outside_of_mm(trace: Trace) -> Trace:
    """The callers of memory management, in *trace*."""
    for index, (code, _) in enumerate(trace):
        if not code.co_filename.startswith(_MM):
            return trace[index:]
    return ()


def print_unreferenced(found: UnreferencedObject) -> str:
    """One object, as it is in the file."""
    lines = [
        f"unreferenced object {found.address:#010x} (size {found.size}):",
        f'  comm "{found.comm}", pid {found.pid}, jiffies {found.jiffies}',
        f"  hex dump (first {len(found.data)} bytes):",
        *hex_dump(found.data),
        f"  backtrace (crc {found.checksum:x}):",
        *(f"    {entry}" for entry in found.backtrace),
    ]
    return "".join(f"{line}\n" for line in lines)


def hex_dump(data: bytes) -> Iterator[str]:
    """Rows of 16 bytes, as numbers and as text."""
    for start in range(0, len(data), HEX_ROW_SIZE):
        row = data[start : start + HEX_ROW_SIZE]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"    {row.hex(' '):{HEX_ROW_SIZE * 3 + 1}}{text}"
