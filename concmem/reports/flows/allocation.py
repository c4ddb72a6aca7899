"""
Memory allocation, from ``malloc`` down to the buddy system.

A ``malloc`` is in the chart when it asks the kernel; one that is served by what the process has never
comes to the kernel. Kernel code that allocates for itself enters at J, since what it wants is kernel
memory, or calls ``vmalloc`` and enters at O. An allocation of a cache counts as a ``kmalloc`` of K.

Leave the chart early: ``kmalloc`` of more than 8 KiB, whole page blocks, at N; allocations without memory
at U or O; system calls that are refused at E and F.
"""

from __future__ import annotations

from typing import Final

from concmem.reports.flows.flow import Edge, Flow

_SLUB: Final = "slab.alloc_fastpath + slab.alloc_slowpath"
# On its free list; freed to its slab by others meanwhile; on its partial list.
ON_CPU: Final = "slab.alloc_fastpath + slab.alloc_refill + slab.cpu_partial_alloc"
NOT_ON_CPU: Final = "slab.alloc_slowpath - slab.alloc_refill - slab.cpu_partial_alloc"
# With those for which there were no pages then.
NO_PARTIAL: Final = f"{NOT_ON_CPU} - slab.alloc_from_partial"
_KMALLOC: Final = f"{_SLUB} + kmalloc_large + kmalloc_vmalloc"
_VIRTUAL: Final = "brk_grow + mmap_region"

ALLOCATION: Final = Flow(
    "allocation",
    "Memory allocation",
    nodes={
        "A": "User calls malloc",
        "B": "Allocation size?",
        "C": "brk system call",
        "D": "mmap system call",
        "E": "sys_brk",
        "F": "sys_mmap",
        "G": "Extend the heap",
        "H": "Create the memory mapping",
        "I": "Allocate virtual memory",
        "J": "Kernel allocation?",
        "K": "kmalloc call",
        "L": "Return to user space",
        "M": "Object size?",
        "N": "SLUB allocator",
        "O": "vmalloc allocation",
        "P": "Check the per-CPU cache",
        "Q": "Return at once",
        "R": "Check the node cache",
        "S": "Allocate from the slab",
        "T": "Allocate a new slab",
        "U": "Call the buddy system",
        "V": "Allocate pages",
        "W": "Initialize the slab",
        "X": "Allocate the object",
        "Y": "Update statistics",
        "Z": "Set up the page table mapping",
        "AA": "Return the memory address",
    },
    edges=(
        Edge("A", "B", "", "user_malloc_brk + user_malloc_mmap"),
        Edge("B", "C", "< 128KB", "user_malloc_brk"),
        Edge("B", "D", ">= 128KB", "user_malloc_mmap"),
        # With calls that a program makes without malloc.
        Edge("C", "E", "", "sys_brk"),
        Edge("D", "F", "", "sys_mmap"),
        # To extend the heap, and to map, is to allocate the addresses: G-I and H-I are the same steps.
        Edge("E", "G", "", "brk_grow"),
        Edge("F", "H", "", "mmap_region"),
        Edge("G", "I", "", "brk_grow"),
        Edge("H", "I", "", "mmap_region"),
        Edge("I", "J", "", _VIRTUAL),
        Edge("J", "K", "yes", _KMALLOC),
        Edge("J", "L", "no", _VIRTUAL),
        Edge("K", "M", "", _KMALLOC),
        Edge("M", "N", "< 2MB", f"{_SLUB} + kmalloc_large"),
        Edge("M", "O", ">= 2MB", "kmalloc_vmalloc"),
        Edge("N", "P", "", _SLUB),
        Edge("P", "Q", "has free objects", ON_CPU),
        Edge("P", "R", "no free object", NOT_ON_CPU),
        Edge("R", "S", "has a partial slab", "slab.alloc_from_partial"),
        Edge("R", "T", "no slab available", NO_PARTIAL),
        # A new slab is asked for once, and either there is one, with an object for the caller, or not.
        Edge("T", "U", "", NO_PARTIAL),
        Edge("U", "V", "", "slab.alloc_slab"),
        Edge("V", "W", "", "slab.alloc_slab"),
        Edge("W", "X", "", "slab.alloc_slab"),
        Edge("S", "Y", "", "slab.alloc_from_partial"),
        Edge("X", "Y", "", "slab.alloc_slab"),
        Edge("Q", "Y", "", ON_CPU),
        # All vmallocs that got their pages, kmalloc's and others.
        Edge("O", "Z", "", "vmalloc_map"),
        Edge("Y", "AA", "", f"{ON_CPU} + slab.alloc_from_partial + slab.alloc_slab"),
        Edge("Z", "AA", "", "vmalloc_map"),
        Edge("L", "AA", "", _VIRTUAL),
    ),
)
