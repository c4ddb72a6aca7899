"""
``struct vm_area_struct``, and the sorted collection of those of one address space.

Lock: mm->mmap_lock. Held for writing to change anything here but ``anon_vma``, held in either way to
look. ``anon_vma`` is set once, under mm->page_table_lock, by a fault that holds mmap_lock for reading.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.mm.mman import STACK_GUARD_GAP, VM_GROWSDOWN
from concmem.runtime.api import lockless_lookups
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.mm_state import MmState
    from concmem.mm.shmem import Shmem
    from concmem.runtime.api import Runtime


class AnonVma:
    """
    What anonymous pages have as ``page->mapping`` (``struct anon_vma``).

    Neighbours that could be merged share one, so that they still can be when both have pages. Its `rwsem` is
    held for writing while a VMA that has it changes where it begins.
    """

    __slots__ = ("name", "rwsem")

    def __init__(self, rt: Runtime, name: str) -> None:
        self.name = name
        self.rwsem = rt.rwsem("anon_vma->rwsem")

    def __repr__(self) -> str:
        return f"<anon_vma {self.name}>"


class Vma:
    """
    A range of addresses with the same rights and the same contents.

    ``vm_pgoff`` is in pages: into the file, or for anonymous memory the number of the page itself.
    """

    __slots__ = ("anon_vma", "vm_end", "vm_file", "vm_flags", "vm_mm", "vm_pgoff", "vm_start")

    __guarded_by__: Final = {"anon_vma": lockless_lookups("vm_mm.page_table_lock")}

    vm_mm: MmState
    """The address space that it is in. Set when it comes there."""

    def __init__(
        self, vm_start: int, vm_end: int, vm_flags: int, vm_pgoff: int, vm_file: Shmem | None
    ) -> None:
        self.vm_start = vm_start
        self.vm_end = vm_end
        self.vm_flags = vm_flags
        self.vm_pgoff = vm_pgoff
        self.vm_file = vm_file
        self.anon_vma: AnonVma | None = None

    @property
    def nr_pages(self) -> int:
        """``vma_pages``."""
        return self.vm_end - self.vm_start >> PAGE_SHIFT

    def start_gap(self) -> int:
        """Where mappings below must end: a stack keeps its guard gap (``vm_start_gap``)."""
        if self.vm_flags & VM_GROWSDOWN:
            return max(0, self.vm_start - STACK_GUARD_GAP)
        return self.vm_start

    def pgoff_of(self, address: int) -> int:
        """The page of the file that *address* shows (``linear_page_index``)."""
        return self.vm_pgoff + (address - self.vm_start >> PAGE_SHIFT)

    def __repr__(self) -> str:
        rights = "".join(
            letter if self.vm_flags & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x"))
        )
        shared = "s" if self.vm_flags & 0x80 else "p"
        return f"<vma {self.vm_start:#x}-{self.vm_end:#x} {rights}{shared}>"


class VmaTree:
    """The VMAs of one address space by address (``mm->mm_mt``). Finding takes O(log n)."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []

    def __len__(self) -> int:
        return len(self._vmas)

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._vmas)

    def find(self, address: int) -> Vma | None:
        """The first VMA that ends behind *address*: around it, or above (``find_vma``)."""
        index = bisect_right(self._starts, address)
        if index and self._vmas[index - 1].vm_end > address:
            return self._vmas[index - 1]
        return self._vmas[index] if index < len(self._vmas) else None

    def find_prev(self, address: int) -> Vma | None:
        """The last VMA that starts below *address*."""
        index = bisect_left(self._starts, address)
        return self._vmas[index - 1] if index else None

    def next_of(self, vma: Vma) -> Vma | None:
        """The VMA above *vma*."""
        index = bisect_right(self._starts, vma.vm_start)
        return self._vmas[index] if index < len(self._vmas) else None

    def overlapping(self, start: int, end: int) -> list[Vma]:
        """All VMAs with addresses from *start* to *end*, in order."""
        first = bisect_right(self._starts, start)
        if first and self._vmas[first - 1].vm_end > start:
            first -= 1
        return self._vmas[first : bisect_left(self._starts, end)]

    def highest_gap(self, low: int, high: int, length: int) -> int | None:
        """
        The highest start for *length* bytes from *low* to *high*, ``None`` for none.

        A guard gap keeps away what would be just below a stack, not what has another VMA between.
        Looks at one VMA after the other from *high* down.
        """
        index = bisect_left(self._starts, high)
        top = high
        if index < len(self._vmas):
            top = min(top, self._vmas[index].start_gap())
        while index:
            vma = self._vmas[index - 1]
            if top - length >= max(low, vma.vm_end):
                return top - length
            if vma.vm_start <= low:
                return None
            top = vma.start_gap()
            index -= 1
        return top - length if top - length >= low else None

    def lowest_gap(self, low: int, high: int, length: int) -> int | None:
        """The lowest start, as above."""
        address = low
        for vma in self._vmas[max(0, bisect_right(self._starts, low) - 1) :]:
            if vma.vm_end <= address:
                continue
            if address + length <= min(vma.start_gap(), high):
                return address
            address = max(address, vma.vm_end)
        return address if address + length <= high else None

    # -- change. Caller holds mmap_lock for writing.

    def insert(self, vma: Vma) -> None:
        """Add *vma*, which overlaps no other."""
        index = bisect_left(self._starts, vma.vm_start)
        self._starts.insert(index, vma.vm_start)
        self._vmas.insert(index, vma)

    def remove(self, vma: Vma) -> None:
        """Take *vma* out."""
        index = bisect_left(self._starts, vma.vm_start)
        del self._starts[index], self._vmas[index]

    def set_start(self, vma: Vma, start: int) -> None:
        """Move the lower end of *vma*, not across another's; its pgoff follows."""
        index = bisect_left(self._starts, vma.vm_start)
        vma.vm_pgoff += start - vma.vm_start >> PAGE_SHIFT
        vma.vm_start = start
        self._starts[index] = start
