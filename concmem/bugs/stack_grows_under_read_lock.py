"""
Reported as 4128997b5f0e ``mm: protect against concurrent vma expansion`` (2012).

Before Linux 6.5 a stack grew in a page fault, with mmap_sem shared. The lock of its anon_vma kept other faults in
the same VMA away, but not those that grew another VMA of the process.

    CPU 0 (fault below its stack)           CPU 1 (fault below its own)
    holds mmap_sem for reading              holds it too
    reads total_vm: n
                                            reads total_vm: n
                                            stores n + 1
    stores n + 1                            ... one page is not counted

Symptom: counters, and the tree of gaps, that do not fit the VMAs. Fix: page_table_lock around what is shared; since
6.5 a stack grows under the write lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.mm.vma import Vma
from concmem.units import PAGE_SIZE


class _Shared(MmStruct):
    """Grows with mmap_lock held for reading, and nothing else."""

    def _expand_stack(self, address: int, write: bool) -> None:
        with self.mmap_lock.read():
            self._handle_mm_fault(self._find_and_expand(address, write), address, write)

    def _acct_stack_growth(self, vma: Vma, address: int, pages: int) -> None:
        self.vm_stat_account(vma.vm_flags, pages)
        self.vmas.set_start(vma, address)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two threads, each with a stack, each of which grows by a page."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN
    stacks: list[int] = []

    def prepare() -> None:
        for _ in range(2):
            stack = p.mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, flags)
            assert stack is not None
            stacks.append(stack)

    m.run([prepare])
    return Program(
        [lambda: p.touch(stacks[0] - PAGE_SIZE), lambda: p.touch(stacks[1] - PAGE_SIZE)],
        verify=m.verify,
    )


BUG = Bug(
    name="stack-grows-under-read-lock",
    number="B49",
    title="two stacks of a process grow at once, and both change the counters",
    fixed_by="reported as 4128997b5f0e mm: protect against concurrent vma expansion (2012)",
    subsystem="mmap",
    kind="lost update",
    depth=2,
    cpus=2,
    replaces={MmStruct: _Shared},
    expect=frozenset({"AddressSpaceError", "DataRace"}),
    workload=_workload,
    witness="v1:8.0",
    executions={"pb": 20, "random": 40},  # random: seeds 0 to 2 need 2 at the median
)
