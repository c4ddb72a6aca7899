"""
Every position of one operation of another thread in one operation.

The operation runs on CPU 0 under a runtime that stops at every scheduling point. At the k-th of them, for
every k at which no lock is held that the other might want, CPU 1 does something of its own. Afterwards
the heap is as it should be, and everybody has what he has. This is exhaustive for one interruption; the planted
bugs show that it finds what it should.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem.errors import HeapCorruption, HeapError
from concmem.runtime.cpu import Cpu
from concmem.runtime.jitter import JitterRuntime
from concmem.user.arena import Arenas
from concmem.user.int_free import IntFree
from concmem.user.malloc_info import MallocInfo
from concmem.user.params import M_ARENA_MAX

from .helpers import World
from .points import Kth, PointRuntime
from .test_malloc_planted import (
    CheckPoppedHead,
    InfoWithoutArenaLock,
    ReusedArenaKeepsFreelistEntry,
)


class Shared(World):
    """Two threads that share one arena, and the chunks that the test holds."""

    def __init__(self, rt: JitterRuntime, **options: Any) -> None:
        super().__init__(rt, **options)
        self.m.mallopt(M_ARENA_MAX, 1)
        self.held: list[int] = []

    def alloc(self, size: int = 24, nr: int = 1) -> None:
        for _ in range(nr):
            address = self.m.malloc(size)
            assert address is not None
            assert address not in self.held
            self.held.append(address)

    def release(self, which: int = 0) -> None:
        self.m.free(self.held.pop(which))

    def is_quiet(self, _: Cpu) -> bool:
        """Nobody holds a lock."""
        arenas = self.m.arenas
        locks = [arenas.list_lock, arenas.free_list_lock, self.p._lock]
        return not any(lock.locked() for lock in [*locks, *(a.mutex for a in arenas.ring())])

    def check_all(self) -> None:
        self.check()
        assert self.m.memory.live() == sorted(self.held)


Step = Callable[[Shared], None]


# -- what threads do


def free_small(w: Shared) -> None:
    w.release()


def free_two(w: Shared) -> None:
    w.release()
    w.release()


def malloc_small(w: Shared) -> None:
    w.alloc()


def consolidate(w: Shared) -> None:
    w.alloc(3000)
    w.release(-1)


def malloc_large(w: Shared) -> None:
    w.alloc(300_000)


def free_last_large(w: Shared) -> None:
    w.alloc(300_000)
    w.release(-1)


def calloc_small(w: Shared) -> None:
    address = w.m.calloc(3, 8)
    assert address is not None
    w.held.append(address)


def mallinfo(w: Shared) -> None:
    before = list(w.held)
    info = w.m.mallinfo()
    kept = set(before) & set(w.held)  # in use all the time
    in_use = sum((w.p.peek(address - 8) or 0) & ~7 for address in kept)
    assert in_use <= info.uordblks <= info.arena


def exit_thread(w: Shared) -> None:
    w.m.thread_exit()


def exit_and_return(w: Shared) -> None:
    w.m.thread_exit()
    w.alloc()


OTHERS: list[Step] = [
    free_two,
    malloc_small,
    consolidate,
    free_last_large,
    exit_thread,
    exit_and_return,
]
OPERATIONS: list[Step] = [free_small, malloc_small, calloc_small, consolidate, malloc_large]
OPERATIONS += [mallinfo, exit_thread, exit_and_return]


def run_one(operation: Step, other: Step, k: int, **options: Any) -> bool:
    """One run; whether the operation has a k-th point at which no lock is held."""
    rt = PointRuntime(2)
    try:
        w = Shared(rt, **options)
        w.on(lambda: w.alloc(nr=12))
        w.on(lambda: w.alloc(nr=12), cpu=1)
        for _ in range(4):
            w.on(w.release, 1)
            w.on(w.release, -1, cpu=1)
        kth = Kth(k, lambda _: w.on(lambda: other(w), cpu=1), w.is_quiet)

        def body() -> None:
            rt.at_point = kth
            try:
                operation(w)
            finally:
                rt.at_point = None

        w.on(body)
        w.check_all()
        for address in w.held:
            w.free(address)
        w.held.clear()
        for cpu in (0, 1):
            w.on(w.m.thread_exit, cpu=cpu)
        w.check_all()
        return kth.done
    finally:
        rt.shutdown()


def run_all(operation: Step, other: Step, **options: Any) -> int:
    """Every k; how many there are."""
    k = 0
    while run_one(operation, other, k, **options):
        k += 1
        assert k < 1000
    return k


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_another_thread_anywhere(operation: Step, other: Step) -> None:
    """With tcaches only few steps are open to others; without, pushes to fastbins are."""
    nr = run_all(operation, other, tcache=False)
    assert nr > 0


@pytest.mark.parametrize("other", [consolidate, exit_and_return])
@pytest.mark.parametrize("operation", [malloc_large, exit_and_return])
def test_another_thread_anywhere_with_tcaches(operation: Step, other: Step) -> None:
    assert run_all(operation, other) > 0


def count_failures(operation: Step, other: Step, error: type[Exception], **options: Any) -> int:
    """At how many points the other thread makes it fail."""
    failures = k = 0
    while True:
        try:
            if not run_one(operation, other, k, **options):
                return failures
        except error:
            failures += 1
        k += 1
        assert k < 1000


def test_the_check_of_the_old_head_is_found() -> None:
    """Bug 15073: at some point, a consolidation by the other thread makes it a false report."""
    options = {"tcache": False, "classes": {IntFree: CheckPoppedHead}}
    assert count_failures(free_small, consolidate, HeapCorruption, **options) >= 1


def test_the_entry_on_the_free_list_is_found() -> None:
    """Bug 20370: the last thread of an arena ends while another is about to share it."""
    options = {"tcache": False, "classes": {Arenas: ReusedArenaKeepsFreelistEntry}}
    assert count_failures(exit_and_return, exit_thread, HeapError, **options) >= 1


def test_reading_without_the_mutex_is_found() -> None:
    """Bug 22408: chunks that are merged meanwhile are counted twice, or chains lead astray."""
    options = {"tcache": False, "classes": {MallocInfo: InfoWithoutArenaLock}}
    assert count_failures(mallinfo, consolidate, Exception, **options) >= 1
