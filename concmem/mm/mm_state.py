"""
What ``struct mm_struct`` holds, its limits and its counters.

Lock order:
    mmap_lock           (sleeps) VMAs and everything of the layout; faults hold it for reading
      anon_vma->rwsem   (sleeps) where the VMAs that have the anon_vma begin, while one grows
        page_table_lock entries and tables; resident pages; which anon_vma a VMA has
          shmem->lock   see shmem.py

Since Linux kernel commit 9471f1f2f502 ("Merge branch 'expand-stack'") (in v6.5) a stack grows under
mmap_lock held for writing. munmap changes ``total_vm`` and its like with mmap_lock downgraded to
reading, and is right only because of that: nobody else changes them while holding it for reading.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from concmem.mm.mman import (
    DEFAULT_MAX_MAP_COUNT,
    DEFAULT_STACK_LIMIT,
    MIN_MMAP_GAP,
    RLIM_INFINITY,
    STACK_GUARD_GAP,
    STACK_TOP,
    STACK_VM_PAGES,
    START_BRK,
    TASK_SIZE,
    VM_STACK_FLAGS,
    is_data_mapping,
    is_exec_mapping,
    is_stack_mapping,
)
from concmem.mm.pgtable import UserPageTable
from concmem.mm.vma import Vma, VmaTree
from concmem.runtime.api import lockless_reads
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.commit import CommitAccounting
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.shmem import ShmemFs
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import PerCpu, Runtime


class MmContext(NamedTuple):
    """What address spaces need of their machine."""

    rt: Runtime
    memory: Memory
    mem_map: MemMap
    page_alloc: PageAllocator
    commit: CommitAccounting
    shmem: ShmemFs
    events: VmEvents
    accesses: PerCpu[list[int]]
    """``[0]`` is 1 while the CPU reads or writes a page of a process."""


class Limits(NamedTuple):
    """``struct rlimit``, bytes; and ``vm.max_map_count``."""

    address_space: int = RLIM_INFINITY
    """RLIMIT_AS: all mappings."""
    data: int = RLIM_INFINITY
    """RLIMIT_DATA: private writable mappings; the heap alone, too."""
    stack: int = DEFAULT_STACK_LIMIT
    """RLIMIT_STACK."""
    max_map_count: int = DEFAULT_MAX_MAP_COUNT
    """VMAs of one address space."""


class MmState:
    """
    One address space. See :class:`~concmem.mm.mm_struct.MmStruct` for what it can do.

    Attributes:
        brk: the end of the heap, bytes; ``start_brk`` is its beginning.
        total_vm, data_vm, exec_vm, stack_vm: pages of VMAs, all and by kind.
        rss_anon, rss_shmem: pages that are mapped: anonymous ones, and those of shared memory.
    """

    __guarded_by__ = {
        "brk": "mmap_lock",
        "vmas": "mmap_lock",
        # /proc shows these as they are just then.
        "total_vm": lockless_reads("mmap_lock"),
        "data_vm": lockless_reads("mmap_lock"),
        "exec_vm": lockless_reads("mmap_lock"),
        "stack_vm": lockless_reads("mmap_lock"),
        "map_count": lockless_reads("mmap_lock"),
        "rss_anon": lockless_reads("page_table_lock"),
        "rss_shmem": lockless_reads("page_table_lock"),
    }

    def __init__(self, context: MmContext, name: str, limits: Limits) -> None:
        self.context = context
        self.name = name
        self.limits = limits
        rt = context.rt
        # For hot paths: found once.
        self._count = context.events.count
        self._alloc_pages = context.page_alloc.alloc_pages
        self._free_pages = context.page_alloc.free_pages
        self.mmap_lock = rt.rwsem("mm->mmap_lock")
        self.page_table_lock = rt.spinlock("mm->page_table_lock")
        # Set once.
        self.start_brk = START_BRK
        self.mmap_base = mmap_base(limits.stack)
        # mmap_lock
        self.vmas = VmaTree()
        self.brk = START_BRK
        self.map_count = 0
        self.total_vm = 0
        self.data_vm = 0
        self.exec_vm = 0
        self.stack_vm = 0
        self.hiwater_vm = 0
        """Most pages that `total_vm` had when it was about to fall."""
        self.exited = False
        self.before_exit: Callable[[], None] | None = None
        """Called when nothing can be mapped any more, before the pages go."""
        # page_table_lock
        self.page_table = rt.watch(UserPageTable(context.page_alloc, self.page_table_lock))
        self.rss_anon = 0
        self.rss_shmem = 0
        self.hiwater_rss = 0

    def setup_stack(self) -> bool:
        """The stack VMA of a new process, before anybody knows it; whether it may be promised."""
        if not self.context.commit.enough_memory(STACK_VM_PAGES, 0):
            return False
        start = STACK_TOP - STACK_VM_PAGES * PAGE_SIZE
        self.insert_vma(Vma(start, STACK_TOP, VM_STACK_FLAGS, start >> PAGE_SHIFT, None))
        self.vm_stat_account(VM_STACK_FLAGS, STACK_VM_PAGES)
        return True

    # -- caller holds mmap_lock for writing

    def insert_vma(self, vma: Vma) -> None:
        """Add *vma* to the tree (``vma_link``)."""
        vma.vm_mm = self
        self.vmas.insert(self.context.rt.watch(vma))
        self.map_count += 1

    def remove_vma(self, vma: Vma) -> None:
        """Take *vma* out of the tree; its file keeps the reference."""
        self.vmas.remove(vma)
        self.map_count -= 1

    def may_expand_vm(self, flags: int, pages: int) -> bool:
        """Whether RLIMIT_AS and RLIMIT_DATA allow *pages* more with *flags*."""
        if self.total_vm + pages > self.limits.address_space >> PAGE_SHIFT:
            return False
        if is_data_mapping(flags):
            return self.data_vm + pages <= self.limits.data >> PAGE_SHIFT
        return True

    def vm_stat_account(self, flags: int, pages: int) -> None:
        """
        Count *pages*, which may be negative, of a VMA with *flags*.

        mmap_lock may be held for reading by a munmap that had it for writing: see the top.
        """
        if pages < 0:
            self.hiwater_vm = max(self.hiwater_vm, self.total_vm)
        self.total_vm += pages
        if is_exec_mapping(flags):
            self.exec_vm += pages
        elif is_stack_mapping(flags):
            self.stack_vm += pages
        elif is_data_mapping(flags):
            self.data_vm += pages

    def __repr__(self) -> str:
        return f"<mm {self.name}>"


def mmap_base(stack_limit: int) -> int:
    """Where mappings begin, downwards: below the stack that may grow to its limit."""
    gap = stack_limit
    if gap + STACK_GUARD_GAP > gap and gap < RLIM_INFINITY - STACK_GUARD_GAP:
        gap += STACK_GUARD_GAP
    gap = max(MIN_MMAP_GAP, min(gap, TASK_SIZE // 6 * 5))
    return STACK_TOP - gap + PAGE_SIZE - 1 & -PAGE_SIZE
