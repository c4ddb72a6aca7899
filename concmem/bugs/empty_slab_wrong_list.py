"""
Reported as 6fbabb20faa4 ``slub: Fix full list corruption if debugging is on`` (2011).

A slab with one object goes from full to empty in one step. It was taken off the list of partial slabs, but
it is on the list of full ones.

    CPU 0 alone
    fills slabs of one object: they are on the full list
    frees an object: inuse is 0, so "it was partial"
    nr_partial is one less; the slab leaves the full list without being counted

Symptom: list corruption, nr_partial off by one. Fix: what had no free object before comes off the full
list.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.page import Page


class _WrongList(KmemCacheNode):
    """Takes what is empty now off the partial list, whatever it was before."""

    __slots__ = ()

    def remove_full(self, slab: Page) -> None:
        if slab.inuse:
            super().remove_full(slab)
        else:
            self.remove_partial(slab)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU allocates and frees objects that have a slab each."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    cache = m.kmem_cache_create("objects", 65536)  # one in a slab

    def body() -> None:
        objects = [cache.alloc() for _ in range(3)]
        for address in objects:
            assert address is not None
            cache.free(address)

    return Program([body], m.verify)


BUG = Bug(
    name="empty-slab-wrong-list",
    number="B12",
    title="a slab that goes from full to empty is taken off the list of partial ones",
    fixed_by="reported as 6fbabb20faa4 slub: Fix full list corruption if debugging is on",
    subsystem="slub",
    kind="list corruption",
    depth=1,
    cpus=1,
    replaces={KmemCacheNode: _WrongList},
    expect=frozenset({"SlabError"}),
    workload=_workload,
    witness="v1:",
    executions={"random": 1, "pb": 1},  # every execution shows it
)
