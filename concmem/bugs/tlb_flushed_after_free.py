"""
eb66ae030829 ``mremap: properly flush TLB before releasing the page`` (2018, CVE-2018-18281).

A page was freed while another CPU's TLB could still lead to it, since the flush came later.

    CPU 0 (unmaps)                          CPU 1
                                            has found the page, is in the access
    clears the entry, frees the page
                                            reads what is free, or already somebody else's
    flushes

Symptom: a process reads, or writes, memory of others. Fix: flush before the page can be freed.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.errors import SegmentationFault
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.mm.page import Page
from concmem.units import PAGE_SIZE


class _FlushesLast(MmStruct):
    """Frees, and then waits for those who are in an access."""

    def _tlb_finish(self, gather: list[Page], tables: list[Page]) -> None:
        self._free_gathered(gather, tables)
        self._flush_tlb()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 unmaps a page, CPU 1 reads it, slowly."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    read = m.memory.read
    base: list[int] = []

    def prepare() -> None:
        address = p.mmap(PAGE_SIZE)
        assert address is not None
        p.write(address, b"mine")
        base.append(address)

    m.run([prepare])

    def read_slowly(address: int, nr_bytes: int) -> bytes:
        rt.cond_resched()  # in the middle of the instruction, so to speak
        assert m.virt_to_page(address).is_allocated(), f"{address:#x} is read, but free"
        return read(address, nr_bytes)

    m.memory.read = read_slowly  # type: ignore[method-assign]

    def use() -> None:
        try:
            assert p.read(base[0], 4) == b"mine"
        except SegmentationFault:
            pass

    return Program([lambda: p.munmap(base[0], PAGE_SIZE), use], verify=m.verify)


BUG = Bug(
    name="tlb-flushed-after-free",
    number="B55",
    title="pages are freed before the TLBs forget them",
    fixed_by="eb66ae030829 mremap: properly flush TLB before releasing the page (2018)",
    subsystem="mmap",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={MmStruct: _FlushesLast},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1, "random": 200},  # random: seeds 0 and 1 need 28 and 61
    note="munmap stands for mremap, and an access that is under way for an entry of the TLB",
)
