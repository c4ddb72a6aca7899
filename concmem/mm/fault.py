"""
Page faults: what happens when a process uses a page that its tables do not allow it.

Reading untouched anonymous memory maps the zero page, which counts nowhere; writing maps a new page.
The new page is allocated before page_table_lock is taken, since that may sleep; whether the entry is
still as it was is looked at again under the lock, and the loser of two faults frees its page.

Locks: the fault holds mmap_lock for reading, and page_table_lock to change an entry.

Follows ``do_user_addr_fault`` of x86, and ``do_anonymous_page``, ``do_read_fault``, ``do_cow_fault``,
``do_shared_fault`` and ``do_wp_page`` of ``mm/memory.c`` of Linux 6.12, without per-VMA locks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, NoReturn

from concmem.errors import BusError, NotACpu, OutOfMemory, SegmentationFault
from concmem.mm.gfp import GFP_HIGHUSER_MOVABLE, ZERO
from concmem.mm.memory import pfn_to_virt
from concmem.mm.mman import (
    MMAP_MIN_ADDR,
    STACK_GUARD_GAP,
    VM_ACCESS_FLAGS,
    VM_GROWSDOWN,
    VM_SHARED,
    VM_WRITE,
)
from concmem.mm.pgtable import (
    INDEX_MASK,
    PFN_MASK,
    PMD_SHIFT,
    PTE_DIRTY,
    PTE_PRESENT,
    PTE_RW,
    PTE_SPECIAL,
    ZERO_PFN,
)
from concmem.mm.vma import AnonVma, Vma
from concmem.mm.vma_merge import VmaMerge, anon_vma_compatible
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.page import Page

GFP_ZEROED_PAGE: Final = GFP_HIGHUSER_MOVABLE | ZERO
_WRITTEN: Final = PTE_PRESENT | PTE_RW | PTE_DIRTY


class Fault(VmaMerge):
    """The page faults of an address space."""

    def page_fault(self, address: int, write: bool) -> None:
        """
        Map the page at *address*, for reading or for writing. May sleep. On a CPU.

        Another CPU may unmap it again at once, so the caller looks again.

        Raises:
            SegmentationFault: there is nothing mapped, or not for that.
            BusError: the page is behind the end of the file.
            OutOfMemory: no page for it, or for a table.
        """
        self._count("pgfault")
        with self.mmap_lock.read():
            vma = self.vmas.find(address)
            if vma is not None and vma.vm_start <= address:
                self._handle_mm_fault(vma, address, write)
                return
            if vma is None or not vma.vm_flags & VM_GROWSDOWN:
                self._bad_area(address, write, None)
        self._expand_stack(address, write)

    def _handle_mm_fault(self, vma: Vma, address: int, write: bool) -> None:
        flags = vma.vm_flags
        if not flags & (VM_WRITE if write else VM_ACCESS_FLAGS):
            self._bad_area(address, write, vma)
        table = self.page_table.ptes.get(address >> PMD_SHIFT)
        if table is None:
            table = self.page_table.pte_alloc(address)
            if table is None:
                self._out_of_memory(address)
        index = address >> PAGE_SHIFT & INDEX_MASK
        pte = table[index]  # no lock: looked at again under it
        if not pte:
            if vma.vm_file is None:
                self._do_anonymous_page(vma, address, write, table, index)
            else:
                self._do_fault(vma, address, write, table, index)
        elif write and pte & PTE_PRESENT and not pte & PTE_RW:
            self._do_wp_page(vma, address, table, index, pte)

    def _pte_same(self, table: list[int], index: int, old: int) -> bool:
        """Whether no other fault was faster. Caller holds page_table_lock."""
        return table[index] == old

    # -- anonymous memory

    def _do_anonymous_page(
        self, vma: Vma, address: int, write: bool, table: list[int], index: int
    ) -> None:
        if write:
            if vma.anon_vma is None:
                self._anon_vma_prepare(vma)
            page = self._alloc_pages(0, GFP_ZEROED_PAGE)
            if page is None:
                self._out_of_memory(address)
            self._map_anon(vma, table, index, 0, page)
            return
        with self.page_table_lock:
            if self._pte_same(table, index, 0):
                table[index] = ZERO_PFN << PAGE_SHIFT | PTE_PRESENT | PTE_SPECIAL

    def _alloc_anon(self, vma: Vma, address: int, gfp: int) -> Page:
        """A page to copy or write to."""
        if vma.anon_vma is None:
            self._anon_vma_prepare(vma)
        page = self._alloc_pages(0, gfp)
        if page is None:
            self._out_of_memory(address)
        return page

    def _map_anon(self, vma: Vma, table: list[int], index: int, old: int, page: Page) -> bool:
        """Put *page* in the place of entry *old*, or free it if that has changed; whether it is in."""
        with self.page_table_lock:
            if same := self._pte_same(table, index, old):
                page._mapcount = 0
                page.mapping = vma.anon_vma
                table[index] = page.pfn << PAGE_SHIFT | _WRITTEN
                self.rss_anon += 1
        if not same:
            self._free_pages(page)
        return same

    def _anon_vma_prepare(self, vma: Vma) -> None:
        """Give *vma* the anon_vma of a neighbour that it may be merged with one day, or a new one."""
        found = None
        for left, right in (
            (self.vmas.find_prev(vma.vm_start), vma),
            (vma, self.vmas.find(vma.vm_end)),
        ):
            if left is not None and right is not None and anon_vma_compatible(left, right):
                found = found or (left if right is vma else right).anon_vma
        with self.page_table_lock:
            if vma.anon_vma is None:  # again: another fault in the same VMA may have set it
                vma.anon_vma = found or AnonVma(self.context.rt, f"{self.name} {vma.vm_start:#x}")

    # -- files

    def _do_fault(self, vma: Vma, address: int, write: bool, table: list[int], index: int) -> None:
        """First use of a page of a file."""
        page = self._file_page(vma, address)
        if write and not vma.vm_flags & VM_SHARED:
            self._cow(vma, address, table, index, 0, page)
            return
        shmem = vma.vm_file
        assert shmem is not None
        with self.page_table_lock:
            if self._pte_same(table, index, 0):
                shmem.add_rmap(page)
                table[index] = page.pfn << PAGE_SHIFT | (_WRITTEN if write else PTE_PRESENT)
                self.rss_shmem += 1

    def _file_page(self, vma: Vma, address: int) -> Page:
        """The page of the file at *address*. The VMA keeps the file, and the file the page."""
        shmem, pgoff = vma.vm_file, vma.pgoff_of(address)
        assert shmem is not None
        if pgoff >= shmem.size >> PAGE_SHIFT:
            raise BusError(
                f"{self._cpu()}: {self.name}: {address:#x} in {vma!r} is page {pgoff} of {shmem!r}"
            )
        page = shmem.get_page(pgoff)
        if page is None:
            self._out_of_memory(address)
        return page

    def _cow(
        self, vma: Vma, address: int, table: list[int], index: int, old: int, source: Page
    ) -> None:
        """Map a copy of *source*, a page of the file, in the place of entry *old*."""
        page = self._alloc_anon(vma, address, GFP_HIGHUSER_MOVABLE)
        memory = self.context.memory
        memory.write(pfn_to_virt(page.pfn), memory.read(pfn_to_virt(source.pfn), PAGE_SIZE))
        self._count("cow_fault")
        if self._map_anon(vma, table, index, old, page) and old:
            self._unmap_file_page(vma, source)

    def _unmap_file_page(self, vma: Vma, page: Page) -> None:
        """
        *page* was replaced by a copy.

        No flush is needed: an access under way reads the file as it was before, and the file, which
        the VMA keeps, has a reference of its own.
        """
        assert vma.vm_file is not None
        with self.page_table_lock:
            self.rss_shmem -= 1
            vma.vm_file.remove_rmap(page)
        self._free_pages(page)

    # -- pages that are mapped for reading only

    def _do_wp_page(self, vma: Vma, address: int, table: list[int], index: int, old: int) -> None:
        """Write to a page that is mapped for reading (``do_wp_page``)."""
        if old & PTE_SPECIAL:
            page = self._alloc_anon(vma, address, GFP_ZEROED_PAGE)
            self._map_anon(vma, table, index, old, page)
            return
        if not vma.vm_flags & VM_SHARED:
            source = self.context.mem_map.pages[old >> PAGE_SHIFT]
            if not isinstance(source.mapping, AnonVma):
                self._cow(vma, address, table, index, old, source)
                return
        with self.page_table_lock:
            if self._pte_same(table, index, old):  # the page is ours alone, or shared on purpose
                table[index] = old & PFN_MASK | _WRITTEN

    # -- the stack

    def _expand_stack(self, address: int, write: bool) -> None:
        """Grow the stack to *address*. The lock is not upgraded but taken again: so look again."""
        with self.mmap_lock.write():
            vma = self._find_and_expand(address, write)
            self.mmap_lock.downgrade()
            self._handle_mm_fault(vma, address, write)

    def _find_and_expand(self, address: int, write: bool) -> Vma:
        """The VMA around *address*, grown if it is a stack above. Caller holds mmap_lock to write."""
        vma = self.vmas.find(address)
        if vma is None or (vma.vm_start > address and not vma.vm_flags & VM_GROWSDOWN):
            self._bad_area(address, write, None)
        if vma.vm_start > address and not self._expand_downwards(vma, address & -PAGE_SIZE):
            self._bad_area(address, write, None)
        return vma

    def _expand_downwards(self, vma: Vma, address: int) -> bool:
        """Make *vma* begin at *address*, if gap, limits and accounting allow (``expand_downwards``)."""
        prev = self.vmas.find_prev(vma.vm_start)
        if address < MMAP_MIN_ADDR or (prev is not None and prev.vm_end > address):
            return False
        if (
            prev is not None
            and not prev.vm_flags & VM_GROWSDOWN
            and prev.vm_flags & VM_ACCESS_FLAGS
            and address - prev.vm_end < STACK_GUARD_GAP
        ):
            return False
        pages = vma.vm_start - address >> PAGE_SHIFT
        if vma.vm_end - address > self.limits.stack or not self.may_expand_vm(vma.vm_flags, pages):
            return False
        if not self.context.commit.enough_memory(pages, self.total_vm):
            return False
        with self._lock_anon_vma(vma):
            self._acct_stack_growth(vma, address, pages)
        return True

    def _lock_anon_vma(self, vma: Vma) -> AbstractContextManager[object]:
        """
        Keeps away who looks for *vma* by its pages (``anon_vma_lock_write``).

        Since Linux kernel commit 12352d3cae2c ("mm: replace vma_lock_anon_vma with
        anon_vma_lock_read/write") (in v4.5) there always is one: a lock taken only if it exists may come
        to exist before it is given up.
        """
        if vma.anon_vma is None:
            self._anon_vma_prepare(vma)
            assert vma.anon_vma is not None
        return vma.anon_vma.rwsem.write()

    def _acct_stack_growth(self, vma: Vma, address: int, pages: int) -> None:
        with self.page_table_lock:
            self.vm_stat_account(vma.vm_flags, pages)
            self.vmas.set_start(vma, address)
        self._count("stack_growth")

    # -- what goes wrong

    def _cpu(self) -> str:
        try:
            return f"cpu{self.context.rt.smp_processor_id()}"
        except NotACpu:
            return "no cpu"

    def _out_of_memory(self, address: int) -> NoReturn:
        raise OutOfMemory(
            f"{self._cpu()}: {self.name}: no memory for the page at {address:#x}; "
            f"{self.rss_anon + self.rss_shmem} pages are resident"
        )

    def _bad_area(self, address: int, write: bool, vma: Vma | None) -> NoReturn:
        """SIGSEGV. Caller holds mmap_lock."""
        if vma is not None:
            where = f"which {vma!r} does not allow"
        elif self.exited:
            where = "but the process has exited"
        else:
            below, above = self.vmas.find_prev(address), self.vmas.find(address)
            where = f"which is in no VMA: below is {below!r}, above {above!r}"
        raise SegmentationFault(
            f"{self._cpu()}: {self.name}: {'write to' if write else 'read of'} {address:#x}, {where}"
        )
