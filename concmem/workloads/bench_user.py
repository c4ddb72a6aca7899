"""Benchmarks of page faults and memory pools."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter, thread_time

from concmem.machine import Machine
from concmem.units import PAGE_SIZE
from concmem.workloads.bench_tools import EFFORT, Measure, make_measure


def bench_page_fault() -> Measure:
    """A page fault on private memory over an order-0 allocate/free pair."""
    nr_pages = EFFORT.pairs // 10
    with Machine(cpus=1, memory="256M") as machine:
        process = machine.process()

        def faults() -> float:
            address = process.mmap(nr_pages * PAGE_SIZE)
            assert address is not None
            touch = process.touch
            start = thread_time()
            for page in range(address, address + nr_pages * PAGE_SIZE, PAGE_SIZE):
                touch(page)
            seconds = thread_time() - start
            process.munmap(address, nr_pages * PAGE_SIZE)
            return seconds

        def pairs() -> float:
            alloc_pages, free_pages = machine.alloc_pages, machine.free_pages
            start = thread_time()
            for _ in range(nr_pages):
                free_pages(alloc_pages())  # type: ignore[arg-type]  # memory does not run out here
            return thread_time() - start

        def rounds() -> list[float]:
            faults()
            return [faults() / pairs() for _ in range(EFFORT.rounds)]

        (ratios,) = machine.run([rounds])
    assert ratios is not None
    return make_measure("page fault / order-0 pair", ratios, "x", "at most 3")


def bench_mempool_wake() -> Measure:
    """Two CPUs that wait for each other's elements, over two threads and a bare condition."""
    rounds = EFFORT.pairs // 20
    with Machine(cpus=2, memory="64M") as machine:

        def two_pools() -> float:
            a, b = _ElementOf(machine), _ElementOf(machine)
            return _ping_pong(
                machine,
                rounds,
                _Both(b.give, a.take),
                _Both(b.take, a.give),
                _Both(a.take, b.take),
                _Both(a.give, b.give),
            )

        def condition() -> float:
            turn = _Turn()
            return _ping_pong(
                machine,
                rounds,
                _Both(lambda: turn.pass_to(1), lambda: turn.wait_for(0)),
                _Both(lambda: turn.wait_for(1), lambda: turn.pass_to(0)),
            )

        ratios = [two_pools() / condition() for _ in range(EFFORT.rounds)]
    name = "mempool wait and wake-up / bare condition"
    return make_measure(name, ratios, "x", "at most 3")


class _Both:
    """Two calls, one after the other."""

    def __init__(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        self._first = first
        self._second = second

    def __call__(self) -> None:
        self._first()
        self._second()


class _ElementOf:
    """A pool with one element and no allocator behind it."""

    def __init__(self, machine: Machine) -> None:
        left = [1]
        self._pool = machine.submit(
            0,
            lambda: machine.mempool_create(1, lambda gfp: left.pop() if left else None, _keep),
        ).result()

    def take(self) -> None:
        self._pool.alloc()

    def give(self) -> None:
        self._pool.free(1)


def _keep(_element: object) -> None:
    """Frees nothing: the one element is never freed while the pool has room."""


class _Turn:
    """Whose turn it is, by a condition."""

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._turn = 0

    def pass_to(self, who: int) -> None:
        with self._cond:
            self._turn = who
            self._cond.notify()

    def wait_for(self, who: int) -> None:
        with self._cond:
            self._cond.wait_for(lambda: self._turn == who)


def _ping_pong(
    machine: Machine,
    rounds: int,
    first: Callable[[], object],
    second: Callable[[], object],
    before: Callable[[], object] = bool,
    after: Callable[[], object] = bool,
) -> float:
    """Seconds of *rounds* of *first* on CPU 0 and *second* on CPU 1."""

    def repeat(turn: Callable[[], object]) -> Callable[[], None]:
        def body() -> None:
            for _ in range(rounds):
                turn()

        return body

    machine.submit(0, before).result()
    start = perf_counter()
    machine.run([repeat(first), repeat(second)])
    seconds = perf_counter() - start
    machine.submit(0, after).result()
    return seconds
