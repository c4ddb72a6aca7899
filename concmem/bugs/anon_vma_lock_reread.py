"""
Reported as 12352d3cae2c ``mm: replace vma_lock_anon_vma with anon_vma_lock_read/write`` (2016).

Growing a stack locked the VMA's anon_vma "if there is one", and unlocked it "if there is one".

    CPU 0 (fault below the stack)           CPU 1 (fault in the stack)
    no anon_vma: takes no lock
                                            gives the VMA an anon_vma
    an anon_vma: unlocks it                 ... which nobody has locked

Symptom: a semaphore that is free twice. Fix: make sure that there is an anon_vma first, and lock it always.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.mm_struct import MmStruct
from concmem.mm.mman import MAP_ANONYMOUS, MAP_GROWSDOWN, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.mm.vma import Vma
from concmem.units import PAGE_SIZE


class _IfThere:
    """``vma_lock_anon_vma`` and ``vma_unlock_anon_vma``."""

    def __init__(self, vma: Vma) -> None:
        self._vma = vma

    def __enter__(self) -> None:
        if self._vma.anon_vma is not None:
            self._vma.anon_vma.rwsem.write().__enter__()

    def __exit__(self, *error: object) -> None:
        if self._vma.anon_vma is not None:
            self._vma.anon_vma.rwsem.write().__exit__(None, None, None)


class _Rereads(MmStruct):
    """Grows with mmap_lock held for reading, as it was then, and locks what there is."""

    def _expand_stack(self, address: int, write: bool) -> None:
        with self.mmap_lock.read():
            self._handle_mm_fault(self._find_and_expand(address, write), address, write)

    def _lock_anon_vma(self, vma: Vma) -> _IfThere:
        return _IfThere(vma)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A stack that nobody has used grows, while its first page is written to."""
    m = Machine(2, memory="4M", runtime=rt, classes=classes)
    p = m.process()
    stack: list[int] = []

    def prepare() -> None:
        flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN
        stack.append(p.mmap(PAGE_SIZE, PROT_READ | PROT_WRITE, flags) or 0)

    m.run([prepare])
    return Program(
        [lambda: p.touch(stack[0] - PAGE_SIZE), lambda: p.touch(stack[0])], verify=m.verify
    )


BUG = Bug(
    name="anon-vma-lock-reread",
    number="B50",
    title="a lock that is taken if it exists comes to exist before it is given up",
    fixed_by="reported as 12352d3cae2c mm: replace vma_lock_anon_vma with anon_vma_lock_read/write (2016)",
    subsystem="mmap",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={MmStruct: _Rereads},
    expect=frozenset({"LockMisuse"}),
    workload=_workload,
    witness="v1:4.0",
    executions={"pb": 15},
)
