"""
782e41795359 ``mm/kmemleak: fix UAF bug in kmemleak_scan()`` (2022).

A scan that lets others run keeps a reference to the object that it is at, and goes on from it. Where that leads
is another matter: it was taken off the list meanwhile, and what it points to was freed.

    CPU 0 (scans)                           CPU 1
    is at A, whose next is B
    takes a reference to A, leaves RCU
                                            frees A: off the list; A.next is still B
                                            frees B, and a grace period ends
    follows A.next to B                     ... which is free

Symptom: a use after free. Fix: begin again if A is gone; in 6.12 A stays on the list while the scan sleeps at it.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.mm.debug.kmemleak_object import KmemleakObject


class _CursorKept(Kmemleak):
    """Has a reference where it sleeps, and no more; and sleeps at each object, so that it is seen."""

    def _need_resched(self) -> bool:
        return True

    def _cond_resched(self, obj: KmemleakObject) -> None:
        if self._get_object(obj):
            self._rcu.read_unlock()
            self._rt.cond_resched()
            self._rcu.read_lock()
            self._put_object(obj)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 scans, CPU 1 frees neighbours."""
    m = Machine(2, memory="4M", runtime=rt, kmemleak=True, classes=classes)
    blocks: list[int] = []
    m.run([lambda: blocks.extend(m.kmalloc(64) or 0 for _ in range(9))])

    def free() -> None:
        for block in blocks[:8]:
            m.kfree(block)
        m.rcu.rcu_barrier()

    return Program([lambda: m.kmemleak.scan(), free], verify=m.verify)


BUG = Bug(
    name="kmemleak-cursor-kept",
    number="B40",
    title="a scan goes on from an object that has left the list",
    fixed_by="782e41795359 mm/kmemleak: fix UAF bug in kmemleak_scan() (2022)",
    subsystem="kmemleak",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={Kmemleak: _CursorKept},
    expect=frozenset({"ListCorruption"}),
    workload=_workload,
    witness="v1:287.0,420.0,423.0,424.0,426.0,427.0,429.0,430.0,432.0,433.0,436.0,437.0",
    executions={"pos": 80, "pct": 300},  # pos, pct: seeds 0 to 3 need 10 and 15 at the median
)
