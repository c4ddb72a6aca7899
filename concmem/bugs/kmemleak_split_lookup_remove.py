"""
Reported as e781a9ab4847 ``mm: kmemleak: fix delete_object_*() race when called on the same memory block`` (2015).

The object of a block was looked up in one critical section and removed in another.

    CPU 0 (frees part of a block)           CPU 1 (frees the rest)
    finds the object, takes a reference
                                            finds it, too
    removes it from the tree
                                            removes it from the tree, again

Symptom: a search tree that is torn. Fix: find and remove under one hold of kmemleak_lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.debug.kmemleak_object import KmemleakObject


class _Split(Kmemleak):
    """Lets go of the lock between looking up and removing."""

    def _find_and_remove_object(self, pointer: int, alias: bool) -> KmemleakObject | None:
        obj = self._find_and_get_object(pointer, alias)
        if obj is not None:
            with self.kmemleak_lock:
                self._remove_object(obj)
            self._put_object(obj)
        return obj


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs say that one block is freed: one of them finds it."""
    m = Machine(2, memory="4M", runtime=rt, kmemleak=True, classes=classes)
    kmemleak = m.kmemleak
    base: list[int] = []

    def prepare() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        base.append(m.page_address(page))
        kmemleak.alloc(base[0], 64)

    m.run([prepare])
    return Program([lambda: kmemleak.free(base[0])] * 2, verify=m.verify)


BUG = Bug(
    name="kmemleak-split-lookup-remove",
    number="B38",
    title="two CPUs find the object of one block, and both remove it",
    fixed_by="reported as e781a9ab4847 mm: kmemleak: fix delete_object_*() race when called on the same block (2015)",
    subsystem="kmemleak",
    kind="list corruption",
    depth=2,
    cpus=2,
    replaces={Kmemleak: _Split},
    expect=frozenset({"KernelBug"}),
    workload=_workload,
    witness="v1:4.0",
    executions={"pb": 40, "pct": 40},  # pct: seeds 0 and 1 need 5
)
