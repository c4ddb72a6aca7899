"""
88aa7cc688d4 ``mm: introduce arg_lock to protect arg_start|end and env_start|end in mm_struct`` (2018).

A semaphore for readers and writers, held by writers for reading: prctl changed brk and its like so for a time, so
two writers had the lock at once. Here it is ``brk`` itself that takes the wrong side.

    CPU 0 (brk)                             CPU 1 (brk)
    holds mmap_sem for reading              holds it too
    reads brk: b
                                            reads brk: b, maps what is behind it, stores the new one
    maps what is behind b, stores its own   ... where something is mapped already

Symptom: BUG_ON(arg_start > arg_end), limits that were checked against other values. Fix: a lock that writers own
(the write side; later a spinlock for the fields that need no more).
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.units import PAGE_SIZE


class _ReadSide(MmStruct):
    """``brk`` shares mmap_lock."""

    def _brk_lock(self) -> AbstractContextManager[object]:
        return self.mmap_lock.read()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two threads set the end of the heap, to the same place."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    end = p.mm.start_brk + PAGE_SIZE

    def check() -> None:
        assert p.mm.brk == end

    return Program([lambda: p.mm.sys_brk(end)] * 2, check, verify=m.verify)


BUG = Bug(
    name="brk-under-read-lock",
    number="B68",
    title="who changes the heap holds the lock for reading",
    fixed_by="88aa7cc688d4 mm: introduce arg_lock to protect arg_start|end and env_start|end in mm_struct (2018)",
    subsystem="mmap",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={MmStruct: _ReadSide},
    expect=frozenset({"AddressSpaceError", "DataRace"}),
    workload=_workload,
    witness="v1:1.0",
    executions={"pb": 10, "random": 20},  # random: nearly every execution
)
