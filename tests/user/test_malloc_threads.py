"""Threads that allocate, free each other's chunks, end, and begin again."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

import pytest

from concmem.machine import Machine
from concmem.user.params import M_ARENA_MAX

from .helpers import World, world

RUNTIMES = ["free", "jitter"]


class Exerciser:
    """What each CPU does; chunks travel between CPUs by `travelling`."""

    def __init__(self, m: Any, p: Any, nr_cpus: int, operations: int) -> None:
        self.m = m
        self.p = p
        self.nr_cpus = nr_cpus
        self.operations = operations
        self.travelling: deque[tuple[int, bytes]] = deque()

    def make(self, rng: Random, stamp: bytes) -> tuple[int, bytes]:
        size = rng.choice([8, 24, 40, 100, 500, 1500, 6000, 40_000])
        if rng.random() < 0.02:
            size = 140_000
        choice = rng.random()
        if choice < 0.1:
            address = self.m.calloc(1, size)
        elif choice < 0.15:
            address = self.m.memalign(256, size)
        else:
            address = self.m.malloc(size)
        assert address is not None
        self.p.write(address, stamp)
        return address, stamp

    def free(self, owned: tuple[int, bytes]) -> None:
        address, stamp = owned
        assert self.p.read(address, 8) == stamp, f"{address:#x} has two owners"
        self.m.free(address)

    def body(self, cpu: int) -> None:
        rng = Random(cpu)
        mine: list[tuple[int, bytes]] = []
        for number in range(self.operations):
            choice = rng.random()
            if choice < 0.5:
                owned = self.make(rng, (cpu << 32 | number).to_bytes(8, "little"))
                (mine if choice < 0.3 else self.travelling).append(owned)
            elif choice < 0.7 and mine:
                self.free(mine.pop(rng.randrange(len(mine))))
            elif choice < 0.97:
                try:
                    owned = self.travelling.popleft()
                except IndexError:
                    continue
                self.free(owned)
            elif choice < 0.98:
                self.m.thread_exit()
            elif choice < 0.985:
                self.m.malloc_trim()
            elif mine:
                address, stamp = mine.pop()
                moved = self.m.realloc(address, rng.randrange(8, 5000))
                mine.append((moved, stamp))
        for owned in mine:
            self.free(owned)
        if rng.random() < 0.5:
            self.m.thread_exit()

    def rest(self) -> None:
        while self.travelling:
            self.free(self.travelling.pop())


def exercise(w: World, operations: int) -> None:
    """All CPUs at once; then everything is checked, and nothing is left."""
    each = Exerciser(w.m, w.p, w.rt.nr_cpus, operations)
    w.rt.run([lambda cpu=cpu: each.body(cpu) for cpu in range(w.rt.nr_cpus)])
    w.check()
    w.rt.run([each.rest])
    w.check()
    assert not w.m.memory.live()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("arenas", [0, 1, 2])
def test_chunks_that_travel(runtime: str, arenas: int) -> None:
    """With an arena for each thread, with one for all, and with two for three."""
    with world(3, runtime, seed=arenas, size=64 << 20) as w:
        if arenas:
            w.m.mallopt(M_ARENA_MAX, arenas)
        exercise(w, 300)
        assert w.m.arenas.narenas.value == (arenas or 3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_without_tcaches(runtime: str) -> None:
    """Fastbins are pushed to by everybody."""
    with world(3, runtime, seed=9, size=64 << 20, tcache=False) as w:
        w.m.mallopt(M_ARENA_MAX, 2)
        exercise(w, 300)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_real_process(runtime: str) -> None:
    """The same on page tables, with verification of everything while it runs."""
    with Machine(cpus=3, memory="64M", runtime=runtime, seed=4) as m:
        p: Any = m.process()
        each = Exerciser(p, p, 3, 200)
        futures = [m.submit(cpu, each.body, cpu) for cpu in range(3)]
        while not all(future.done() for future in futures):
            m.runtime.stop_machine(p.validate_malloc)
            m.verify()
        for future in futures:
            future.result(50)
        m.run([each.rest])
        m.runtime.stop_machine(p.validate_malloc)
        m.run([p.exit])
        m.verify()


def test_each_thread_has_an_arena() -> None:
    """The first one has the main arena, the others heaps of 64 MiB; a new thread reuses what is free."""
    with world(3) as w:
        assert w.malloc(24, cpu=1) < w.p.brk_now
        a = w.malloc(24, cpu=0)
        b = w.malloc(24, cpu=2)
        assert a % (64 << 20) == b % (64 << 20) == 0x8D0 + 0x290 + 16
        w.check()
        w.on(w.m.thread_exit, cpu=0)
        w.check()
        arena = w.m.arenas.free_list
        assert arena is not None
        assert arena.number == 1
        w.free(b, cpu=2)
        w.on(w.m.thread_exit, cpu=2)
        c = w.malloc(24, cpu=0)  # the arena that was freed last, and its chunks
        assert c >> 26 == b >> 26
        w.check()


def test_the_limit_of_arenas() -> None:
    """8 for each CPU, once there are more than arena_test."""
    with world(2) as w:
        limit = w.m.arenas._limit
        assert limit() > 1 << 60
        w.m.arenas.narenas.add(8)
        assert limit() == 16


def test_a_shared_arena_waits_for_its_mutex() -> None:
    """At the limit, the one whose mutex is free; when none is, the thread sleeps until it is."""
    with world(3) as w:
        w.m.mallopt(M_ARENA_MAX, 1)
        w.malloc(24, cpu=0)
        w.main.mutex.acquire()
        future = w.rt.submit(1, w.m.malloc, 24)
        w.on(lambda: None, cpu=2)
        assert not future.done()
        w.main.mutex.release()
        assert future.result(50) is not None
        assert w.main.attached_threads == 2
        w.check()


def test_thread_exit_gives_the_tcache_back() -> None:
    """Its chunks, and its own, merge again when the fastbins are emptied."""
    with world(2) as w:
        chunks = w.mallocs(500, 7)
        w.free(*chunks)
        small = w.mallocs(24, 3)
        w.free(*small)
        w.on(w.m.thread_exit)
        w.check()
        w.on(w.m.thread_exit)  # there is no thread: nothing happens
        w.on(w.m.malloc_trim, cpu=1)
        w.check()
        info = w.on(w.m.mallinfo, cpu=1)
        assert info.uordblks == 656  # the tcache of the thread that asks


def test_heaps_grow_and_go() -> None:
    """A second heap comes when the first is full, and is deleted when it is free."""
    with world(2, size=1 << 20) as w:
        w.m.mallopt(-3, 32 << 20)
        w.malloc(24)
        chunks = w.mallocs(30 << 20, 3, cpu=1)
        heaps = w.m.heaps.all()
        assert len(heaps) == 2
        assert heaps[1].prev is heaps[0]
        assert chunks[2] >> 26 == heaps[1].address >> 26
        w.check()
        w.free(*chunks, cpu=1)
        assert len(w.m.heaps.all()) == 1
        assert w.m.heaps.all()[0].size < 1 << 20
        w.check()
        w.malloc(1000, cpu=1)
        w.check()
