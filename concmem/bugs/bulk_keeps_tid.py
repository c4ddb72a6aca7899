"""
fd4d9c7d0c71 ``mm: slub: add missing TID bump in kmem_cache_alloc_bulk()`` (2020).

A bulk allocation stored the CPU's free list and left the transaction id as it was. When it took more than
there was, the slow path enabled interrupts before it brought a new id.

    CPU 0                                   others on CPU 0
    free list A.., tid t                    (a task in a fast path has read A and t)
    alloc_bulk: takes all, tid still t
    enables interrupts to get pages
                                            see tid t, and another free list

Symptom: a fast path that was interrupted takes the list for the one it saw; objects lost, or handed out
twice. Fix: a new id with the new list.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.slub_bulk import SlubBulk


class _KeepsTid(SlubBulk):
    """Stores the free list alone."""

    @staticmethod
    def _store_freelist(c: KmemCacheCpu, freelist: int) -> None:
        c.freelist_tid.first = freelist


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU allocates more than its slab has; its interrupt looks whether the same tid is the same list."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 8192)  # four in a slab
    seen: dict[int, int] = {}

    def look() -> None:
        pair = cache.cpu_slab.this().freelist_tid
        tid, freelist = pair.second, pair.first
        assert seen.setdefault(tid, freelist) == freelist, f"two free lists with the tid {tid}"

    def prepare() -> None:
        cache.alloc()
        look()

    m.run([prepare])
    return Program([lambda: cache.alloc_bulk(4)], m.verify, interrupts=[(0, look)])


BUG = Bug(
    name="bulk-keeps-tid",
    number="B02",
    title="a bulk allocation changes the free list and keeps its transaction id",
    fixed_by="fd4d9c7d0c71 mm: slub: add missing TID bump in kmem_cache_alloc_bulk()",
    subsystem="slub",
    kind="aba",
    depth=2,
    cpus=1,
    replaces={SlubBulk: _KeepsTid},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:8.0",
    executions={"pb": 10, "random": 50},  # seeds 0 to 7: 4 at the median with random
    note="Every path that fills a free list has a new tid, as in 6.12, so here nobody profits from the old "
    "one: the rule itself is what the workload watches.",
)
