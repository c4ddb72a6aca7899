"""
glibc bugs 19431, 16742 and 24161: fork and malloc wait for each other (fixed in 2.24 and 2.30, 2016 and 2019).

fork takes the locks of the standard library, so that the child finds them free. It took those of malloc before that of
the list of open files; who flushes all files has the list, and allocates.

    CPU 0 (fork)                            CPU 1 (fflush, getdelim)
    takes list_lock, all arenas
                                            takes the list of files
                                            allocates: waits for its arena
    waits for the list of files

Symptom: both wait for ever. Fix: malloc's fork handler is the last one before the fork, and the first one after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.params import M_ARENA_MAX
from concmem.user.process import UserProcess


class _Fork:
    """The locks that a fork takes."""

    def __init__(self, rt: ControlledRuntime, process: UserProcess) -> None:
        self.io_list_lock = rt.mutex("_IO_list_lock")
        self.arenas = process.heap.arenas

    @contextmanager
    def locked(self) -> Iterator[None]:
        """With all locks held, nobody is in the middle of anything."""
        with self.io_list_lock, self._malloc_locked():
            yield

    def _malloc_locked(self) -> ExitStack:
        """``__malloc_fork_lock_parent``: the list, and then each arena."""
        with ExitStack() as stack:
            for lock in (self.arenas.list_lock, *(arena.mutex for arena in self.arenas.ring())):
                stack.enter_context(lock)
            return stack.pop_all()


class _ArenasFirst(_Fork):
    """Takes malloc's locks and then the list of files."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._malloc_locked(), self.io_list_lock:
            yield


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One thread forks, another one flushes all files, for which it needs a buffer."""
    m = Machine(2, memory="4M", runtime=rt, classes={})
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)
    m.run([lambda: p.malloc(24)] * 2)
    fork = classes.get(_Fork, _Fork)(rt, p)

    def do_fork() -> None:
        with fork.locked():
            rt.cond_resched()

    def flush_all() -> None:
        with fork.io_list_lock:
            p.free(p.malloc(4096))

    return Program([do_fork, flush_all], p.validate_malloc, verify=m.verify)


BUG = Bug(
    name="fork-locks-arenas-first",
    number="G6",
    title="fork takes malloc's locks before those of others who allocate",
    fixed_by="glibc bugs 19431, 16742 (2.24) and 24161 (2.30)",
    subsystem="malloc",
    kind="lock order",
    depth=2,
    cpus=2,
    replaces={_Fork: _ArenasFirst},
    expect=frozenset({"deadlock", "lockdep"}),
    workload=_workload,
    witness="v1:3.0",
    executions={"pb": 12, "random": 20},  # random: nearly every execution
    note="the model has neither fork nor files: the program takes the locks that fork would, in its order",
)
