"""Jitter: hesitations find races that plain threads miss, and locks know their holder."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest

from concmem.errors import BadArgument, LockMisuse
from concmem.runtime.jitter import JitterRuntime

from .helpers import Make

pytestmark = pytest.mark.timeout(30)


class Zone:
    """A counter that a lock guards."""

    __guarded_by__: ClassVar = {"nr_free": "lock"}

    def __init__(self, rt: JitterRuntime) -> None:
        self.lock = rt.spinlock("zone->lock")
        self.nr_free = 0
        rt.watch(self)


def _count(rt: JitterRuntime, step: Callable[[Zone], None]) -> int:
    zone = Zone(rt)

    def body() -> None:
        for _ in range(200):
            step(zone)

    rt.run([body] * 4)
    return zone.nr_free


def _locked(zone: Zone) -> None:
    with zone.lock:
        zone.nr_free += 1


def _unlocked(zone: Zone) -> None:
    zone.nr_free += 1


@pytest.mark.parametrize("seed", range(3))
def test_jitter_finds_a_lost_update(make: Make, seed: int) -> None:
    """A watched counter without its lock loses updates; with it, none."""
    # 800 updates, each broken off between load and store with p = 0.3, while three others run:
    # a run without a lost update is next to impossible.
    rt = make(4, runtime=JitterRuntime, seed=seed, hesitation=0.3)
    assert _count(rt, _unlocked) < 800
    assert _count(rt, _locked) == 800


def test_watched_atomics_and_cells(make: Make) -> None:
    """A cell that is read and written in two steps loses updates; an atomic loses none."""
    rt = make(4, runtime=JitterRuntime, hesitation=0.3)
    cell, atomic = rt.cell(0, "cell"), rt.atomic(0, "atomic")

    def body() -> None:
        for _ in range(200):
            cell.value += 1
            atomic.inc()

    rt.run([body] * 4)
    assert cell.value < 800
    assert atomic.value == 800


@pytest.mark.parametrize("lockstat", [False, True])
def test_release_by_another_cpu(make: Make, lockstat: bool) -> None:
    """A lock is released by the CPU that took it; another one is told, and changes nothing."""
    rt = make(2, runtime=JitterRuntime, lockstat=lockstat)
    for lock in (rt.spinlock("s"), rt.spinlock("i", irqsave=True), rt.mutex("m")):
        rt.submit(0, lock.acquire).result()
        error = rt.submit(1, lock.release).exception()
        assert isinstance(error, LockMisuse)
        assert "released by a CPU that does not hold it" in str(error)
        assert lock.locked()
        rt.submit(0, lock.release).result()
        assert not lock.locked()


def test_taking_a_lock_twice(make: Make) -> None:
    """A CPU that takes a lock it holds, itself or in a handler, is told instead of hanging."""
    rt = make(1, runtime=JitterRuntime)
    for lock in (rt.spinlock("s"), rt.mutex("m")):
        with pytest.raises(ExceptionGroup) as caught:
            rt.run([lambda: [lock.acquire(), lock.acquire()]])  # noqa: B023
        assert [type(error) for error in caught.value.exceptions] == [LockMisuse]
        assert "concmem-cpu0 holds it already" in str(caught.value.exceptions[0])
        assert rt.run([lock.trylock]) == [False]
        rt.run([lock.release])

    lock = rt.spinlock("taken by a handler, without irqsave")

    def body() -> None:
        with lock:
            rt.call_on(0, lock.acquire)

    with pytest.raises(ExceptionGroup) as caught:
        rt.run([body])
    assert [type(error) for error in caught.value.exceptions] == [LockMisuse]
    assert not lock.locked()


def test_watching_twice(make: Make) -> None:
    """An object that is watched already stays as it is: one access is one point."""
    rt = make(1, runtime=JitterRuntime)
    zone = Zone(rt)
    cls = type(zone)
    assert rt.watch(zone) is zone
    assert type(zone) is cls
    assert type(Zone(rt)) is cls


def test_reader_writer_guard(make: Make) -> None:
    """A field may be guarded by a reader-writer semaphore."""

    class Mm:
        __guarded_by__: ClassVar = {"map_count": "mmap_lock"}

        def __init__(self) -> None:
            self.mmap_lock = rt.rwsem("mmap_lock")
            self.map_count = 0

    rt = make(4, runtime=JitterRuntime, hesitation=0.2)
    mm = rt.watch(Mm())

    def body() -> None:
        for _ in range(50):
            with mm.mmap_lock.write():
                mm.map_count += 1

    rt.run([body] * 4)
    assert mm.map_count == 200


@pytest.mark.parametrize("lock_kind", ["spinlock", "irqsave", "mutex"])
def test_guard_knows_its_holder(make: Make, lock_kind: str) -> None:
    """While a CPU holds the guard it is the holder; afterwards nobody is."""
    rt = make(1, runtime=JitterRuntime, lockstat=True)
    lock = rt.mutex("m") if lock_kind == "mutex" else rt.spinlock("s", lock_kind == "irqsave")

    def body() -> bool:
        with lock:
            return lock.holder is rt.this_cpu()

    assert rt.run([body]) == [True]
    assert lock.holder is None


@pytest.mark.parametrize("hesitation", [-0.1, 1.1, float("nan")])
def test_hesitation_is_a_probability(hesitation: float) -> None:
    """The probability of a hesitation is 0 to 1."""
    with pytest.raises(BadArgument, match="hesitation: must be 0 to 1"):
        JitterRuntime(1, hesitation=hesitation)


def test_objects_may_be_used_before_the_machine_runs(make: Make) -> None:
    """A thread that is no CPU may use primitives and watched objects, without hesitating."""
    rt = make(1, runtime=JitterRuntime, hesitation=1.0)
    zone, count = Zone(rt), rt.refcount("count")
    _locked(zone)
    _unlocked(zone)
    count.add(True)
    assert (zone.nr_free, count.dec_and_test()) == (2, True)
