"""
No commit: "Do not reread slab->inuse" in ``__kmem_cache_do_shrink`` of ``mm/slub.c``, Linux 6.12.

A shrink sorts slabs by how many of their objects are free. If it reads the count again after the test, the
count may have grown: a free that makes the slab neither empty nor partly free takes no lock.

    CPU 0                                   CPU 1
    shrink, list_lock held: 32 are free,
    which is the most that are sorted
                                            frees an object of the slab
    puts the slab into bucket 33 of 32

Symptom: the slab goes past the end of an array on the stack. Fix: read once, and keep the compiler from
reading again.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.slab_common import SHRINK_PROMOTE_MAX, SlabCommon


class _RereadsInuse(SlabCommon):
    """Counts the free objects again after the test."""

    @staticmethod
    def _promote(promote: list[list[Page]], free: int, slab: Page) -> None:
        promote[SlabCommon._nr_free(slab) - 1].append(slab)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU shrinks a cache with a slab that has just as many free objects as are sorted; another frees."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 112)
    objects: list[int] = []

    def prepare() -> None:
        objects.extend(cache.alloc_bulk(cache.objs_per_slab))
        cache.free_bulk([objects.pop() for _ in range(SHRINK_PROMOTE_MAX)])

    m.run([prepare])
    return Program([cache.shrink, lambda: cache.free(objects[0])], m.verify)


BUG = Bug(
    name="shrink-rereads-inuse",
    number="B11",
    title="a shrink reads twice how many objects of a slab are in use",
    fixed_by='no commit; "Do not reread slab->inuse" in mm/slub.c of 6.12',
    subsystem="slub",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={SlabCommon: _RereadsInuse},
    expect=frozenset({"IndexError"}),
    workload=_workload,
    witness="v1:59.0",
    executions={"pb": 100},  # needs 61; pct: 165 at the median of several seeds
)
