"""
glibc bug 20370 ``malloc: Arena free list management is still racy`` (fixed in 2.24, 2016).

An arena that is shared, since there are enough of them, was picked from the ring of all arenas, on which it is
whether it is free or not; and it stayed on the list of free ones.

    CPU 0 (new thread)                      CPU 1 (thread ends)                  CPU 2 (new thread)
    nothing on free_list, limit reached
                                            arena: 1 -> 0 threads, -> free_list
    reused_arena: takes it, 1 thread
                                                                                 pops it: it has a thread

Symptom: ``assert (result->attached_threads == 0)`` fails. Fix: what is picked from the ring leaves the free list,
under its lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.arena import Arenas
from concmem.user.malloc_state import MallocState
from concmem.user.params import M_ARENA_MAX


class _StaysFree(Arenas):
    """Leaves the arena where it is."""

    def _remove_from_free_list(self, arena: MallocState) -> None:
        pass


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """There is one arena, whose thread ends while two others begin."""
    m = Machine(3, memory="4M", runtime=rt, classes=classes)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)

    def use() -> None:
        assert p.malloc(24)

    m.run([None, use])

    def check() -> None:
        p.validate_malloc()
        m.verify()

    return Program([use, p.thread_exit, use], check)


BUG = Bug(
    name="reused-arena-stays-free",
    number="G2",
    title="an arena that is shared stays on the list of free ones",
    fixed_by="glibc bug 20370 malloc: Arena free list management is still racy (2.24)",
    subsystem="malloc",
    kind="list corruption",
    depth=3,
    cpus=3,
    replaces={Arenas: _StaysFree},
    expect=frozenset({"HeapError", "HeapCorruption"}),
    workload=_workload,
    witness="v1:2.0",
    executions={"pb": 25, "random": 20},  # random: nearly every execution
)
