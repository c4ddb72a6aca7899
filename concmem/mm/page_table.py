"""
Page tables: from virtual pages to page frames, in four levels of 512 entries.

Tables are made when an entry below them is first needed and stay for ever, as those of a kernel's own
addresses do. Unlike a kernel's, they take no pages of the model's memory.

A translation that was unmapped counts as *stale* until the range is flushed: some CPU's TLB may still
have it. It leads nowhere here, but nothing may be mapped in its place. That rule stands in for the
TLBs, which are not modelled.

Locks:
    page_table_lock     makes new tables; the list of ranges to flush
    (entries need none: whoever owns a range of addresses is the only one who changes its entries,
    and a walk, as the hardware's, sees each entry before or after a change)

Follows ``vmap_pages_range_noflush``, ``vunmap_range_noflush`` and ``flush_tlb_kernel_range`` of Linux
6.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadPageTable
from concmem.runtime.api import lockless_lookups, lockless_reads
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

PTRS_PER_TABLE: Final = 512
_BITS: Final = 9
_MASK: Final = PTRS_PER_TABLE - 1
_VPN_MASK: Final = (1 << 4 * _BITS) - 1
"""Bits of a virtual page number that the tables look at; those above are the sign's."""

Pte = list["int | None"]
"""The last level: a page frame number, its complement while it is stale, or ``None``."""
Pmd = dict[int, Pte]
Pud = dict[int, Pmd]
Pgd = dict[int, Pud]


