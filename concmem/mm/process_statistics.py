"""
Taking the statistics of processes.

Each address space is walked with mmap_lock held for reading, as ``/proc/<pid>/smaps`` does it, and
page_table_lock for each VMA. The mapcount of a page that others map is read without a lock: while
they run, Pss is an estimate; when the machine is quiet it is exact.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from concmem.mm.mman import STACK_TOP, VM_FLAG_NAMES, VM_MAYSHARE
from concmem.mm.pgtable import PTE_DIRTY, PTE_SPECIAL
from concmem.mm.statistics_process import (
    ProcessStatistics,
    UserNodeStatistics,
    UserStatistics,
    VmaStatistics,
)
from concmem.mm.vma import AnonVma
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.mm_struct import MmStruct
    from concmem.mm.page import Page
    from concmem.mm.process import Process, ProcessTable
    from concmem.mm.vma import Vma

PSS_SHIFT: Final = 12
START_STACK: Final = STACK_TOP - PAGE_SIZE
"""Where the stack pointer of a new process is, about."""
SHMEM_DEVICE: Final = (0, 1)

_Counts = Counter[tuple[str, int]]
"""Pages by what they are, and NUMA node."""


def user_statistics(table: ProcessTable, nr_nodes: int) -> UserStatistics:
    """All processes of *table*. May sleep; the caller holds nothing."""
    counts: _Counts = Counter()
    processes = tuple(process_statistics(process, counts) for process in table.processes())
    for shmem in table.context.shmem.files():
        with shmem.lock:
            pages = list(shmem.pages.values())
        for page in pages:
            counts["nr_shmem", _node(page)] += 1
            counts["nr_mapped", _node(page)] += page._mapcount >= 0
    names = UserNodeStatistics._fields[1:]
    return UserStatistics(
        processes,
        tuple(
            UserNodeStatistics(node, *(counts[name, node] for name in names))
            for node in range(nr_nodes)
        ),
        max(0, table.context.commit.vm_committed_as.sum()),
        table.context.commit.commit_limit(),
    )


def process_statistics(process: Process, counts: _Counts) -> ProcessStatistics:
    """One process; its pages are added to *counts*."""
    mm = process.mm
    with mm.mmap_lock.read():
        vmas = tuple(vma_statistics(mm, vma, counts) for vma in mm.vmas)
        with mm.page_table_lock:
            tables = list(mm.page_table.pages.values())
        for page in tables:
            counts["nr_page_table_pages", _node(page)] += 1
        return ProcessStatistics(
            process.pid,
            process.name,
            tuple(process.cpus),
            process.start_time,
            total_vm=mm.total_vm,
            data_vm=mm.data_vm,
            exec_vm=mm.exec_vm,
            stack_vm=mm.stack_vm,
            hiwater_vm=max(mm.hiwater_vm, mm.total_vm),
            hiwater_rss=max(mm.hiwater_rss, mm.rss_anon + mm.rss_shmem),
            rss_anon=mm.rss_anon,
            rss_shmem=mm.rss_shmem,
            nr_page_tables=len(tables),
            map_count=mm.map_count,
            start_brk=mm.start_brk,
            brk=mm.brk,
            start_stack=START_STACK,
            vmas=vmas,
        )


def vma_statistics(mm: MmStruct, vma: Vma, counts: _Counts) -> VmaStatistics:
    """One VMA (``smap_gather_stats``). Caller holds mmap_lock."""
    with mm.page_table_lock:
        entries = [entry for _, entry in mm.page_table.entries(vma.vm_start, vma.vm_end)]
    sums: Counter[str] = Counter()
    pages = mm.context.mem_map.pages
    for entry in entries:
        if not entry & PTE_SPECIAL:
            _account(sums, pages[entry >> PAGE_SHIFT], bool(entry & PTE_DIRTY), counts)
    shmem = vma.vm_file
    rights = "".join(
        letter if vma.vm_flags & bit else "-" for bit, letter in ((1, "r"), (2, "w"), (4, "x"))
    )
    return VmaStatistics(
        vma.vm_start,
        vma.vm_end,
        rights + ("s" if vma.vm_flags & VM_MAYSHARE else "p"),
        offset=0 if shmem is None else vma.vm_pgoff << PAGE_SHIFT,
        device=(0, 0) if shmem is None else SHMEM_DEVICE,
        inode=0 if shmem is None else shmem.inode,
        name=_name(mm, vma),
        vm_flags=tuple(name for bit, name in VM_FLAG_NAMES if vma.vm_flags & bit),
        **sums,
    )


def _name(mm: MmStruct, vma: Vma) -> str:
    """As ``get_vma_name``: files of shared memory have no name in any directory."""
    if vma.vm_file is not None:
        return f"{vma.vm_file.name} (deleted)"
    if vma.vm_start < mm.brk and vma.vm_end > mm.start_brk:
        return "[heap]"
    if vma.vm_start <= START_STACK < vma.vm_end:
        return "[stack]"
    return ""


def _account(sums: Counter[str], page: Page, dirty: bool, counts: _Counts) -> None:
    """Add one page (``smaps_account``)."""
    # No lock: another process may map or unmap it; it counts as mapped at least here.
    mapcount = max(1, page._mapcount + 1)
    pss = (PAGE_SIZE << PSS_SHIFT) // mapcount
    sums["rss"] += PAGE_SIZE
    sums["pss"] += pss
    if dirty:
        sums["pss_dirty"] += pss
    if isinstance(page.mapping, AnonVma):
        sums["anonymous"] += PAGE_SIZE
        sums["pss_anon"] += pss
        counts["nr_anon_pages", _node(page)] += 1
    else:
        sums["pss_shmem"] += pss
    kind = ("shared_" if mapcount > 1 else "private_") + ("dirty" if dirty else "clean")
    sums[kind] += PAGE_SIZE


def _node(page: Page) -> int:
    return page.zone.zone_pgdat.node_id
