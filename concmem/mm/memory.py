"""
Physical memory: real bytes behind addresses.

One anonymous host mapping of the configured size, which the host backs page by page as it is
touched, so that 16 GiB cost nothing until used. Addresses are integers in the kernel's direct map:
physical address *p* is at ``PAGE_OFFSET + p``. The kernel's own data (:mod:`concmem.mm.sections`) are behind
that, at ``KERNEL_DATA_START``. Any other address goes through the page tables, if the machine has some.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, MachineClosed
from concmem.units import (
    KERNEL_DATA_SIZE,
    KERNEL_DATA_START,
    PAGE_OFFSET,
    PAGE_SIZE,
    VMALLOC_END,
    VMALLOC_START,
)

if TYPE_CHECKING:
    from concmem.mm.page_table import PageTable

_MAP_NORESERVE: Final = 0x4000  # Linux; the mmap module names it from Python 3.13 on


class Memory:
    """The bytes of *size* (a multiple of ``PAGE_SIZE``) physical memory, and of the kernel's data."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.page_table: PageTable | None = None
        """The kernel's own page tables; set at boot."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._bytes = mmap.mmap(-1, size + KERNEL_DATA_SIZE, flags=flags)
        self._kernel_data = size
        """Where the kernel's data begin in it."""
        self._views: list[memoryview] = []  # append only

    def _translate(self, address: int, nr_bytes: int) -> list[tuple[int, int]]:
        """
        Pieces of memory, as (offset, bytes), behind an address outside of the direct map.

        Raises:
            BadArgument: there is nothing, or not everywhere.
        """
        if self._bytes.closed:
            raise MachineClosed("memory: the machine has been shut down")
        if nr_bytes < 0:
            raise BadArgument(f"nr_bytes: must not be negative, got {nr_bytes}")
        if self.page_table is not None and VMALLOC_START <= address < VMALLOC_END:
            return self.page_table.translate(address, nr_bytes)
        offset = address - KERNEL_DATA_START
        if 0 <= offset <= KERNEL_DATA_SIZE - nr_bytes:
            return [(self._kernel_data + offset, nr_bytes)]
        raise BadArgument(
            f"address: {address:#x}+{nr_bytes} is outside of memory, "
            f"{PAGE_OFFSET:#x} to {PAGE_OFFSET + self.size - 1:#x}"
        )

    def read(self, address: int, nr_bytes: int) -> bytes:
        """*nr_bytes* bytes from *address*."""
        offset = address - PAGE_OFFSET
        if nr_bytes < 0 or offset < 0 or offset + nr_bytes > self.size:
            pieces = self._translate(address, nr_bytes)
            return b"".join([self._bytes[start : start + length] for start, length in pieces])
        return self._bytes[offset : offset + nr_bytes]

    def write(self, address: int, data: bytes) -> None:
        """Store *data* at *address*."""
        nr_bytes = len(data)
        offset = address - PAGE_OFFSET
        if offset < 0 or offset + nr_bytes > self.size:
            done = 0
            for start, length in self._translate(address, nr_bytes):
                self._bytes[start : start + length] = data[done : done + length]
                done += length
            return
        self._bytes[offset : offset + nr_bytes] = data

    def fill(self, address: int, nr_bytes: int, byte: int = 0) -> None:
        """``memset``."""
        offset = address - PAGE_OFFSET
        if nr_bytes < 0 or offset < 0 or offset + nr_bytes > self.size:
            for start, length in self._translate(address, nr_bytes):
                self._bytes[start : start + length] = bytes([byte]) * length
            return
        self._bytes[offset : offset + nr_bytes] = bytes([byte]) * nr_bytes

    def read_u64(self, address: int) -> int:
        """The little-endian 8-byte word at *address*."""
        # By slices: on a free-threaded interpreter, struct.unpack_from on a mapping that several
        # CPUs use loses counts of its exports, and the mapping can never be closed.
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 8-byte word at *address*."""
        self.write(address, value.to_bytes(8, "little"))

    def words(self) -> memoryview:
        """
        All physical memory as native 8-byte words, for who follows pointers in hot paths.

        Word *i* is at ``PAGE_OFFSET + 8 * i``. Take one view for each CPU and keep it: on a
        free-threaded interpreter a shared one would be a contended reference count.
        """
        view = memoryview(self._bytes)[: self.size].cast("Q")
        self._views.append(view)
        return view

    def close(self) -> None:
        """Give the bytes back to the host."""
        for view in self._views:
            view.release()
        self._bytes.close()
        self.size = 0  # so that every later use is looked at twice


def pfn_to_virt(pfn: int) -> int:
    """The direct-map address of page frame *pfn*."""
    return PAGE_OFFSET + pfn * PAGE_SIZE


def virt_to_pfn(address: int) -> int:
    """The page frame of a direct-map address."""
    return (address - PAGE_OFFSET) // PAGE_SIZE