class PageTable:
    """The page tables of one address space; *name* is that of its ``mm_struct``."""

    __guarded_by__: Final = {
        "_unflushed": "_lock",
        "nr_flushes": lockless_reads("_lock"),
        "nr_tables": lockless_lookups("_lock"),
    }

    def __init__(self, rt: Runtime, name: str = "init_mm") -> None:
        self._lock = rt.spinlock(f"{name}.page_table_lock")
        self._pgd: Pgd = {}
        # _lock
        self._unflushed: list[tuple[int, int]] = []
        """Ranges of virtual pages, first and end, that have stale entries."""
        self.nr_flushes = 0
        self.nr_tables = 0
        rt.watch(self)

    # -- change

    def map(self, address: int, pfns: Sequence[int]) -> None:
        """
        Map consecutive pages from *address* on. Caller owns the range.

        Raises:
            BadPageTable: an entry is in use, or TLBs may still have an older one. Nothing changed.
        """
        vpn = address >> PAGE_SHIFT
        end = vpn + len(pfns)
        for first, last, table in self._tables(vpn, end, create=True):
            entries = table[first & _MASK : (first & _MASK) + last - first]
            if entries.count(None) != len(entries):
                self._raise_in_use(first, entries)
        for first, last, table in self._tables(vpn, end):
            table[first & _MASK : (first & _MASK) + last - first] = pfns[first - vpn : last - vpn]

    def _raise_in_use(self, vpn: int, entries: Pte) -> None:
        index, entry = next((i, entry) for i, entry in enumerate(entries) if entry is not None)
        address = vpn + index << PAGE_SHIFT
        if entry >= 0:
            raise BadPageTable(f"{address:#x} is mapped already, to pfn {entry:#x}")
        raise BadPageTable(
            f"{address:#x} is mapped again before the TLBs were flushed: they may still have pfn "
            f"{~entry:#x} there"
        )

    def unmap(self, address: int, nr_bytes: int) -> None:
        """Unmap whatever is mapped in whole pages from *address* on. Caller owns the range."""
        vpn = address >> PAGE_SHIFT
        end = vpn + (nr_bytes >> PAGE_SHIFT)
        was_mapped = False
        for first, last, table in self._tables(vpn, end):
            for index in range(first & _MASK, (first & _MASK) + last - first):
                entry = table[index]
                if entry is not None and entry >= 0:
                    table[index] = ~entry
                    was_mapped = True
        if was_mapped:
            with self._lock:
                self._unflushed.append((vpn, end))

    def flush_tlb_kernel_range(self, start: int, end: int) -> None:
        """No TLB has a translation from *start* to *end* any more that is not in the tables."""
        first, last = start >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)
        with self._lock:
            self.nr_flushes += 1
            ranges, self._unflushed = self._unflushed, []
            for low, high in ranges:
                begin, stop = max(low, first), min(high, last)
                if begin >= stop:
                    self._unflushed.append((low, high))
                    continue
                self._forget(begin, stop)
                self._unflushed += [
                    part for part in ((low, begin), (stop, high)) if part[0] < part[1]
                ]

    def _forget(self, vpn: int, end: int) -> None:
        """Clear stale entries."""
        for first, last, table in self._tables(vpn, end):
            for index in range(first & _MASK, (first & _MASK) + last - first):
                entry = table[index]
                if entry is not None and entry < 0:
                    table[index] = None

    # -- look

    def walk(self, address: int) -> int | None:
        """The page frame that *address* is mapped to; ``None`` for none. Takes no lock."""
        vpn = address >> PAGE_SHIFT & _VPN_MASK
        pud = self._pgd.get(vpn >> 3 * _BITS)
        pmd = None if pud is None else pud.get(vpn >> 2 * _BITS & _MASK)
        pte = None if pmd is None else pmd.get(vpn >> _BITS & _MASK)
        entry = None if pte is None else pte[vpn & _MASK]
        return None if entry is None or entry < 0 else entry

    def translate(self, address: int, nr_bytes: int) -> list[tuple[int, int]]:
        """
        The pieces of physical memory behind a range of addresses, as (physical address, bytes).

        Raises:
            BadArgument: some page of the range is not mapped.
        """
        pieces = []
        while nr_bytes:
            pfn = self.walk(address)
            if pfn is None:
                raise BadArgument(f"address: {address:#x} is not mapped")
            offset = address & PAGE_SIZE - 1
            length = min(nr_bytes, PAGE_SIZE - offset)
            pieces.append(((pfn << PAGE_SHIFT) + offset, length))
            address += length
            nr_bytes -= length
        return pieces

    def entries(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """
        Every entry in use from *start* to *end*: its address, and its page frame number.

        The complement of the number where it is stale.
        """
        for first, last, table in self._tables(start >> PAGE_SHIFT, -(-end >> PAGE_SHIFT)):
            for vpn in range(first, last):
                entry = table[vpn & _MASK]
                if entry is not None:
                    yield vpn << PAGE_SHIFT, entry

    # -- tables

    def _tables(self, vpn: int, end: int, create: bool = False) -> Iterator[tuple[int, int, Pte]]:
        """Last-level tables of a range of virtual pages, each with the part that is its own."""
        while vpn < end:
            last = min(end, (vpn | _MASK) + 1)
            table = self._table(vpn & _VPN_MASK, create)
            if table is not None:
                yield vpn, last, table
                vpn = last
            else:
                vpn = self._next_table(vpn)

    def _table(self, vpn: int, create: bool) -> Pte | None:
        # No lock: a table that is there stays. Whoever finds none looks again under the lock.
        pmd = self._pgd.get(vpn >> 3 * _BITS, {}).get(vpn >> 2 * _BITS & _MASK)
        pte = None if pmd is None else pmd.get(vpn >> _BITS & _MASK)
        if pte is None and create:
            with self._lock:
                pud = self._pgd.setdefault(vpn >> 3 * _BITS, {})
                pmd = pud.setdefault(vpn >> 2 * _BITS & _MASK, {})
                if vpn >> _BITS & _MASK not in pmd:
                    self.nr_tables += 1
                pte = pmd.setdefault(vpn >> _BITS & _MASK, [None] * PTRS_PER_TABLE)
        return pte

    def _next_table(self, vpn: int) -> int:
        """The first page after *vpn*, which has no table, that may have one."""
        masked = vpn & _VPN_MASK
        pud = self._pgd.get(masked >> 3 * _BITS)
        levels = 3 if pud is None else 2 if masked >> 2 * _BITS & _MASK not in pud else 1
        return (vpn >> levels * _BITS) + 1 << levels * _BITS
