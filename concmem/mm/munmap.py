"""
Unmapping: ``munmap``, and what shrinking the heap and mapping over something have in common with it.

The VMAs leave the tree under mmap_lock held for writing. Their pages are unmapped and freed with it
downgraded, so that faults elsewhere go on: nobody can find the VMAs any more.

Pages are freed after the flush: until then another CPU may be in the middle of an access to one,
which a TLB shootdown waits for, and here `_flush_tlb`.

Follows ``do_vmi_align_munmap`` and ``unmap_region`` of ``mm/vma.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.mman import TASK_SIZE, VM_ACCOUNT, page_align
from concmem.mm.pgtable import PTE_SPECIAL
from concmem.mm.shmem import Shmem
from concmem.mm.vma import AnonVma, Vma
from concmem.mm.vma_merge import VmaMerge
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.page import Page

_NO_CEILING = 1 << 47


def check_address(name: str, value: object) -> int:
    """*value* if it is a whole number, not negative, else `BadArgument`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if value < 0:
        raise BadArgument(f"{name}: must not be negative, got {value}")
    return value


def check_range(addr: object, length: object) -> tuple[int, int]:
    """Start and end of a range of whole pages in user space, else `BadArgument` (EINVAL)."""
    start, nr_bytes = check_address("addr", addr), check_address("length", length)
    if start % PAGE_SIZE:
        raise BadArgument(f"addr: must be a multiple of {PAGE_SIZE}, got {start:#x}")
    if not nr_bytes:
        raise BadArgument("length: must not be 0")
    if start + page_align(nr_bytes) > TASK_SIZE:
        raise BadArgument(f"addr: {start:#x}+{nr_bytes:#x} is beyond user space, {TASK_SIZE:#x}")
    return start, start + page_align(nr_bytes)


class Munmap(VmaMerge):
    """Unmapping of an address space."""

    def munmap(self, addr: int, length: int) -> bool:
        """
        Unmap all pages of a range; addresses in no VMA are fine. May sleep. On a CPU.

        Returns:
            False when a VMA would have to be split and max_map_count is reached; nothing changed.

        Raises:
            BadArgument: *addr* is not at a page, *length* is 0, or the range leaves user space.
        """
        start, end = check_range(addr, length)
        self._count("sys_munmap")
        with self.mmap_lock.write():
            done = self._do_munmap(start, end, downgrade=True)
        if done:
            self._count("munmap_region")
        return done

    def _do_munmap(self, start: int, end: int, downgrade: bool) -> bool:
        """
        The same. Caller holds mmap_lock for writing, with *downgrade* for reading on return.

        It is still held for writing when there was nothing to do.
        """
        vmas = self.vmas.overlapping(start, end)
        if not vmas:
            return True
        first, last = vmas[0], vmas[-1]
        if (
            first.vm_start < start
            and end < first.vm_end
            and self.map_count >= self.limits.max_map_count
        ):
            return False
        if first.vm_start < start:
            vmas[0] = self.split_vma(first, start)
            last = vmas[-1]
        if end < last.vm_end:
            self.split_vma(last, end)
        for vma in vmas:
            self.remove_vma(vma)
        below, above = self.vmas.find_prev(start), self.vmas.find(end)
        floor = below.vm_end if below is not None else 0
        ceiling = above.vm_start if above is not None else _NO_CEILING
        if downgrade:
            self._downgrade()
        self._unmap_region(vmas, floor, ceiling)
        self._complete_munmap(vmas)
        return True

    def _downgrade(self) -> None:
        """The VMAs are out of the tree, so others may look at the rest (``mmap_write_downgrade``)."""
        self._count("mmap_write_downgrade")
        self.mmap_lock.downgrade()

    def _complete_munmap(self, vmas: list[Vma]) -> None:
        """Uncount what was unmapped (``vms_complete_munmap_vmas``)."""
        charged = 0
        for vma in vmas:
            self.vm_stat_account(vma.vm_flags, -vma.nr_pages)
            if vma.vm_flags & VM_ACCOUNT:
                charged += vma.nr_pages
            self._put_file(vma)
        self.context.commit.unacct_memory(charged)

    # -- pages and tables

    def _unmap_region(self, vmas: list[Vma], floor: int, ceiling: int) -> None:
        """Unmap and free all pages of *vmas*, and the tables that only they needed."""
        gather: list[Page] = []
        for vma in vmas:
            self._zap_pages(vma.vm_start, vma.vm_end, gather)
        with self.page_table_lock:
            tables = self.page_table.take_tables(vmas[0].vm_start, vmas[-1].vm_end, floor, ceiling)
        self._tlb_finish(gather, tables)

    def _zap_pages(self, start: int, end: int, gather: list[Page]) -> None:
        """Clear all entries from *start* to *end*; *gather* gets the pages, each with a reference."""
        pages = self.context.mem_map.pages
        for table, first, last, _ in self.page_table.tables(start, end):
            with self.page_table_lock:
                self.hiwater_rss = max(self.hiwater_rss, self.rss_anon + self.rss_shmem)
                nr_anon = nr_shmem = 0
                for index in range(first, last):
                    pte = table[index]
                    if not pte:
                        continue
                    table[index] = 0
                    if pte & PTE_SPECIAL:
                        continue
                    page = pages[pte >> PAGE_SHIFT]
                    if isinstance(page.mapping, AnonVma):
                        page._mapcount = -1  # nobody else maps it: there is no fork
                        nr_anon += 1
                    elif isinstance(page.mapping, Shmem):
                        page.mapping.remove_rmap(page)
                        nr_shmem += 1
                    gather.append(page)
                self.rss_anon -= nr_anon
                self.rss_shmem -= nr_shmem

    def _tlb_finish(self, gather: list[Page], tables: list[Page]) -> None:
        """Flush, and only then free (``tlb_finish_mmu``)."""
        self._flush_tlb()
        self._free_gathered(gather, tables)

    def _free_gathered(self, gather: list[Page], tables: list[Page]) -> None:
        """Drop the references of what no TLB has any more (``tlb_batch_pages_flush``)."""
        free_pages = self._free_pages
        for page in gather:
            if isinstance(page.mapping, AnonVma):
                page.mapping = None
            free_pages(page)
        for page in tables:
            free_pages(page)

    def _flush_tlb(self) -> None:
        """
        Wait until no CPU is in an access that began before (``flush_tlb_mm_range``).

        No lock: an access sets its mark before it looks at the tables, which have changed by now. So
        either it sees the change, or its mark is seen here. It never waits for anything, so this is
        short; a mark that is set again meanwhile costs one more turn.
        """
        for mark in self.context.accesses.all():
            while mark[0]:
                self.context.rt.cpu_relax()
