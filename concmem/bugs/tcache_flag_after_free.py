"""
glibc bug 22111 ``per thread cache is not returned when thread exits`` (fixed in 2.27, 2017).

A thread that ends frees what is in its cache, and says that it is ending, so that nobody makes it a new one. It said
so last.

    CPU 0 (thread ends)
    has no cache any more
    frees the first chunk of the old one: makes a new cache for it
    frees the others, into the new cache
    says that it is ending                  ... and the new cache is lost with what is in it

Symptom: a leak, of a cache and its chunks for each thread. Fix: say it first.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.user.tcache import ThreadCache
from concmem.user.thread import Thread


class _FlagLast(ThreadCache):
    """Says that the thread is ending when all is done."""

    def tcache_thread_shutdown(self, thread: Thread) -> None:
        self._free_all(thread)
        thread.shutting_down = True


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A thread frees a chunk and ends. Everything it had is the arena's again."""
    m = Machine(memory="4M", runtime=rt, classes=classes)
    p = m.process()

    def live_and_end() -> None:
        p.free(p.malloc(24))
        p.thread_exit()

    def check() -> None:
        p.validate_malloc()
        thread = p.heap.libc.threads.of(0)
        assert not thread.tcache_mem, "the thread has ended and has a cache"

    return Program([live_and_end], check, verify=m.verify)


BUG = Bug(
    name="tcache-flag-after-free",
    number="G7",
    title="a thread that ends makes itself a new cache",
    fixed_by="glibc bug 22111 per thread cache is not returned when thread exits (2.27)",
    subsystem="malloc",
    kind="leak",
    depth=1,
    cpus=1,
    replaces={ThreadCache: _FlagLast},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1},  # every execution
    note="one thread is enough: the order of two statements, not of two CPUs",
)
