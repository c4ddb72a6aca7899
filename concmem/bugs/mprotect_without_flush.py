"""
3ea277194daa ``mm, mprotect: flush TLB if potentially racing with a parallel reclaim leaving stale TLB entries`` (2017).

mprotect returned though a TLB still let others write: it found no entry to change, since reclaim had cleared it
and was going to flush later.

    CPU 0                                   CPU 1 (mprotect)
    has found the page writable
                                            takes the right to write away, and returns without a flush
                                            reads the page
    writes to the page                      ... which changes after it was protected

Symptom: memory changes that nobody may write to. Fix: whoever finds that a flush is pending does it
(flush_tlb_batched_pending, under the page table lock).
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.errors import SegmentationFault
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import PROT_READ
from concmem.units import PAGE_SIZE


class _NoFlush(MmStruct):
    """Thinks that somebody else flushes."""

    def _flush_protection(self) -> None:
        pass


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 1 protects a page and looks at it; CPU 0 writes to it, slowly."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    write = m.memory.write
    base: list[int] = []
    seen: list[bytes] = []

    def prepare() -> None:
        address = p.mmap(PAGE_SIZE)
        assert address is not None
        p.write(address, b"old")
        base.append(address)

    m.run([prepare])

    def write_slowly(address: int, data: bytes) -> None:
        rt.cond_resched()  # in the middle of the instruction, so to speak
        write(address, data)

    m.memory.write = write_slowly  # type: ignore[method-assign]

    def change() -> None:
        try:
            p.write(base[0], b"new")
        except SegmentationFault:
            pass

    def protect() -> None:
        p.mprotect(base[0], PAGE_SIZE, PROT_READ)
        seen.append(p.read(base[0], 3))

    def check() -> None:
        now = m.run([lambda: p.read(base[0], 3)])
        assert now == seen, f"{seen[0]!r} has become {now[0]!r}, which nobody may write"

    return Program([change, protect], check, verify=m.verify)


BUG = Bug(
    name="mprotect-without-flush",
    number="B52",
    title="mprotect returns while others may still write",
    fixed_by="3ea277194daa mm, mprotect: flush TLB if potentially racing with a parallel reclaim (2017)",
    subsystem="mmap",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={MmStruct: _NoFlush},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:0.0",
    executions={"pb": 5},
    note="there is no reclaim of a process's pages, whose flush is pending: the flush is missing altogether",
)
