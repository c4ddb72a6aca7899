"""
glibc bug 22408 ``malloc_info access heaps without arena lock, ignores heaps`` (fixed in 2.27, 2017).

The report of an arena was made without its mutex.

    CPU 0 (malloc_info)                     CPU 1
    adds up what is free
                                            takes a chunk out of a bin, or trims a heap
    follows a chain that has changed        ... into memory that is not there any more

Symptom: a segmentation fault, or numbers that do not fit. Fix: the mutex of each arena while it is read.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.malloc_info import MallocInfo
from concmem.user.malloc_state import MallocState
from concmem.user.params import M_ARENA_MAX


class _Unlocked(MallocInfo):
    """Reads while others change."""

    def _read(self, av: MallocState) -> tuple[int, int, int, int, int, int]:
        return self._of_arena(av)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One thread asks for the numbers, another one allocates."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)

    def prepare() -> None:
        chunks = [p.malloc(1200) for _ in range(3)]
        p.free(chunks[1])

    m.run([prepare, lambda: p.malloc(24)])
    return Program([p.mallinfo, lambda: p.malloc(1200)], verify=m.verify)


BUG = Bug(
    name="malloc-info-unlocked",
    number="G5",
    title="mallinfo reads an arena without its mutex",
    fixed_by="glibc bug 22408 malloc_info access heaps without arena lock, ignores heaps (2.27)",
    subsystem="malloc",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={MallocInfo: _Unlocked},
    expect=frozenset({"DataRace", "HeapCorruption"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1, "random": 1},  # every execution
)
