"""
How a process uses its memory: page by page through its tables, faulting as the hardware would.

There are no caches of translations. What a TLB would make dangerous is here too, though: between the
look at the table and the access itself the entry may be changed, and the page must not be freed. The
CPU's mark says that it is in such an access; whoever unmaps waits for it (`Munmap._flush_tlb`), as a
TLB shootdown waits for the instruction that is running.

An access to one page is one step. One to several pages may see changes of other CPUs in between.
"""

from __future__ import annotations

from collections.abc import Callable

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.mm_state import Limits, MmContext
from concmem.mm.mprotect import Mprotect
from concmem.mm.pgtable import (
    INDEX_MASK,
    PFN_MASK,
    PMD_SHIFT,
    PTE_PRESENT,
    PTE_RW,
)
from concmem.units import PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE

_WRITABLE = PTE_PRESENT | PTE_RW
_OFFSET = PAGE_SIZE - 1


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")


class Access(Mprotect):
    """Reads and writes of an address space. On a CPU; may sleep in a fault."""

    def __init__(self, context: MmContext, name: str, limits: Limits) -> None:
        super().__init__(context, name, limits)
        # For hot paths: what read and write need, without a look into the context each time.
        self._area = context.rt.area
        self._mark = context.accesses.offset
        self._cond_resched: Callable[[], None] = context.rt.cond_resched
        self._memory = context.memory
        self._ptes = self.page_table.ptes

    def read(self, address: int, nr_bytes: int) -> bytes:
        """
        *nr_bytes* bytes from *address*.

        Raises:
            SegmentationFault, BusError, OutOfMemory: from the fault, see `Fault.page_fault`.
            BadArgument: *nr_bytes* is negative.
        """
        if nr_bytes.__class__ is not int:
            _whole("nr_bytes", nr_bytes)
        try:
            if 0 <= nr_bytes <= PAGE_SIZE - (address & _OFFSET):
                return self._read_page(address, nr_bytes) if nr_bytes else b""
        except TypeError:
            _whole("address", address)
            raise
        if nr_bytes < 0:
            raise BadArgument(f"nr_bytes: must not be negative, got {nr_bytes}")
        pieces = []
        while nr_bytes:
            length = min(nr_bytes, PAGE_SIZE - (address & _OFFSET))
            pieces.append(self._read_page(address, length))
            address += length
            nr_bytes -= length
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> None:
        """
        Store *data* at *address*. What is before a page that faults for good has been written.

        Raises:
            SegmentationFault, BusError, OutOfMemory: from the fault, see `Fault.page_fault`.
        """
        if data.__class__ is not bytes and not isinstance(data, bytearray):
            raise BadArgumentType(f"data: expected bytes, got {data!r}")
        nr_bytes = len(data)
        try:
            if nr_bytes <= PAGE_SIZE - (address & _OFFSET):
                if nr_bytes:
                    self._write_page(address, data)
                return
        except TypeError:
            _whole("address", address)
            raise
        done = 0
        while done < nr_bytes:
            length = min(nr_bytes - done, PAGE_SIZE - (address & _OFFSET))
            self._write_page(address, data[done : done + length])
            address += length
            done += length

    def touch(self, address: int, write: bool = True) -> None:
        """Have the page at *address* mapped, as one access to it would."""
        if address.__class__ is not int:
            _whole("address", address)
        here = self._area()
        if here[0]:
            self._cond_resched()
        wanted = _WRITABLE if write else PTE_PRESENT
        while True:
            table = self._ptes.get(address >> PMD_SHIFT)
            if table is not None and table[address >> PAGE_SHIFT & INDEX_MASK] & wanted == wanted:
                return
            self.page_fault(address, write)

    def read_u64(self, address: int) -> int:
        """The little-endian 8-byte word at *address*."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u64(self, address: int, value: int) -> None:
        """Store a little-endian 8-byte word at *address*."""
        _whole("value", value)
        if not 0 <= value < 1 << 64:
            raise BadArgument(f"value: must be 0 to 2**64 - 1, got {value}")
        self.write(address, value.to_bytes(8, "little"))

    # -- one page

    def _read_page(self, address: int, nr_bytes: int) -> bytes:
        here = self._area()
        if here[0]:
            self._cond_resched()
        mark = here[self._mark]
        while True:
            mark[0] = 1
            table = self._ptes.get(address >> PMD_SHIFT)
            if table is not None:
                pte = table[address >> PAGE_SHIFT & INDEX_MASK]
                if pte & PTE_PRESENT:
                    where = (pte & PFN_MASK) + PAGE_OFFSET + (address & _OFFSET)
                    data = self._memory.read(where, nr_bytes)
                    mark[0] = 0
                    return data
            mark[0] = 0
            self.page_fault(address, False)

    def _write_page(self, address: int, data: bytes) -> None:
        here = self._area()
        if here[0]:
            self._cond_resched()
        mark = here[self._mark]
        while True:
            mark[0] = 1
            table = self._ptes.get(address >> PMD_SHIFT)
            if table is not None:
                pte = table[address >> PAGE_SHIFT & INDEX_MASK]
                if pte & _WRITABLE == _WRITABLE:
                    self._memory.write((pte & PFN_MASK) + PAGE_OFFSET + (address & _OFFSET), data)
                    mark[0] = 0
                    return
            mark[0] = 0
            self.page_fault(address, True)
