"""
Changing rights: ``mprotect``.

Follows ``do_mprotect_pkey``, ``mprotect_fixup`` and ``change_pte_range`` of Linux 6.12.
"""

from __future__ import annotations

from concmem.errors import BadArgument
from concmem.mm.mman import (
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_NORESERVE,
    VM_SHARED,
    VM_WRITE,
    is_data_mapping,
    prot_to_vm_flags,
)
from concmem.mm.mmap import Mmap, check_prot
from concmem.mm.munmap import check_range
from concmem.mm.pgtable import PTE_DIRTY, PTE_PRESENT, PTE_PROTNONE, PTE_RW
from concmem.mm.vma import AnonVma, Vma
from concmem.units import PAGE_SHIFT


class Mprotect(Mmap):
    """The rights of an address space."""

    def mprotect(self, addr: int, length: int, prot: int) -> bool:
        """
        Give all pages of a range the rights *prot*. May sleep. On a CPU.

        Returns:
            False when a limit or the commit accounting forbids it. What comes before the VMA that
            it failed for has changed, as in the kernel.

        Raises:
            BadArgument: as for munmap, or some address is in no VMA. Nothing changed.
        """
        start, end = check_range(addr, length)
        rights = prot_to_vm_flags(check_prot(prot))
        self._count("sys_mprotect")
        with self.mmap_lock.write():
            self._check_mapped(start, end)
            while start < end:
                vma = self.vmas.find(start)
                assert vma is not None
                part_end = min(vma.vm_end, end)
                flags = vma.vm_flags & ~VM_ACCESS_FLAGS | rights
                if not self._mprotect_fixup(vma, start, part_end, flags):
                    return False
                start = part_end
            return True

    def _check_mapped(self, start: int, end: int) -> None:
        reached = start
        for vma in self.vmas.overlapping(start, end):
            if vma.vm_start > reached:
                break
            reached = vma.vm_end
        if reached < end:
            raise BadArgument(f"addr: {reached:#x} is not mapped")

    def _mprotect_fixup(self, vma: Vma, start: int, end: int, flags: int) -> bool:
        """Change a part of one VMA; false when that is refused."""
        old = vma.vm_flags
        if flags == old:
            return True
        pages, charged = end - start >> PAGE_SHIFT, 0
        if is_data_mapping(flags) and not is_data_mapping(old):
            more_data = self.data_vm + pages
        else:
            more_data = 0
        if more_data > self.limits.data >> PAGE_SHIFT:
            return False
        if flags & VM_WRITE and not old & (VM_ACCOUNT | VM_WRITE | VM_SHARED | VM_NORESERVE):
            charged = pages
            if not self.context.commit.enough_memory(charged, self.total_vm):
                return False
            flags |= VM_ACCOUNT
        elif (
            not flags & VM_WRITE
            and old & VM_ACCOUNT
            and vma.vm_file is None
            and vma.anon_vma is None
        ):
            flags &= ~VM_ACCOUNT  # nothing was written, so nothing is needed
        changed = self.vma_modify(vma, start, end, flags)
        if changed is None:
            self.context.commit.unacct_memory(charged)
            return False
        self._change_protection(start, end, flags)
        if old & VM_ACCOUNT and not flags & VM_ACCOUNT:
            self.context.commit.unacct_memory(pages)
        self.vm_stat_account(old, -pages)
        self.vm_stat_account(flags, pages)
        return True

    def _change_protection(self, start: int, end: int, flags: int) -> None:
        """Make entries agree with *flags*. A CPU that is in an access has ended it on return."""
        pages = self.context.mem_map.pages
        for table, first, last, _ in self.page_table.tables(start, end):
            with self.page_table_lock:
                for index in range(first, last):
                    if pte := table[index]:
                        page = pages.get(pte >> PAGE_SHIFT)
                        own = page is not None and isinstance(page.mapping, AnonVma)
                        table[index] = self._modify_pte(pte, flags, own)
        self._flush_protection()

    def _flush_protection(self) -> None:
        """From now on nobody uses the rights as they were (``tlb_finish_mmu``)."""
        self._flush_tlb()

    @staticmethod
    def _modify_pte(pte: int, flags: int, own: bool) -> int:
        """
        Entry *pte* with the rights of *flags* (``pte_modify``, ``can_change_pte_writable``).

        Writing is allowed at once only to a dirty page of the process's *own*; others fault first.
        """
        pte &= ~(PTE_PRESENT | PTE_PROTNONE | PTE_RW)
        if not flags & VM_ACCESS_FLAGS:
            return pte | PTE_PROTNONE
        if flags & VM_WRITE and pte & PTE_DIRTY and (own or flags & VM_SHARED):
            pte |= PTE_RW
        return pte | PTE_PRESENT
