"""
Consistency checks of single objects of debug caches, and what is restored.

The caller holds list_lock of the slab's node, or is the only one who knows the slab.

Follows ``init_object``, ``check_object`` and ``check_bytes_and_report`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm.debug.hex_dump import first_other, last_other
from concmem.mm.debug.object_layout import (
    POISON_END,
    POISON_FREE,
    POISON_INUSE,
    SLUB_RED_ACTIVE,
    SLUB_RED_INACTIVE,
)
from concmem.mm.freelist import encode
from concmem.mm.memory import pfn_to_virt
from concmem.mm.slab_geometry import ORIG_SIZE_SIZE, WORD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from concmem.mm.debug.object_layout import ObjectLayout
    from concmem.mm.debug.slub_report import SlubReporter
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page


class ObjectCheck:
    """The checks of objects, for all debug caches of a machine."""

    def __init__(self, memory: Memory, reporter: SlubReporter) -> None:
        self._memory = memory
        self.reporter = reporter
        self.tracks = reporter.tracks

    def init_object(
        self, layout: ObjectLayout, address: int, value: int, orig_size: int | None = None
    ) -> None:
        """Write what an object has around it, and in it, when it becomes free or is handed out."""
        if value == SLUB_RED_INACTIVE:
            pieces = layout.free_pieces
        elif orig_size is None or orig_size == layout.object_size or not layout.red_zone:
            pieces = layout.used_pieces
        else:
            pieces = layout.init_pieces(value, orig_size)
        base = address - layout.red_left_pad
        write = self._memory.write
        for start, _, data in pieces:
            write(base + start, data)

    def check_object(self, s: KmemCache, slab: Page, address: int, value: int) -> bool:
        """
        Whether everything is there that has to be; if not, it is reported and restored.

        Args:
            value: of the red zones: whether the object is free or in use.
        """
        layout = layout_of(s)
        # In one read, and mostly in two comparisons; only what is wrong is looked at piece by piece.
        whole = self._memory.read(address - layout.red_left_pad, layout.size)
        in_use = value == SLUB_RED_ACTIVE
        for start, end, expected in layout.used_state if in_use else layout.free_state:
            if whole[start:end] != expected:
                return self._check_object_bytes(s, slab, address, value)
        if in_use and layout.orig_size_offset and layout.red_zone:
            start = layout.red_left_pad + layout.orig_size_offset
            orig_size = int.from_bytes(whole[start : start + ORIG_SIZE_SIZE], "little")
            nr_bytes = layout.object_size - orig_size
            end = layout.red_left_pad + layout.object_size
            if nr_bytes > 0 and whole[end - nr_bytes : end] != layout.red_active[:nr_bytes]:
                return self._check_object_bytes(s, slab, address, value)
        if in_use and not layout.freeptr_outside:
            return True  # its owner has written where the free pointer was
        start = layout.red_left_pad + s.offset
        following = int.from_bytes(whole[start : start + WORD], "little")
        if s.random:
            following = encode(following, s.random, address + s.offset)
        if self.reporter.valid_pointer(s, slab, following):
            return True
        return self._check_freepointer(s, slab, address, in_use)

    def _check_freepointer(self, s: KmemCache, slab: Page, address: int, in_use: bool) -> bool:
        """Whether the free pointer leads to an object of the slab, or nowhere; if not, it is mended."""
        if in_use and not layout_of(s).freeptr_outside:
            return True
        following = self.reporter.get_freepointer(s, address)
        if self.reporter.valid_pointer(s, slab, following):
            return True
        self.reporter.object_err(s, slab, address, "Freepointer corrupt")
        # What followed is lost, but known not to be free.
        self.reporter.set_freepointer(s, address, 0)
        return False

    def _check_object_bytes(self, s: KmemCache, slab: Page, address: int, value: int) -> bool:
        """Piece by piece, in the kernel's order. False: something was wrong."""
        whole_report = True
        for what, start, nr_bytes, byte in self._expected(s, address, value):
            if not self._check_bytes(s, slab, address, what, start, nr_bytes, byte, whole_report):
                whole_report = False
        pointer_ok = self._check_freepointer(s, slab, address, value == SLUB_RED_ACTIVE)
        return whole_report and pointer_ok

    def _expected(
        self, s: KmemCache, address: int, value: int
    ) -> Iterator[tuple[str, int, int, int]]:
        """What it is called, address, bytes, and what each of them must be."""
        layout = layout_of(s)
        size, end = layout.object_size, address + layout.object_size
        in_use = value == SLUB_RED_ACTIVE
        if layout.red_zone:
            pad = layout.red_left_pad
            yield "Left Redzone", address - pad, pad, value
            yield "Right Redzone", end, layout.inuse - size, value
            if in_use:
                rest = size - self.tracks.get_orig_size(layout, address)
                yield "kmalloc Redzone", end - rest, rest, value
        elif layout.poison:
            yield "Alignment padding", end, layout.inuse - size, POISON_INUSE
        if layout.object_poison and not in_use:
            yield "Poison", address, size - 1, POISON_FREE
            yield "End Poison", end - 1, 1, POISON_END
        if layout.poison:
            start = layout.info_end
            yield "Object padding", address + start, layout.span - start, POISON_INUSE

    def _check_bytes(
        self,
        s: KmemCache,
        slab: Page,
        address: int,
        what: str,
        start: int,
        nr_bytes: int,
        byte: int,
        whole_report: bool,
    ) -> bool:
        """``check_bytes_and_report``."""
        data = self._memory.read(start, nr_bytes) if nr_bytes > 0 else b""
        first = first_other(data, byte)
        if first < 0:
            return True
        bad, end = start + first, start + last_other(data, byte)
        line = (
            f"[{what} overwritten] {bad:#018x}-{end:#018x} @offset={bad - pfn_to_virt(slab.pfn)}. "
            f"First byte {data[first]:#x} instead of {byte:#x}"
        )
        fault = f"{what} overwritten", bad, line
        # Restored after it was shown.
        after = (self._restore_line(s, what, bad, end, byte),)
        if whole_report:
            self.reporter.object_err(s, slab, address, "Object corrupt", fault=fault, after=after)
        else:
            self.reporter.bytes_err(s, address, fault, after)
        self._memory.fill(bad, end - bad + 1, byte)
        return False

    def _restore(self, s: KmemCache, what: str, start: int, end: int, byte: int) -> str:
        """``restore_bytes``, *end* inclusive; the line that says so."""
        self._memory.fill(start, end - start + 1, byte)
        return self._restore_line(s, what, start, end, byte)

    def _restore_line(self, s: KmemCache, what: str, start: int, end: int, byte: int) -> str:
        text = f"Restoring {what} {start:#018x}-{end:#018x}={byte:#x}"
        return self.reporter.fix_line(s, text)


def layout_of(s: KmemCache) -> ObjectLayout:
    """The layout of a debug cache."""
    assert s.layout is not None, f"{s.name} is no debug cache"
    return s.layout
