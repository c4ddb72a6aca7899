"""
What makes it fast: caches of each CPU, filled and flushed in batches.

The requests at A and P are those of objects. The page sets of the CPUs do with pages what the chart shows
at its ends, for slabs and for everybody else, and come in there: at L when a batch of pages is fetched,
at V when one is given back because the set was full.

"Not matching" at Q is any free to a slab that is not the slab this CPU allocates from at the moment: one
of another CPU's, or one on a list.
"""

from __future__ import annotations

from typing import Final

from concmem.reports.flows.allocation import NO_PARTIAL, NOT_ON_CPU, ON_CPU
from concmem.reports.flows.flow import Edge, Flow
from concmem.reports.flows.free import SLAB_FREE

_SERVED: Final = f"{ON_CPU} + slab.alloc_from_partial + slab.alloc_slab"
# The CPU gets the whole free list of a slab, whatever was wanted; or its page set gets a batch.
_BATCH: Final = (
    "slab.alloc_refill + slab.cpu_partial_alloc + slab.alloc_from_partial + slab.alloc_slab"
    " + pcp.refill"
)
# CPU partial lists, and page sets but for those that a drain emptied.
_FLUSH: Final = "slab.cpu_partial_drain + pcp.flush - pcp.drain"
_NO_FLUSH: Final = f"{SLAB_FREE} - slab.cpu_partial_drain"

PERFORMANCE: Final = Flow(
    "performance",
    "Performance mechanisms",
    nodes={
        "A": "Memory allocation request",
        "B": "Per-CPU cache check?",
        "C": "Fast allocation",
        "D": "Node cache check",
        "E": "Allocate from the node",
        "F": "New slab allocation",
        "G": "Buddy system allocation",
        "H": "Page colour calculation",
        "I": "Slab initialization",
        "J": "Object allocation",
        "K": "Update statistics",
        "L": "Batch operation?",
        "M": "Batch prefetch",
        "N": "Return the object",
        "O": "Fill the per-CPU cache",
        "P": "Memory release request",
        "Q": "Local CPU check?",
        "R": "Local release",
        "S": "Cross-CPU release",
        "T": "Update the per-CPU cache",
        "U": "Update the node cache",
        "V": "Cache full?",
        "W": "Batch flush",
        "X": "Release complete",
        "Y": "Flush to the cache above",
        "Z": "Update statistics",
    },
    edges=(
        Edge("A", "B", "", "slab.alloc_fastpath + slab.alloc_slowpath"),
        Edge("B", "C", "hit", ON_CPU),
        Edge("B", "D", "miss", NOT_ON_CPU),
        Edge("D", "E", "hit", "slab.alloc_from_partial"),
        Edge("D", "F", "miss", NO_PARTIAL),
        Edge("F", "G", "", NO_PARTIAL),
        # The pages are there: the rest is done in one go. A cache may have one colour only.
        Edge("G", "H", "", "slab.alloc_slab"),
        Edge("H", "I", "", "slab.alloc_slab"),
        Edge("I", "J", "", "slab.alloc_slab"),
        Edge("C", "K", "", ON_CPU),
        Edge("E", "K", "", "slab.alloc_from_partial"),
        Edge("J", "K", "", "slab.alloc_slab"),
        Edge("K", "L", "", _SERVED),
        Edge("L", "M", "yes", _BATCH),
        Edge("L", "N", "no", "slab.alloc_fastpath"),
        # The batch is in the CPU's cache at once, and what was wanted is taken from there.
        Edge("M", "O", "", _BATCH),
        Edge("O", "N", "", _BATCH),
        Edge("P", "Q", "", SLAB_FREE),
        Edge("Q", "R", "matches", "slab.free_fastpath"),
        Edge("Q", "S", "does not match", "slab.free_slowpath"),
        Edge("R", "T", "", "slab.free_fastpath"),
        Edge("S", "U", "", "slab.free_slowpath"),
        # The free list of a CPU's slab has room for all its objects: it never is too full.
        Edge("T", "V", "", "slab.free_fastpath"),
        Edge("U", "V", "", "slab.free_slowpath"),
        Edge("V", "W", "full", _FLUSH),
        Edge("V", "X", "not full", _NO_FLUSH),
        Edge("W", "Y", "", _FLUSH),
        Edge("Y", "Z", "", _FLUSH),
        Edge("X", "Z", "", _NO_FLUSH),
    ),
)
