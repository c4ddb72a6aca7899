"""
Memory as users of a checked machine see it: every access is looked up in the shadow first.

The allocators themselves use the plain :class:`~concmem.mm.memory.Memory` below: they write to free objects, of
course. Addresses outside of the direct map lead through page tables, which know what is mapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm.memory import Memory
from concmem.units import PAGE_OFFSET

if TYPE_CHECKING:
    from concmem.mm.debug.kasan import Kasan


class CheckedMemory(Memory):
    """The bytes of *memory*. Each access that is wrong is reported; see `Kasan.report`."""

    def __init__(self, memory: Memory, kasan: Kasan) -> None:
        # Not super().__init__(): the bytes are there already.
        self._memory = memory
        self._kasan = kasan
        self._stored = kasan.shadow.stored
        self.size = memory.size
        self._bytes = memory._bytes
        self._views = memory._views

    def _translate(self, address: int, nr_bytes: int) -> list[tuple[int, int]]:
        return self._memory._translate(address, nr_bytes)

    def _check(self, address: int, nr_bytes: int, is_write: bool) -> None:
        offset = address - PAGE_OFFSET
        if nr_bytes <= 0 or offset < 0 or offset + nr_bytes > self.size:
            return  # what Memory itself has to say something about
        # What is left are bytes that are not wholly accessible; the last may be so in part.
        if self._stored[offset >> 3 : offset + nr_bytes + 7 >> 3].strip(b"\xff"):
            self._kasan.check(address, nr_bytes, is_write)

    def read(self, address: int, nr_bytes: int) -> bytes:
        self._check(address, nr_bytes, False)
        return super().read(address, nr_bytes)

    def write(self, address: int, data: bytes) -> None:
        self._check(address, len(data), True)
        super().write(address, data)

    def fill(self, address: int, nr_bytes: int, byte: int = 0) -> None:
        self._check(address, nr_bytes, True)
        super().fill(address, nr_bytes, byte)

    def close(self) -> None:
        self._memory.close()
        self._kasan.shadow.close()
        self.size = 0
