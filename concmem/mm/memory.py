"""
Physical memory: real bytes behind addresses.

One anonymous host mapping of the configured size, which the host backs page by page as it is
touched, so that 16 GiB cost nothing until used. Addresses are integers in the kernel's direct map:
physical address *p* is at ``PAGE_OFFSET + p``.
"""

from __future__ import annotations

import mmap
from typing import Final

from concmem.errors import BadArgument
from concmem.units import PAGE_OFFSET, PAGE_SIZE

_MAP_NORESERVE: Final = 0x4000  # Linux; the mmap module names it from Python 3.13 on


class Memory:
    """The bytes of *size* (a multiple of ``PAGE_SIZE``) physical memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._bytes = mmap.mmap(-1, size, flags=flags)

    def _offset(self, address: int, nr_bytes: int) -> int:
        offset = address - PAGE_OFFSET
        if nr_bytes < 0 or offset < 0 or offset + nr_bytes > self.size:
            raise BadArgument(
                f"address: {address:#x}+{nr_bytes} is outside of memory, "
                f"{PAGE_OFFSET:#x} to {PAGE_OFFSET + self.size - 1:#x}"
            )
        return offset

    def read(self, address: int, nr_bytes: int) -> bytes:
        """*nr_bytes* bytes from *address*."""
        offset = self._offset(address, nr_bytes)
        return self._bytes[offset : offset + nr_bytes]

    def write(self, address: int, data: bytes) -> None:
        """Store *data* at *address*."""
        offset = self._offset(address, len(data))
        self._bytes[offset : offset + len(data)] = data

    def fill(self, address: int, nr_bytes: int, byte: int = 0) -> None:
        """``memset``."""
        offset = self._offset(address, nr_bytes)
        self._bytes[offset : offset + nr_bytes] = bytes([byte]) * nr_bytes

    def read_u64(self, address: int) -> int:
        """The little-endian 8-byte word at *address*."""
        # By slices: on a free-threaded interpreter, struct.unpack_from on a mapping that several
        # CPUs use loses counts of its exports, and the mapping can never be closed.
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 8-byte word at *address*."""
        self.write(address, value.to_bytes(8, "little"))

    def close(self) -> None:
        """Give the bytes back to the host."""
        self._bytes.close()


def pfn_to_virt(pfn: int) -> int:
    """The direct-map address of page frame *pfn*."""
    return PAGE_OFFSET + pfn * PAGE_SIZE


def virt_to_pfn(address: int) -> int:
    """The page frame of a direct-map address."""
    return (address - PAGE_OFFSET) // PAGE_SIZE
