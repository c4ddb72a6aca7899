"""
Memory pools: creation, allocation, release.

An allocation that has to wait comes to K again when it is woken, so what is counted is rounds: each ends
with a reserved element, with a new one, or with none (R), and then the caller waits, or it fails (U).
Of a pool that asks its allocator first, what is counted is where the element came from.
"""

from __future__ import annotations

from typing import Final

from concmem.reports.flows.flow import Edge, Flow

_NOT_RESERVED: Final = "mempool_alloc_allocator + mempool_alloc_empty"

MEMPOOL: Final = Flow(
    "mempool",
    "Memory pools",
    nodes={
        "A": "mempool_create",
        "B": "Allocate the mempool structure",
        "C": "Initialize the parameters",
        "D": "Preallocate the reserved elements",
        "E": "Call the alloc function",
        "F": "Success?",
        "G": "Add to the elements array",
        "H": "Record the actual number",
        "I": "min_nr reached?",
        "J": "Memory pool created",
        "K": "mempool_alloc",
        "L": "Reserved element available?",
        "M": "Allocate from the elements array",
        "N": "Call the alloc function",
        "O": "Update curr_nr",
        "P": "Allocation succeeded?",
        "Q": "Return the new element",
        "R": "Wait or fail",
        "S": "Return the reserved element",
        "T": "Allocation complete",
        "U": "Allocation failed",
        "V": "mempool_free",
        "W": "Reserve array full?",
        "X": "Put back into the elements array",
        "Y": "Call the free function",
        "Z": "Update curr_nr",
        "AA": "Really release the memory",
        "BB": "Release complete",
    },
    edges=(
        # One event: a pool has its structure and parameters, and is about to be filled.
        Edge("A", "B", "", "mempool_create"),
        Edge("B", "C", "", "mempool_create"),
        Edge("C", "D", "", "mempool_create"),
        Edge("D", "E", "", "mempool_create"),
        Edge("E", "F", "", "mempool_prealloc + mempool_prealloc_short"),
        Edge("F", "G", "yes", "mempool_prealloc"),
        Edge("F", "H", "no", "mempool_prealloc_short"),
        Edge("G", "I", "", "mempool_prealloc"),
        Edge("I", "E", "no", "mempool_prealloc - mempool_created"),
        Edge("I", "J", "yes", "mempool_created"),
        Edge("K", "L", "", f"mempool_alloc_reserved + {_NOT_RESERVED}"),
        # To take an element is to count one less and to return it: L-M-O-S-T are one step.
        Edge("L", "M", "yes", "mempool_alloc_reserved"),
        Edge("L", "N", "no", _NOT_RESERVED),
        Edge("M", "O", "", "mempool_alloc_reserved"),
        Edge("N", "P", "", _NOT_RESERVED),
        Edge("P", "Q", "yes", "mempool_alloc_allocator"),
        Edge("P", "R", "no", "mempool_alloc_empty"),
        Edge("O", "S", "", "mempool_alloc_reserved"),
        Edge("Q", "T", "", "mempool_alloc_allocator"),
        Edge("S", "T", "", "mempool_alloc_reserved"),
        Edge("R", "U", "", "mempool_alloc_failed"),
        Edge("V", "W", "", "mempool_free_reserved + mempool_free_allocator"),
        Edge("W", "X", "no", "mempool_free_reserved"),
        Edge("W", "Y", "yes", "mempool_free_allocator"),
        Edge("X", "Z", "", "mempool_free_reserved"),
        Edge("Y", "AA", "", "mempool_free_allocator"),
        Edge("Z", "BB", "", "mempool_free_reserved"),
        Edge("AA", "BB", "", "mempool_free_allocator"),
    ),
)
