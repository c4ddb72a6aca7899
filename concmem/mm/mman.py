"""
Numbers of the address space calls: protections, map flags, VMA flags, limits and the layout.

Values are those of Linux 6.12 on x86-64 (``uapi/linux/mman.h``, ``linux/mm.h``, ``asm/page_64.h``).
Address space layout is not randomised, as under ``setarch -R``.
"""

from __future__ import annotations

from typing import Final

from concmem.units import PAGE_SIZE

PROT_NONE: Final = 0x0
PROT_READ: Final = 0x1
PROT_WRITE: Final = 0x2
PROT_EXEC: Final = 0x4
PROT_MASK: Final = 0x7

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_GROWSDOWN: Final = 0x0100
MAP_NORESERVE: Final = 0x4000
MAP_POPULATE: Final = 0x8000
MAP_STACK: Final = 0x2_0000
MAP_FIXED_NOREPLACE: Final = 0x10_0000
MAP_KNOWN: Final = 0x12_C133
"""All of the above."""

VM_READ: Final = 0x1
VM_WRITE: Final = 0x2
VM_EXEC: Final = 0x4
VM_SHARED: Final = 0x8
VM_MAYREAD: Final = 0x10
VM_MAYWRITE: Final = 0x20
VM_MAYEXEC: Final = 0x40
VM_MAYSHARE: Final = 0x80
VM_GROWSDOWN: Final = 0x100
VM_ACCOUNT: Final = 0x10_0000
VM_NORESERVE: Final = 0x20_0000
VM_ACCESS_FLAGS: Final = VM_READ | VM_WRITE | VM_EXEC
VM_MAYANY: Final = VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
VM_DATA_FLAGS: Final = VM_READ | VM_WRITE | VM_MAYANY | VM_ACCOUNT
"""Of the heap (``VM_DATA_DEFAULT_FLAGS | VM_ACCOUNT``)."""
VM_STACK_FLAGS: Final = VM_DATA_FLAGS | VM_GROWSDOWN

VM_FLAG_NAMES: Final = (
    (VM_READ, "rd"),
    (VM_WRITE, "wr"),
    (VM_EXEC, "ex"),
    (VM_SHARED, "sh"),
    (VM_MAYREAD, "mr"),
    (VM_MAYWRITE, "mw"),
    (VM_MAYEXEC, "me"),
    (VM_MAYSHARE, "ms"),
    (VM_GROWSDOWN, "gd"),
    (VM_ACCOUNT, "ac"),
    (VM_NORESERVE, "nr"),
)
"""As ``VmFlags`` of smaps shows them, in its order."""

TASK_SIZE: Final = 0x7FFF_FFFF_F000
"""First address that is no user's, with four levels of page tables."""
MMAP_MIN_ADDR: Final = 0x1_0000
STACK_TOP: Final = TASK_SIZE
STACK_VM_PAGES: Final = 33
"""Pages of the stack VMA of a new process."""
STACK_GUARD_GAP: Final = 256 * PAGE_SIZE
MIN_MMAP_GAP: Final = 128 << 20
"""Addresses kept for the stack, at least."""
START_BRK: Final = 0x5555_5555_9000
TASK_UNMAPPED_BASE: Final = TASK_SIZE // 3 & -PAGE_SIZE

RLIM_INFINITY: Final = (1 << 64) - 1
DEFAULT_STACK_LIMIT: Final = 8 << 20
DEFAULT_MAX_MAP_COUNT: Final = 65530

OVERCOMMIT_GUESS: Final = 0
OVERCOMMIT_ALWAYS: Final = 1
OVERCOMMIT_NEVER: Final = 2


def page_align(nr_bytes: int) -> int:
    """*nr_bytes* rounded up to whole pages (``PAGE_ALIGN``)."""
    return nr_bytes + PAGE_SIZE - 1 & -PAGE_SIZE


def prot_to_vm_flags(prot: int) -> int:
    """``VM_READ``, ``VM_WRITE``, ``VM_EXEC``: the same bits (``calc_vm_prot_bits``)."""
    return prot & PROT_MASK


def is_exec_mapping(flags: int) -> bool:
    """Whether the pages count as code (``exec_vm``)."""
    return flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC


def is_stack_mapping(flags: int) -> bool:
    """Whether the pages count as stack (``stack_vm``)."""
    return bool(flags & VM_GROWSDOWN)


def is_data_mapping(flags: int) -> bool:
    """Whether the pages count as data (``data_vm``, RLIMIT_DATA)."""
    return flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE


def accountable_mapping(flags: int) -> bool:
    """Whether a new mapping is charged as committed (a shared one's file is instead)."""
    return flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE
