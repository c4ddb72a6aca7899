"""
glibc bug 15073: race condition in the checks of ``_int_free`` (fixed in 2.18, 2013).

free pushes to a fastbin without the arena's mutex, and then checked the size of the chunk that had been the head,
which others may have had by then.

    CPU 0 (free)                            CPU 1
    pushes its chunk in front of A
                                            allocates that chunk and A, writes to A
    reads the size of A                     ... or merges it with its neighbours

Symptom: ``invalid fastbin entry (free)``, though nothing is wrong. Fix: that check is made with the mutex held only.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.int_free import IntFree
from concmem.user.params import M_ARENA_MAX


class _Checks(IntFree):
    """Checks with and without the mutex."""

    def _check_old_head(self, old: int, index: int, locked: bool) -> None:
        if old:
            self._check_fastbin_entry(old, index)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 frees a small chunk behind another one; CPU 1 has all small chunks merged."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)
    chunks: list[int] = []

    def prepare() -> None:
        chunks.extend(p.malloc(24) or 0 for _ in range(12))
        for index in (*range(5, 12), 3, 2):  # seven fill the tcache
            p.free(chunks[index])

    m.run([prepare])

    def check() -> None:
        p.validate_malloc()
        m.verify()

    return Program([lambda: p.free(chunks[0]), lambda: p.malloc(2000)], check)  # consolidates


BUG = Bug(
    name="fastbin-head-checked-unlocked",
    number="G4",
    title="free checks a chunk that is somebody else's by now",
    fixed_by="glibc bug 15073 (2.18)",
    subsystem="malloc",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={IntFree: _Checks},
    expect=frozenset({"HeapCorruption"}),
    workload=_workload,
    witness="v1:10.0",
    executions={"pb": 30},
    note="a false report of a check: nothing is damaged",
)
