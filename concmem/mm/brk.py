"""
The heap: ``brk``.

Follows ``SYSCALL_DEFINE1(brk)`` and ``do_brk_flags`` of ``mm/mmap.c`` of Linux 6.12.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from concmem.mm.mman import TASK_SIZE, VM_DATA_FLAGS, page_align
from concmem.mm.munmap import Munmap, check_address
from concmem.mm.vma import Vma
from concmem.units import PAGE_SHIFT, PAGE_SIZE


class Brk(Munmap):
    """The heap of an address space."""

    def sys_brk(self, addr: int) -> int:
        """
        Set the end of the heap to *addr*; the end now, which is the old one if that cannot be.

        An address below the heap, such as 0, asks. May sleep. On a CPU.
        """
        check_address("addr", addr)
        self._count("sys_brk")
        with self._brk_lock():
            if addr < self.start_brk or self.exited:
                return self.brk
            if addr - self.start_brk > self.limits.data:
                return self.brk
            new, old = page_align(addr), page_align(self.brk)
            if new == old:
                self.brk = addr
                return addr
            return self._shrink(addr, new, old) if addr < self.brk else self._grow(addr, new, old)

    def _brk_lock(self) -> AbstractContextManager[object]:
        """What ``brk`` is protected by."""
        return self.mmap_lock.write()

    def _shrink(self, addr: int, new: int, old: int) -> int:
        """Unmap the pages from *new* to *old*, which may downgrade the lock."""
        vma = self.vmas.find(new)
        if vma is None or vma.vm_start >= old:
            return self.brk  # somebody has unmapped it
        before = self.brk
        # First: once the lock is downgraded, the field must not be touched.
        self.brk = addr
        if not self._do_munmap(new, old, downgrade=True):
            self.brk = before
            return before
        self._count("brk_shrink")
        return addr

    def _grow(self, addr: int, new: int, old: int) -> int:
        """Map the pages from *old* to *new*."""
        above = self.vmas.find(old)
        if new > TASK_SIZE or (above is not None and new + PAGE_SIZE > above.start_gap()):
            return self.brk
        pages = new - old >> PAGE_SHIFT
        if not self.may_expand_vm(VM_DATA_FLAGS, pages):
            return self.brk
        if self.map_count > self.limits.max_map_count:
            return self.brk
        if not self.context.commit.enough_memory(pages, self.total_vm):
            return self.brk
        self.insert_or_merge(Vma(old, new, VM_DATA_FLAGS, old >> PAGE_SHIFT, None))
        self.vm_stat_account(VM_DATA_FLAGS, pages)
        self.brk = addr
        self._count("brk_grow")
        return addr
