"""
Heaps of the arenas that are not on brk (``struct _heap_info``).

A heap is a range of 64 MiB, aligned to 64 MiB, so that a chunk's address says which heap it is in. All of it is
reserved; the first part can be read and written, and grows by mprotect. An arena may have several, each
pointing to the one before.

Follows ``malloc/arena.c`` of glibc 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
)
from concmem.units import PAGE_SIZE
from concmem.user.chunk import align_up
from concmem.user.params import HEAP_MAX_SIZE, HEAP_MIN_SIZE

if TYPE_CHECKING:
    from concmem.user.malloc_state import MallocState
    from concmem.user.ptmalloc import Ptmalloc

HEAP_INFO_SIZE: Final = 48
"""``sizeof (heap_info)``: the arena or the first chunk comes behind it."""

_RESERVE: Final = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE


class HeapInfo:
    """One heap. Guarded by its arena's mutex."""

    __slots__ = ("address", "ar_ptr", "mprotect_size", "prev", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        """Bytes in use, from `address` on."""
        self.mprotect_size = size
        """Bytes that have been made readable and writable."""
        self.ar_ptr: MallocState | None = None
        self.prev: HeapInfo | None = None

    def __repr__(self) -> str:
        return f"<heap {self.address:#x} {self.size:#x} bytes>"


class Heaps:
    """Makes, finds, grows and deletes heaps."""

    def __init__(self, libc: Ptmalloc) -> None:
        self._libc = libc
        self._heaps: dict[int, HeapInfo] = {}
        # A hint, read and stored without a lock: where the half of a reservation that was not needed
        # was, aligned already. If somebody else was faster, the mapping is elsewhere, and is undone.
        self._aligned_heap_area = libc.rt.cell(0, "aligned_heap_area")

    def heap_for_ptr(self, address: int) -> HeapInfo | None:
        """The heap that *address* is in. No lock: it exists as long as one of its chunks is in use."""
        return self._heaps.get(address & -HEAP_MAX_SIZE)

    def all(self) -> list[HeapInfo]:
        """Every heap, in the order in which they were made."""
        return list(self._heaps.values())

    def new_heap(self, size: int, top_pad: int) -> HeapInfo | None:
        """A heap of at least *size* bytes; ``None`` without memory, or if *size* is too much."""
        if size + top_pad < HEAP_MIN_SIZE:
            size = HEAP_MIN_SIZE
        elif size + top_pad <= HEAP_MAX_SIZE:
            size += top_pad
        elif size > HEAP_MAX_SIZE:
            return None
        else:
            size = HEAP_MAX_SIZE
        size = align_up(size, PAGE_SIZE)
        address = self._reserve_at_hint()
        if address is None:
            address = self._reserve()
        if address is None:
            return None
        system = self._libc.system
        if not system.mprotect(address, size, PROT_READ | PROT_WRITE):
            system.munmap(address, HEAP_MAX_SIZE)
            return None
        heap = self._heaps[address] = HeapInfo(address, size)
        return heap

    def _reserve_at_hint(self) -> int | None:
        """Where the last reservation left room."""
        hint = self._aligned_heap_area.value
        if not hint:
            return None
        self._aligned_heap_area.value = 0
        system = self._libc.system
        address = system.mmap(HEAP_MAX_SIZE, PROT_NONE, _RESERVE, hint)
        if address is not None and address % HEAP_MAX_SIZE:
            system.munmap(address, HEAP_MAX_SIZE)
            return None
        return address

    def _reserve(self) -> int | None:
        """Twice as much as needed has an aligned half in it; the rest is given back."""
        system = self._libc.system
        start = system.mmap(2 * HEAP_MAX_SIZE, PROT_NONE, _RESERVE)
        if start is None:
            address = system.mmap(HEAP_MAX_SIZE, PROT_NONE, _RESERVE)
            if address is not None and address % HEAP_MAX_SIZE:
                system.munmap(address, HEAP_MAX_SIZE)
                return None
            return address
        address = align_up(start, HEAP_MAX_SIZE)
        before = address - start
        if before:
            system.munmap(start, before)
        else:
            self._aligned_heap_area.value = address + HEAP_MAX_SIZE
        system.munmap(address + HEAP_MAX_SIZE, HEAP_MAX_SIZE - before)
        return address

    def grow_heap(self, heap: HeapInfo, diff: int) -> bool:
        """*diff* more bytes; whether there is room and memory. Caller holds the arena's mutex."""
        size = heap.size + align_up(diff, PAGE_SIZE)
        if size > HEAP_MAX_SIZE:
            return False
        if size > heap.mprotect_size:
            start = heap.address + heap.mprotect_size
            length = size - heap.mprotect_size
            if not self._libc.system.mprotect(start, length, PROT_READ | PROT_WRITE):
                return False
            heap.mprotect_size = size
        heap.size = size
        return True

    def shrink_heap(self, heap: HeapInfo, diff: int) -> bool:
        """
        Give the last *diff* bytes, whole pages, back to the system. Caller holds the arena's mutex.

        By a mapping without access over them, as glibc does where memory may not be overcommitted; where it
        may, it uses MADV_DONTNEED.
        """
        size = heap.size - diff
        if size < HEAP_INFO_SIZE:
            return False
        start = heap.address + size
        self._libc.memory.forget(start, start + diff)
        if self._libc.system.mmap(diff, PROT_NONE, _RESERVE | MAP_FIXED, start) is None:
            return False
        heap.mprotect_size = heap.size = size
        return True

    def delete_heap(self, heap: HeapInfo) -> None:
        """Unmap it all. Caller holds the arena's mutex."""
        end = heap.address + HEAP_MAX_SIZE
        if end == self._aligned_heap_area.value:
            self._aligned_heap_area.value = 0
        # Before its addresses can be somebody else's.
        del self._heaps[heap.address]
        self._libc.memory.forget(heap.address, end)
        self._libc.system.munmap(heap.address, HEAP_MAX_SIZE)
