"""Caches under load on several CPUs: stamps, frees by others, flushes and shrinks; then all is counted."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NOWARN
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU

from .helpers import nr_buddy_pages, nr_managed, on_cpu
from .slab_helpers import create, nr_live

pytestmark = pytest.mark.stress

ROUNDS = 60

VARIANTS: dict[str, dict[str, Any]] = {
    "two-cpus": {"cpus": 2},
    "four-cpus": {"cpus": 4},
    "two-nodes": {"cpus": 4, "nodes": 2},
    "hardened-random": {"cpus": 4, "freelist_hardened": True, "freelist_random": True},
}


class Load:
    """What the CPUs share: a cache, and objects left for others to free."""

    def __init__(self, m: Machine, s: KmemCache, interrupts: bool) -> None:
        self.m = m
        self.s = s
        self.interrupts = interrupts
        self.lock = m.runtime.spinlock("pool", irqsave=True)
        self.pool: list[tuple[int, int]] = []  # lock

    def stamp(self, address: int, number: int) -> None:
        self.m.memory.write(address, number.to_bytes(8, "little") * (self.s.object_size // 8))

    def check(self, address: int, number: int) -> None:
        found = self.m.memory.read(address, self.s.object_size // 8 * 8)
        assert found == number.to_bytes(8, "little") * (self.s.object_size // 8), hex(address)

    def in_interrupt(self) -> None:
        """Allocate, use and free on whatever CPU this is."""
        first, second = self.s.alloc(GFP_ATOMIC), self.s.alloc(GFP_ATOMIC)
        for address in (first, second):
            if address:
                self.stamp(address, address)
        if first:
            self.check(first, first)
            self.s.free(first)
        if second:
            with self.lock:
                self.pool.append((second, second))

    def work(self) -> None:
        """Churn: own frees in any order, frees of what others have left, now and then many at once."""
        m, s = self.m, self.s
        me = m.smp_processor_id()
        rng = Random(me)
        mine: list[tuple[int, int]] = []
        for turn in range(ROUNDS):
            number = turn * 256 + me
            if rng.random() < 0.3:
                got = s.alloc_bulk(rng.randrange(1, 12))
            else:
                address = s.alloc(GFP_KERNEL, rng.choice([None, None, 0]))
                got = [address] if address else []
            for address in got:
                self.stamp(address, number)
                mine.append((address, number))
            while len(mine) > rng.randrange(30):
                address, number = mine.pop(rng.randrange(len(mine)))
                self.check(address, number)
                if rng.random() < 0.5:
                    s.free(address)
                else:
                    with self.lock:
                        self.pool.append((address, number))
            with self.lock:
                left, self.pool[:] = self.pool[:3], self.pool[3:]
            for address, number in left:
                self.check(address, number)
            s.free_bulk([address for address, _ in left])
            if self.interrupts and turn % 4 == 0:
                m.call_on(rng.randrange(m.runtime.nr_cpus), self.in_interrupt, wait=False)
        with self.lock:
            self.pool += mine

    def tidy(self) -> None:
        """Flush and shrink all the time."""
        for turn in range(ROUNDS // 4):
            (self.s.flush_all, self.s.shrink)[turn % 2]()

    def end(self) -> None:
        """Everything is where it should be, and can be given back."""
        m, s = self.m, self.s
        m.verify()
        on_cpu(m, s.flush_all)
        m.verify()
        assert nr_live(s) == len(self.pool) == len({address for address, _ in self.pool})
        for address, number in self.pool:
            self.check(address, number)
        events = s.statistics().events
        allocated = sum(events["alloc_fastpath"]) + sum(events["alloc_slowpath"])
        assert allocated >= len(self.pool)
        assert sum(events["alloc_slab"]) - sum(events["free_slab"]) == sum(
            n.nr_slabs for n in s.node
        )
        on_cpu(m, s.free_bulk, [address for address, _ in self.pool])
        on_cpu(m, s.destroy)
        m.verify()
        assert not m.mem_map.slabs
        on_cpu(m, m.drain_all_pages)
        assert nr_buddy_pages(m) == nr_managed(m)


def run(
    options: dict[str, Any],
    runtime: str,
    tidy: bool,
    size: int = 1000,
    flags: int = 0,
    ctor: Callable[[int], None] | None = None,
    seed: int = 0,
) -> None:
    """All CPUs work; with *tidy* the last one flushes and shrinks instead."""
    with Machine(memory="32M", runtime=runtime, seed=seed, slab_merge=False, **options) as m:
        load = Load(m, create(m, "load", size, flags=flags, ctor=ctor), interrupts=True)
        bodies: list[Callable[[], None]] = [load.work] * options["cpus"]
        if tidy:
            bodies[-1] = load.tidy
        m.run(bodies)
        load.end()


@pytest.mark.parametrize("tidy", [False, True])
@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_churn(variant: str, runtime: str, tidy: bool) -> None:
    """Nothing is lost, nobody's object is written by another, and in the end all memory is back."""
    run(VARIANTS[variant], runtime, tidy)


@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("size", [16, 8192, 20_000])
def test_sizes(size: int, runtime: str) -> None:
    """Many small objects in a slab, few large ones, and a single one."""
    run(VARIANTS["four-cpus"], runtime, True, size)


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_rcu_caches(runtime: str) -> None:
    """Slabs that wait for grace periods on their way back."""
    run(VARIANTS["four-cpus"], runtime, True, 3000, SLAB_TYPESAFE_BY_RCU)


@pytest.mark.parametrize("seed", range(3))
def test_verify_in_between(seed: int) -> None:
    """verify() from a CPU and from outside, while others allocate and free, never reports."""
    with Machine(cpus=4, memory="32M", runtime="jitter", seed=seed, slab_merge=False) as m:
        load = Load(m, create(m, "load", 3000), interrupts=False)

        def verify() -> None:
            for _ in range(5):
                m.verify()
                load.s.statistics()

        future = m.submit(3, verify)
        workers = [m.submit(cpu, load.work) for cpu in range(3)]
        verify()
        for each in (future, *workers):
            each.result(50)
        load.end()


def test_short_of_memory() -> None:
    """Every CPU takes objects until there are none; all that were had are different, and go back."""
    for runtime in ("free", "jitter"):
        with Machine(cpus=4, memory="8M", runtime=runtime, slab_merge=False) as m:
            s = create(m, "all", 6000)

            def body(s: KmemCache = s) -> list[int]:
                got = []
                for turn in range(3000):
                    address = s.alloc(GFP_ATOMIC | NOWARN)
                    if address is None:
                        break
                    got.append(address)
                    if turn % 50 == 49:
                        s.free_bulk(got[-10:])
                        del got[-10:]
                return got

            results = m.run([body] * 4)
            m.verify()
            addresses = [address for result in results for address in result or ()]
            assert len(addresses) == len(set(addresses)) > 800
            on_cpu(m, s.free_bulk, addresses)
            on_cpu(m, s.destroy)
            m.verify()
            assert not m.mem_map.slabs
