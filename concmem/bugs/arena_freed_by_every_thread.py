"""
glibc bug 19048 ``malloc: arena free list can become cyclic, increasing contention`` (fixed in 2.23, 2015).

A thread that ended put its arena on the list of free arenas, though others still used it.

    CPU 0 (thread ends)                     CPU 1 (thread ends, same arena)
    arena -> free_list
                                            arena -> free_list, again: its next is itself

Symptom: a list without an end, and all new threads on one arena. Fix: arenas count their threads, and only the last
one puts it on the list.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.arena import Arenas
from concmem.user.malloc_state import MallocState
from concmem.user.params import M_ARENA_MAX


class _EveryThread(Arenas):
    """Calls each thread that ends the last one."""

    def _last_thread_detached(self, arena: MallocState) -> bool:
        super()._last_thread_detached(arena)
        return True


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two threads share the main arena; one of them ends."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)

    def use() -> None:
        p.free(p.malloc(24))

    m.run([use, use])

    def check() -> None:
        p.validate_malloc()
        m.verify()

    return Program([p.thread_exit, use], check)


BUG = Bug(
    name="arena-freed-by-every-thread",
    number="G1",
    title="a thread that ends frees an arena that others use",
    fixed_by="glibc bug 19048 malloc: arena free list can become cyclic, increasing contention (2.23)",
    subsystem="malloc",
    kind="list corruption",
    depth=1,
    cpus=2,
    replaces={Arenas: _EveryThread},
    expect=frozenset({"HeapError"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1, "random": 1},  # every execution
)
