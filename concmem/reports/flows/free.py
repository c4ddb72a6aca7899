"""
Memory release, from ``free`` down to the merging of buddies.

A ``free`` is in the chart when it gives memory back to the kernel. Kernel code that frees enters at J;
whoever frees pages enters at P; blocks come to P from page sets, too, and that is when they look for
their buddies (Y).

R is asked when the list that a slab belongs on is decided: by a free to a slab that is no CPU's, and when
a CPU gives up slabs it kept. A free to a CPU's slab, its own or another's, ends at Q: such a slab is on no
list, whatever its state. No free fills a slab: R-U is taken when a CPU is done with a slab none of whose
objects is free.
"""

from __future__ import annotations

from typing import Final

from concmem.reports.flows.flow import Edge, Flow

_UNMAPPED: Final = "brk_shrink + munmap_region"
# One by one in the fast path, else objects that are linked, in a bulk free, as one.
SLAB_FREE: Final = "slab.free_fastpath + slab.free_slowpath"
_KFREE: Final = f"{SLAB_FREE} + kfree_large"

# Frees after which the slab stays on a list of partial ones (or comes to the CPU's), and slabs that a CPU
# gives back partly used.
_PARTIAL: Final = (
    "slab.free_slowpath - slab.free_frozen - slab_free_emptied"
    " + slab.deactivate_to_head + slab.deactivate_to_tail + slab_put_partial"
)
_EMPTY: Final = "slab_empty_kept + slab_empty_discarded"
_FULL: Final = "slab.deactivate_full + slab.deactivate_bypass"
# Each freed block ends with a buddy that is not free, or with the largest order.
_LISTED: Final = "buddy.free"

FREE: Final = Flow(
    "free",
    "Memory release",
    nodes={
        "A": "User calls free",
        "B": "Find the memory area",
        "C": "Memory type?",
        "D": "brk adjustment",
        "E": "munmap system call",
        "F": "sys_brk",
        "G": "sys_munmap",
        "H": "Shrink the heap",
        "I": "Remove the memory mapping",
        "J": "Kernel memory?",
        "K": "kfree call",
        "L": "Release complete",
        "M": "Find the page",
        "N": "Page type?",
        "O": "slab_free",
        "P": "Release to the buddy system",
        "Q": "Put back on the freelist",
        "R": "Slab state?",
        "S": "Stays on the partial list",
        "T": "Move to the free list",
        "U": "Move to the full list",
        "V": "Reclaim needed?",
        "W": "Release to the buddy system",
        "X": "Keep for later use",
        "Y": "Find the buddy block",
        "Z": "Buddy free?",
        "AA": "Merge with the buddy",
        "AB": "Add to the freelist",
        "AC": "Can merge further?",
        "AD": "Update statistics",
        "AE": "Release complete",
    },
    edges=(
        Edge("A", "B", "", "user_free_heap + user_free_mapped"),
        Edge("B", "C", "", "user_free_heap + user_free_mapped"),
        Edge("C", "D", "heap memory", "user_free_heap"),
        Edge("C", "E", "mapped memory", "user_free_mapped"),
        # Of the brk calls those that shrink: the others belong to the other chart.
        Edge("D", "F", "", "brk_shrink"),
        Edge("E", "G", "", "sys_munmap"),
        Edge("F", "H", "", "brk_shrink"),
        Edge("G", "I", "", "munmap_region"),
        Edge("H", "J", "", "brk_shrink"),
        Edge("I", "J", "", "munmap_region"),
        Edge("J", "K", "yes", _KFREE),
        Edge("J", "L", "no", _UNMAPPED),
        Edge("K", "M", "", _KFREE),
        Edge("M", "N", "", _KFREE),
        Edge("N", "O", "slab page", SLAB_FREE),
        Edge("N", "P", "ordinary page", "kfree_large"),
        Edge("O", "Q", "", SLAB_FREE),
        Edge("Q", "R", "", f"{_PARTIAL} + {_EMPTY} + {_FULL}"),
        Edge("R", "S", "partly full", _PARTIAL),
        Edge("R", "T", "empty", _EMPTY),
        Edge("R", "U", "full", _FULL),
        # Asked once more of a slab that was kept, when the cache is shrunk.
        Edge("T", "V", "", "slab_empty_kept + slab.free_slab"),
        Edge("V", "W", "yes", "slab.free_slab"),
        Edge("V", "X", "no", "slab_empty_kept"),
        Edge("P", "Y", "", "buddy.free"),
        # Each merge is one buddy found free; the last search of a block finds none, unless it is
        # as large as a block can be.
        Edge("Y", "Z", "", "buddy.merge + buddy.free - buddy.merged_whole"),
        Edge("Z", "AA", "yes", "buddy.merge"),
        Edge("Z", "AB", "no", "buddy.free - buddy.merged_whole"),
        Edge("AA", "AC", "", "buddy.merge"),
        Edge("AC", "Y", "yes", "buddy.merge - buddy.merged_whole"),
        Edge("AC", "AB", "no", "buddy.merged_whole"),
        Edge("S", "AD", "", _PARTIAL),
        Edge("W", "AD", "", "slab.free_slab"),
        Edge("AB", "AD", "", _LISTED),
        Edge("X", "AD", "", "slab_empty_kept"),
        Edge("U", "AD", "", _FULL),
        Edge("L", "AE", "", _UNMAPPED),
        Edge(
            "AD",
            "AE",
            "",
            f"{_PARTIAL} + slab.free_slab + {_LISTED} + slab_empty_kept + {_FULL}",
        ),
    ),
)
