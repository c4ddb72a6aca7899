"""
9471f1f2f502 ``Merge branch 'expand-stack'`` (2023), taken back: derived from the source, not reported as a bug.

munmap changes total_vm after it has downgraded mmap_lock. That is right because nobody else changes it while holding
the lock for reading. A stack that grows under the read lock, as before Linux 6.5, does; its page_table_lock, which
was enough for two stacks, is nothing to munmap.

    CPU 0 (munmap)                          CPU 1 (fault below a stack)
    downgrades mmap_lock
    reads total_vm: n
                                            page_table_lock: total_vm = n + 1
    stores n - 1                            ... the stack's page is not counted

Symptom: total_vm does not fit the VMAs: a lost update, made of two designs that are right one by one. Fix: a stack
grows under the write lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.units import PAGE_SIZE


class _Shared(MmStruct):
    """Grows with mmap_lock held for reading, and page_table_lock around the counters."""

    def _expand_stack(self, address: int, write: bool) -> None:
        with self.mmap_lock.read():
            self._handle_mm_fault(self._find_and_expand(address, write), address, write)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One thread unmaps a page, the other one's stack grows by one."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    mapped: list[int] = []

    def prepare() -> None:
        for more in (0, MAP_GROWSDOWN):
            address = p.mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, flags | more)
            assert address is not None
            mapped.append(address)

    m.run([prepare])
    return Program(
        [lambda: p.munmap(mapped[0], PAGE_SIZE), lambda: p.touch(mapped[1] - PAGE_SIZE)],
        verify=m.verify,
    )


BUG = Bug(
    name="accounting-after-downgrade",
    number="B81",
    title="a stack grows under the read lock while munmap, downgraded, uncounts its pages",
    fixed_by="none; right since 9471f1f2f502 Merge branch 'expand-stack' (2023)",
    subsystem="mmap",
    kind="lost update",
    depth=2,
    cpus=2,
    replaces={MmStruct: _Shared},
    expect=frozenset({"AddressSpaceError", "DataRace"}),
    workload=_workload,
    witness="v1:5.0",
    executions={"pb": 15, "random": 100},  # random: seeds 0 to 2 need 15 at the median
)
