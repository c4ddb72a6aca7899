"""
7f434e1d9a17 ``slab: Fix obj_ext mistakenly considered NULL due to race condition`` (2025).

The fix of 6ed8bfd24ce1 had a race of its own, in the same five lines: who got no memory, and did not store
the mark either since there was a vector by then, still reported that there is none.

    CPU 0                                   CPU 1
                                            gets no memory for a vector
    exchanges 0 for its vector
                                            mark: obj_exts is not 0, well
                                            returns -ENOMEM: its object has no tag

Symptom: "alloc_tag was not set" when the object is freed. Fix: look at obj_exts again.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug
from concmem.bugs.obj_exts_failure_stored import tag_while_memory_is_short
from concmem.mm.page import Page
from concmem.mm.slab_obj_ext import SlabObjExts


class _ReportsOwnFailure(SlabObjExts):
    """Says what this CPU could do, not what is there."""

    def _no_vector(self, slab: Page) -> bool:
        self._mark_failed(slab.obj_exts)
        return False


BUG = Bug(
    name="obj-exts-loser-fails",
    number="B17",
    title="a CPU without memory for a vector overlooks that another one has made it",
    fixed_by="7f434e1d9a17 slab: Fix obj_ext mistakenly considered NULL due to race condition",
    subsystem="slub",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={SlabObjExts: _ReportsOwnFailure},
    expect=frozenset({"KernelBug"}),
    workload=tag_while_memory_is_short,
    witness="v1:0.0,1.0",
    executions={"pb": 40, "pos": 50, "random": 300},  # seed 0: pb 18, pos 2, random 67
)
