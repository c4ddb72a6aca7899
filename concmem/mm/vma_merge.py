"""
Merging and splitting VMAs.

Neighbours become one when nothing tells them apart: flags, file, a continuous pgoff, and an anon_vma
that both have or one of them has not.

Locks: the caller holds mmap_lock for writing, for everything here.

Follows ``vma_merge_new_range``, ``vma_modify`` and ``__split_vma`` of ``mm/vma.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm.mm_state import MmState
from concmem.mm.mman import VM_ACCESS_FLAGS
from concmem.mm.vma import Vma
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.vma import AnonVma


def anon_vmas_agree(a: AnonVma | None, b: AnonVma | None) -> bool:
    """Whether VMAs with these can be one (``is_mergeable_anon_vma``; nobody forks here)."""
    return a is None or b is None or a is b


def can_merge(left: Vma, right: Vma) -> bool:
    """Whether two VMAs that touch can be one."""
    return (
        left.vm_end == right.vm_start
        and left.vm_flags == right.vm_flags
        and left.vm_file is right.vm_file
        and left.vm_pgoff + left.nr_pages == right.vm_pgoff
        and anon_vmas_agree(left.anon_vma, right.anon_vma)
    )


def anon_vma_compatible(left: Vma, right: Vma) -> bool:
    """Whether two VMAs could be one if only their access rights were the same."""
    return (
        left.vm_end == right.vm_start
        and not (left.vm_flags ^ right.vm_flags) & ~VM_ACCESS_FLAGS
        and left.vm_file is right.vm_file
        and left.vm_pgoff + left.nr_pages == right.vm_pgoff
    )


class VmaMerge(MmState):
    """The VMAs of an address space as they come, change and go."""

    def insert_or_merge(self, new: Vma) -> Vma:
        """
        Add *new*, or grow its neighbours to cover it; the VMA that is there now.

        *new* has a reference to its file, which goes to the VMA or is given up.
        """
        prev, next_ = self.vmas.find_prev(new.vm_start), self.vmas.find(new.vm_start)
        left = prev is not None and can_merge(prev, new)
        right = next_ is not None and can_merge(new, next_)
        if left and prev is not None:
            prev.vm_end = new.vm_end
            if right and next_ is not None and anon_vmas_agree(prev.anon_vma, next_.anon_vma):
                self._absorb(prev, next_)
            self._put_file(new)
            return prev
        if right and next_ is not None:
            self.vmas.set_start(next_, new.vm_start)
            self._put_file(new)
            return next_
        self.insert_vma(new)
        return new

    def _absorb(self, left: Vma, right: Vma) -> None:
        """Make *left* cover *right*, too, which touches it and goes."""
        self.remove_vma(right)
        left.vm_end = right.vm_end
        left.anon_vma = left.anon_vma or right.anon_vma  # dup_anon_vma
        self._put_file(right)

    @staticmethod
    def _put_file(vma: Vma) -> None:
        if vma.vm_file is not None:
            vma.vm_file.put()

    def split_vma(self, vma: Vma, address: int) -> Vma:
        """Make *vma* two at *address*, a page inside of it; the upper one."""
        pgoff = vma.vm_pgoff + (address - vma.vm_start >> PAGE_SHIFT)
        upper = Vma(address, vma.vm_end, vma.vm_flags, pgoff, vma.vm_file)
        upper.anon_vma = vma.anon_vma
        if upper.vm_file is not None:
            upper.vm_file.get()
        vma.vm_end = address
        self.insert_vma(upper)
        return upper

    def vma_modify(self, vma: Vma, start: int, end: int, flags: int) -> Vma | None:
        """
        Give *start* to *end*, a part of *vma*, other *flags*; the VMA that covers it now.

        Merges with neighbours where it can. ``None``: the parts would be more than max_map_count;
        nothing was changed.
        """
        part = Vma(start, end, flags, vma.pgoff_of(start), vma.vm_file)
        part.anon_vma = vma.anon_vma
        prev = self.vmas.find_prev(start) if start == vma.vm_start else None
        next_ = self.vmas.find(end) if end == vma.vm_end else None
        left = prev is not None and can_merge(prev, part)
        right = next_ is not None and can_merge(part, next_)
        if not (left or right):
            splits = (start > vma.vm_start) + (end < vma.vm_end)
            if splits and self.map_count + splits > self.limits.max_map_count:
                return None
        if start > vma.vm_start:
            vma = self.split_vma(vma, start)
        if end < vma.vm_end:
            self.split_vma(vma, end)
        vma.vm_flags = flags
        if left and prev is not None:
            self._absorb(prev, vma)
            vma = prev
        if right and next_ is not None and can_merge(vma, next_):
            self._absorb(vma, next_)
        return vma
