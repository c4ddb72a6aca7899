"""
Planted bugs of malloc are found by real threads, too. (Under control: tests/bugs.)

Odds are measured on 2 host cores under jitter.
"""

from __future__ import annotations

from random import Random

import pytest

from concmem.bugs import find_bug
from concmem.errors import ConcmemError, HeapError
from concmem.user.arena import Arenas
from concmem.user.int_free import IntFree
from concmem.user.malloc_info import MallocInfo
from concmem.user.params import M_ARENA_MAX
from concmem.user.tcache import ThreadCache

from .helpers import Classes, World, world

ArenaFreedByEveryThread = find_bug("arena-freed-by-every-thread").replaces[Arenas]
ReusedArenaKeepsFreelistEntry = find_bug("reused-arena-stays-free").replaces[Arenas]
FlagAfterFree = find_bug("tcache-flag-after-free").replaces[ThreadCache]
InfoWithoutArenaLock = find_bug("malloc-info-unlocked").replaces[MallocInfo]


class CheckPoppedHead(IntFree):
    """Bug 15073: the size of the chunk that was the head is checked without the mutex."""

    def _check_old_head(self, old: int, index: int, locked: bool) -> None:
        if old:
            self._libc.rt.cpu_relax()
            self._check_fastbin_entry(old, index)


def test_an_arena_freed_by_every_thread() -> None:
    """Two threads share an arena and end: it is on the free list twice, which is a cycle."""
    for cls, is_found in ((ArenaFreedByEveryThread, True), (Arenas, False)):
        with world(3, classes={Arenas: cls}) as w:
            w.m.mallopt(M_ARENA_MAX, 1)
            w.malloc(24, cpu=0)
            w.malloc(24, cpu=1)
            w.on(w.m.thread_exit, cpu=1)
            if not is_found:
                w.check()
                continue
            with pytest.raises(HeapError, match="on the free list, with 1 threads attached"):
                w.check()
            w.on(w.m.thread_exit, cpu=0)
            with pytest.raises(HeapError, match="on the free list twice"):
                w.check()


def reuse(w: World) -> None:
    """A thread ends while others look for an arena; each of them allocates once and ends."""
    w.m.mallopt(M_ARENA_MAX, 2)

    def body(cpu: int) -> None:
        rng = Random(cpu)
        for _ in range(150):
            address = w.m.malloc(rng.randrange(100))
            assert address is not None
            w.m.free(address)
            w.m.thread_exit()

    w.rt.run([lambda cpu=cpu: body(cpu) for cpu in range(w.rt.nr_cpus)])
    w.check()


def is_reuse_found(seed: int, classes: Classes) -> bool:
    with world(4, "jitter", seed, classes=classes) as w:
        try:
            reuse(w)
        except (ExceptionGroup, ConcmemError) as error:
            return "free list" in repr(error)
        return False


def test_a_shared_arena_that_stays_on_the_free_list() -> None:
    """
    Needs three threads: one frees the arena, one shares it, one takes it off the list.

    Odds: 38 of 40 runs with a GIL, 32 of 40 without. If a run missed with p = 0.5, as on a busy host, sixty
    misses in a row would come with p < 1e-18.
    """
    classes = {Arenas: ReusedArenaKeepsFreelistEntry}
    assert any(is_reuse_found(seed, classes) for seed in range(60))
    assert not any(is_reuse_found(seed, {}) for seed in range(10))


def push_and_pop(w: World) -> None:
    """CPU 0 has the arena; others free its chunks while it allocates them again and merges them."""
    w.m.mallopt(M_ARENA_MAX, 1)

    def body(cpu: int) -> None:
        rng = Random(cpu)
        mine: list[int] = []
        for _ in range(400):
            if len(mine) < 12 and rng.random() < 0.6:
                address = w.m.malloc(24)
                assert address is not None
                w.p.write(address, bytes(24))
                mine.append(address)
            elif mine:
                w.m.free(mine.pop(rng.randrange(len(mine))))
            if rng.random() < 0.4:
                big = w.m.malloc(3000)  # consolidates
                assert big is not None
                w.m.free(big)
        for address in mine:
            w.m.free(address)

    w.rt.run([lambda cpu=cpu: body(cpu) for cpu in range(w.rt.nr_cpus)])
    w.check()


def is_push_found(seed: int, classes: Classes) -> bool:
    with world(3, "jitter", seed, classes=classes, tcache=False) as w:
        try:
            push_and_pop(w)
        except ExceptionGroup as group:
            return "invalid fastbin entry (free)" in repr(group.exceptions)
        return False


def test_a_check_of_a_chunk_that_is_somebody_elses() -> None:
    """
    The old head was merged or reused meanwhile: a false report.

    Odds: 40 of 40 runs with a GIL, 25 of 40 without. If a run missed with p = 0.6, sixty misses in a row
    would come with p < 1e-13.
    """
    assert any(is_push_found(seed, {IntFree: CheckPoppedHead}) for seed in range(60))
    assert not any(is_push_found(seed, {}) for seed in range(10))


def test_a_tcache_that_is_made_while_the_thread_ends() -> None:
    """It is lost with the chunks in it: `verify` finds them to be nobody's."""
    for cls, is_found in ((FlagAfterFree, True), (ThreadCache, False)):
        with world(classes={ThreadCache: cls}) as w:
            w.free(*w.mallocs(24, 3))
            w.on(w.m.thread_exit)
            threads = w.m.libc.threads.of(0)
            assert bool(threads.tcache_mem) is is_found
            if is_found:
                w.on(w.m.thread_exit)
                assert threads.tcache_mem
