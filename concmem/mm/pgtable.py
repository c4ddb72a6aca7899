"""
The page tables of a process: from user addresses to page frames and rights.

Each last-level table has 512 entries and takes a page of the model's memory, and so do the two levels
above it (the top level is not counted, as in ``mm_pgtables_bytes``). Entries are integers with the
bits of x86-64, the address of the page in the upper ones; 0 is none.

Who maps a page that was not written to does so without ``PTE_RW``, also in a writable shared mapping:
the first write faults and sets ``PTE_DIRTY``. So no bit is ever set by the hardware.

Lock: mm->page_table_lock to change anything. Accesses look entries up without it, as the hardware
does: a list item or a dictionary entry is there or not; a table that was freed has only empty entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.mm.gfp import GFP_KERNEL_ACCOUNT, ZERO
from concmem.runtime.api import lockless_lookups

if TYPE_CHECKING:
    from concmem.mm.page import Page
    from concmem.mm.page_alloc import PageAllocator
    from concmem.runtime.api import Lock

PTE_PRESENT: Final = 0x1
PTE_RW: Final = 0x2
PTE_DIRTY: Final = 0x40
PTE_PROTNONE: Final = 0x100
"""Mapped, but nobody may look."""
PTE_SPECIAL: Final = 0x200
"""The zero page: no reference, no mapcount."""
PFN_MASK: Final = -4096

ZERO_PFN: Final = 0
"""The page that reads of untouched memory see: x86 gives page frame 0 to nobody, and here it is 0s."""

PMD_SHIFT: Final = 21
PTRS_PER_TABLE: Final = 512
INDEX_MASK: Final = 511
LEVELS: Final = (39, 30, PMD_SHIFT)
"""Bits of address space that a table of each level covers, the highest first."""

GFP_PGTABLE_USER: Final = GFP_KERNEL_ACCOUNT | ZERO


class UserPageTable:
    """The tables of one address space; *lock* is its page_table_lock."""

    # Entries, too: see the top.
    __guarded_by__: Final = {"ptes": lockless_lookups("_lock"), "pages": "_lock"}

    def __init__(self, page_alloc: PageAllocator, lock: Lock) -> None:
        self._page_alloc = page_alloc
        self._lock = lock
        # page_table_lock
        self.ptes: dict[int, list[int]] = {}
        """Last-level tables by address >> PMD_SHIFT."""
        self.pages: dict[tuple[int, int], Page] = {}
        """The page of each table, by level (its shift) and address >> level."""
        self._is_made = self.pages.__contains__
        """Whether there is that table, for who looks without the lock, and again under it."""

    def pte_alloc(self, address: int) -> list[int] | None:
        """The last-level table of *address*, made now if need be; ``None`` without memory. May sleep."""
        table = self.ptes.get(address >> PMD_SHIFT)
        if table is not None:
            return table
        for level in LEVELS:
            key = level, address >> level
            if self._is_made(key):
                continue
            page = self._page_alloc.alloc_pages(0, GFP_PGTABLE_USER)
            if page is None:
                return None
            with self._lock:
                used = self._install(key, page)
            if not used:
                self._page_alloc.free_pages(page)
        return self.ptes[address >> PMD_SHIFT]

    def _install(self, key: tuple[int, int], page: Page) -> bool:
        """Put a new table in its place, unless another CPU was first. Caller holds the lock."""
        if key in self.pages:
            return False
        if key[0] == PMD_SHIFT:
            self.ptes[key[1]] = [0] * PTRS_PER_TABLE
        self.pages[key] = page  # last: who sees it goes on without the lock
        return True

    def walk(self, address: int) -> int:
        """The entry of *address*, 0 for none. Takes no lock."""
        table = self.ptes.get(address >> PMD_SHIFT)
        return 0 if table is None else table[address >> 12 & INDEX_MASK]

    def tables(self, start: int, end: int) -> Iterator[tuple[list[int], int, int, int]]:
        """
        Last-level tables from *start* to *end*, in order.

        Each with the first and the end index of the part that is in the range, and the address of
        its first entry.
        """
        keys: range | list[int] = range(start >> PMD_SHIFT, (end - 1 >> PMD_SHIFT) + 1)
        if len(keys) > 2 * len(self.ptes):
            keys = sorted(key for key in list(self.ptes) if key in keys)
        for key in keys:
            table = self.ptes.get(key)
            if table is not None:
                base = key << PMD_SHIFT
                first = max(start - base, 0) >> 12
                yield table, first, min(end - base >> 12, PTRS_PER_TABLE), base

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Every entry in use from *start* to *end*: its address, and the entry."""
        for table, first, last, base in self.tables(start, end):
            for index in range(first, last):
                if table[index]:
                    yield base + (index << 12), table[index]

    def take_tables(self, start: int, end: int, floor: int, ceiling: int) -> list[Page]:
        """
        Take out the tables for *start* to *end* that nothing else needs, for the caller to free.

        *floor* and *ceiling* are the ends of the neighbours: a table that reaches beyond them stays
        (``free_pgtables``). Caller holds the lock.
        """
        taken = []
        for level in reversed(LEVELS):
            size = 1 << level
            first = max(start >> level, -(-floor // size))
            last = min(end - 1 >> level, (ceiling >> level) - 1)
            keys: range | list[int] = range(first, last + 1)
            if len(keys) > len(self.pages):
                keys = [key for where, key in self.pages if where == level and first <= key <= last]
            for key in keys:
                page = self.pages.pop((level, key), None)
                if page is not None:
                    taken.append(page)
                    if level == PMD_SHIFT:
                        del self.ptes[key]
        return taken
