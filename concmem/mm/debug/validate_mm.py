"""
Do the address spaces agree with themselves, with each other and with the page allocator?

Called with every CPU parked between two operations, or asleep in one. A fault may be asleep while it
allocates: then nothing is mapped yet, but a table may be there already. Everything else is exact.

No lock is taken, and pages are counted by walking the tables, never by trusting a counter.
"""

from __future__ import annotations

from collections import Counter

from concmem.errors import AddressSpaceError
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import (
    TASK_SIZE,
    VM_ACCESS_FLAGS,
    VM_ACCOUNT,
    VM_GROWSDOWN,
    VM_SHARED,
    VM_WRITE,
    is_data_mapping,
    is_exec_mapping,
    is_stack_mapping,
)
from concmem.mm.page import Page
from concmem.mm.pgtable import (
    LEVELS,
    PMD_SHIFT,
    PTE_DIRTY,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_RW,
    PTE_SPECIAL,
    ZERO_PFN,
)
from concmem.mm.process import ProcessTable
from concmem.mm.shmem import Shmem
from concmem.mm.vma import AnonVma, Vma
from concmem.mm.vma_merge import can_merge
from concmem.units import PAGE_SHIFT, PAGE_SIZE


def validate_mm(mm: MmStruct) -> Counter[int]:
    """
    One address space by itself; how often it maps each page frame.

    Raises:
        AddressSpaceError: VMAs overlap, are out of order or should have been merged, a table entry
            is in no VMA or allows more than its VMA, or a counter differs from what it counts.
    """
    _check_vmas(mm)
    mapped, anon = _check_entries(mm)
    _check_tables(mm)
    _check_counters(mm, anon, mapped.total() - anon)
    return mapped


def validate_processes(table: ProcessTable) -> None:
    """
    All address spaces, shared memory, mapcounts, references and the commit accounting.

    Raises:
        AddressSpaceError: as above; a page is mapped more or less often than it says; what was
            promised is not what VMAs and shared memory add up to.
    """
    mapped: Counter[int] = Counter()
    users: Counter[int] = Counter()
    committed = 0
    for process in table.processes():
        mm = process.mm
        mapped += validate_mm(mm)
        for vma in mm.vmas:
            if vma.vm_flags & VM_ACCOUNT:
                committed += vma.nr_pages
            if vma.vm_file is not None:
                users[vma.vm_file.inode] += 1
    files = table.context.shmem.files()
    for shmem in files:
        committed += shmem.size >> PAGE_SHIFT
        _check_shmem(shmem, users.pop(shmem.inode, 0), mapped)
    for inode in users:
        raise AddressSpaceError(f"shared memory {inode} is mapped, but gone")
    _check_mapcounts(table, mapped)
    total = table.context.commit.vm_committed_as.sum()
    if total != committed:
        raise AddressSpaceError(
            f"vm_committed_as is {total} pages, but VMAs and shared memory have {committed}"
        )


# -- VMAs


def _check_vmas(mm: MmStruct) -> None:
    prev: Vma | None = None
    for vma in mm.vmas:
        if not 0 <= vma.vm_start < vma.vm_end <= TASK_SIZE:
            raise AddressSpaceError(f"{mm}: {vma!r} is empty or not in user space")
        if (vma.vm_start | vma.vm_end) % PAGE_SIZE:
            raise AddressSpaceError(f"{mm}: {vma!r} does not consist of whole pages")
        if vma.vm_file is None and vma.vm_pgoff != vma.vm_start >> PAGE_SHIFT:
            raise AddressSpaceError(f"{mm}: {vma!r} is anonymous with pgoff {vma.vm_pgoff:#x}")
        if prev is not None:
            if prev.vm_end > vma.vm_start:
                raise AddressSpaceError(f"{mm}: {prev!r} and {vma!r} overlap or are out of order")
            # A stack that has grown down to another is not merged with it.
            if can_merge(prev, vma) and not vma.vm_flags & VM_GROWSDOWN:
                raise AddressSpaceError(f"{mm}: {prev!r} and {vma!r} should be one")
        if mm.vmas.find(vma.vm_start) is not vma:
            raise AddressSpaceError(f"{mm}: {vma!r} is not found by its address")
        prev = vma


# -- tables


def _check_entries(mm: MmStruct) -> tuple[Counter[int], int]:
    """How often each page frame is mapped, and how many entries map anonymous pages."""
    mapped: Counter[int] = Counter()
    anon = 0
    for address, pte in mm.page_table.entries(0, 1 << 47):
        vma = mm.vmas.find(address)
        if vma is None or vma.vm_start > address:
            raise AddressSpaceError(f"{mm}: {address:#x} has entry {pte:#x}, but is in no VMA")
        _check_rights(mm, vma, address, pte)
        pfn = pte >> PAGE_SHIFT
        if pte & PTE_SPECIAL:
            if pfn != ZERO_PFN or pte & PTE_RW or vma.vm_file is not None:
                raise AddressSpaceError(
                    f"{mm}: {address:#x} in {vma!r} has entry {pte:#x}, no use of the zero page"
                )
            continue
        page = mm.context.mem_map.pages.get(pfn)
        if page is None or not page.is_allocated():
            raise AddressSpaceError(f"{mm}: {address:#x} is mapped to pfn {pfn:#x}, which is free")
        _check_contents(mm, vma, address, page)
        anon += isinstance(page.mapping, AnonVma)
        mapped[pfn] += 1
    return mapped, anon


