"""
Shadow memory: one byte for each 8 bytes of memory says what of them may be used.

0: all 8; 1 to 7: so many of the first; anything else: none, and why not. It is stored inverted, so that
memory nobody has touched, whose shadow is all 0 as the host gave it, is that of free pages.

Follows ``mm/kasan/kasan.h`` and ``generic.c`` of Linux 6.12.
"""

from __future__ import annotations

import mmap
from typing import Final

from concmem.units import PAGE_OFFSET

GRANULE: Final = 8
"""Bytes of memory for each byte of shadow."""

PAGE_FREE: Final = 0xFF
PAGE_REDZONE: Final = 0xFE
"""Behind a large block of kmalloc."""
SLAB_REDZONE: Final = 0xFC
"""Between objects, and objects that nobody has had yet."""
SLAB_FREE: Final = 0xFB

ACCESSIBLE: Final = b"\xff"
"""A byte that says "all 8", as it is stored."""

_MAP_NORESERVE: Final = 0x4000


class Shadow:
    """Of *size* bytes of memory, all free pages at first. Addresses are of the direct map."""

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.stored = mmap.mmap(-1, size // GRANULE, flags=flags)
        """For hot paths: the bytes, each exclusive-or 0xff."""

    def poison(self, address: int, nr_bytes: int, value: int) -> None:
        """Nobody may use these bytes, up to a whole granule, because of *value*."""
        start = address - PAGE_OFFSET >> 3
        end = address + nr_bytes - PAGE_OFFSET + GRANULE - 1 >> 3
        self.stored[start:end] = bytes([value ^ 0xFF]) * (end - start)

    def unpoison(self, address: int, nr_bytes: int) -> None:
        """Everybody may use these bytes, from the start of a granule on."""
        start = address - PAGE_OFFSET >> 3
        whole, rest = divmod(nr_bytes, GRANULE)
        data = ACCESSIBLE * whole + (bytes([rest ^ 0xFF]) if rest else b"")
        self.stored[start : start + len(data)] = data

    def read(self, address: int, nr_granules: int) -> bytes:
        """What the shadow says from the granule of *address* on; 0xff outside of memory."""
        start = max(0, address - PAGE_OFFSET >> 3)
        return bytes(byte ^ 0xFF for byte in self.stored[start : start + nr_granules])

    def first_bad(self, address: int, nr_bytes: int) -> int | None:
        """The first of the bytes that may not be used; ``None``: all may."""
        end = address + nr_bytes
        granule = address & -GRANULE
        for value in self.read(address, (end - granule + GRANULE - 1) // GRANULE):
            allowed = granule + (GRANULE if not value else value if value < GRANULE else 0)
            bad = max(address, allowed)
            if bad < min(end, granule + GRANULE):
                return bad
            granule += GRANULE
        return None

    def close(self) -> None:
        """Give it back to the host."""
        self.stored.close()