def _check_rights(mm: MmStruct, vma: Vma, address: int, pte: int) -> None:
    """An entry allows what its VMA allows, or less."""
    flags = vma.vm_flags
    where = f"{mm}: {address:#x} in {vma!r}: entry {pte:#x}"
    if bool(pte & PTE_PRESENT) != bool(flags & VM_ACCESS_FLAGS):
        raise AddressSpaceError(f"{where} is present in a VMA without access, or the reverse")
    if bool(pte & PTE_PROTNONE) == bool(pte & PTE_PRESENT):
        raise AddressSpaceError(f"{where} is neither present nor protected, or both")
    if pte & PTE_RW and not (flags & VM_WRITE and pte & PTE_DIRTY):
        raise AddressSpaceError(f"{where} allows writing, or is writable without being dirty")


def _check_contents(mm: MmStruct, vma: Vma, address: int, page: Page) -> None:
    """An anonymous page is that VMA's, and a page of a file the right one."""
    if isinstance(page.mapping, AnonVma):
        if page.mapping is not vma.anon_vma or vma.vm_flags & VM_SHARED:
            raise AddressSpaceError(
                f"{mm}: {address:#x} in {vma!r} has a page of {page.mapping!r}, not its own"
            )
        return
    # A copy of the dictionary's entry is enough: nobody changes it now.
    if vma.vm_file is None or vma.vm_file.pages.get(vma.pgoff_of(address)) is not page:
        raise AddressSpaceError(
            f"{mm}: {address:#x} in {vma!r} is mapped to {page!r}, which is not that page of the file"
        )


def _check_tables(mm: MmStruct) -> None:
    """Each table has its page, is below another, and is near a VMA."""
    table = mm.page_table
    keys = {key for level, key in table.pages if level == PMD_SHIFT}
    if keys != set(table.ptes):
        raise AddressSpaceError(f"{mm}: last-level tables and their pages differ")
    for (level, key), page in table.pages.items():
        if not page.is_allocated() or page._mapcount != -1:
            raise AddressSpaceError(f"{mm}: {page!r} of a table is not the table's")
        for upper in LEVELS[: LEVELS.index(level)]:
            if (upper, key << level >> upper) not in table.pages:
                raise AddressSpaceError(f"{mm}: a table at {key << level:#x} hangs in the air")
        if not mm.vmas.overlapping(key << level, key + 1 << level):
            raise AddressSpaceError(f"{mm}: the table at {key << level:#x} is needed by no VMA")


# -- counters


def _check_counters(mm: MmStruct, anon: int, shmem: int) -> None:
    flags = [(vma.vm_flags, vma.nr_pages) for vma in mm.vmas]
    for name, counter, counted in (
        ("map_count", mm.map_count, len(mm.vmas)),
        ("total_vm", mm.total_vm, sum(nr for _, nr in flags)),
        ("exec_vm", mm.exec_vm, sum(nr for vm, nr in flags if is_exec_mapping(vm))),
        ("stack_vm", mm.stack_vm, sum(nr for vm, nr in flags if is_stack_mapping(vm))),
        ("data_vm", mm.data_vm, sum(nr for vm, nr in flags if is_data_mapping(vm))),
        ("rss_anon", mm.rss_anon, anon),
        ("rss_shmem", mm.rss_shmem, shmem),
    ):
        if counter != counted:
            raise AddressSpaceError(f"{mm}: {name} is {counter}, but {counted} counted")


def _check_shmem(shmem: Shmem, nr_vmas: int, mapped: Counter[int]) -> None:
    """Users and pages of one object; the mappings of its pages are taken out of *mapped*."""
    if shmem.nr_users != nr_vmas + shmem.is_open:
        raise AddressSpaceError(
            f"{shmem!r}: has {shmem.nr_users} users, but {nr_vmas} VMAs, open {shmem.is_open}"
        )
    for index, page in shmem.pages.items():
        if not 0 <= index < shmem.size >> PAGE_SHIFT or page.mapping is not shmem:
            raise AddressSpaceError(f"{shmem!r}: {page!r} is not its page {index}")
        times = mapped.pop(page.pfn, 0)
        if page._mapcount + 1 != times:
            raise AddressSpaceError(
                f"{page!r} of {shmem!r}: mapcount {page._mapcount + 1}, but mapped {times} times"
            )
        if page.ref_count() < times + 1:  # others may have references, too
            raise AddressSpaceError(
                f"{page!r} of {shmem!r}: too few references for {times} mappings"
            )


def _check_mapcounts(table: ProcessTable, mapped: Counter[int]) -> None:
    """Anonymous pages, which is all that is left: each is mapped once, and nothing else is mapped."""
    pages = table.context.mem_map.pages
    for pfn, times in mapped.items():
        page = pages[pfn]
        if times != 1 or page._mapcount != 0:
            raise AddressSpaceError(
                f"{page!r}: mapcount {page._mapcount + 1}, but mapped {times} times"
            )
    for page in list(pages.values()):
        if isinstance(page.mapping, AnonVma) and page.pfn not in mapped:
            raise AddressSpaceError(f"{page!r}: is of {page.mapping!r}, but mapped nowhere: lost")
