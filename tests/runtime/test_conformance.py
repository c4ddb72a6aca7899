"""Every runtime passes the conformance test, and the test notices runtimes that do not conform."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from concmem.runtime import api
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.locks import FreeMutex, FreeRwSem, FreeWaitQueue
from concmem.runtime.variables import FreeAtomic, FreePair, FreeRefcount, FreeThisCpuPair
from concmem.testing.conformance import CHECKS, run_runtime_conformance_test

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("lockstat", [False, True])
def test_free(lockstat: bool) -> None:
    """The free runtime conforms, with and without lock statistics."""
    run_runtime_conformance_test(partial(FreeRuntime, lockstat=lockstat))


def test_free_by_class() -> None:
    """A class can be passed as it is."""
    run_runtime_conformance_test(FreeRuntime)


def test_free_pinned() -> None:
    """The free runtime conforms with its threads pinned to host CPUs."""
    run_runtime_conformance_test(partial(FreeRuntime, pin=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lockstat", [False, True])
def test_jitter(seed: int, lockstat: bool) -> None:
    """The jitter runtime conforms, with and without lock statistics."""
    run_runtime_conformance_test(partial(JitterRuntime, seed=seed, lockstat=lockstat))


@pytest.mark.parametrize("hesitation", [0.0, 0.5])
def test_jitter_extremes(hesitation: float) -> None:
    """The jitter runtime conforms when it never hesitates, and when it hesitates all the time."""
    run_runtime_conformance_test(partial(JitterRuntime, hesitation=hesitation))


def test_every_check_says_what_it_promises() -> None:
    """A check is named after a property and states it in one sentence."""
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.promise.endswith(".") for check in CHECKS)


# -- runtimes that break a promise


class _NoLock(FreeMutex):
    """A lock that lets everybody in."""

    __slots__ = ("_held",)

    def acquire(self) -> None:
        self._held = True

    def trylock(self) -> bool:
        self._held = True
        return True

    def release(self) -> None:
        self._held = False

    def locked(self) -> bool:
        return self._held


class _Unlocked(FreeRuntime):
    def mutex(self, name: str) -> api.Lock:
        return _NoLock(name, self.sleeper)


class _ReleaseOfNothing(FreeRuntime):
    def mutex(self, name: str) -> api.Lock:
        class Lenient(FreeMutex):
            __slots__ = ()

            def release(self) -> None:
                if self.locked():
                    super().release()

        return Lenient(name, self.sleeper)


class _ForgetsIrqsave(FreeRuntime):
    def spinlock(self, name: str, irqsave: bool = False) -> api.Lock:
        lock = super().spinlock(name, irqsave)
        return lock if not irqsave else _TrylockLeavesIrqsOff(lock, self)


class _TrylockLeavesIrqsOff:
    def __init__(self, lock: api.Lock, rt: FreeRuntime) -> None:
        self._lock, self._rt = lock, rt
        self.name, self.locked, self.acquire = lock.name, lock.locked, lock.acquire
        self.trylock = lock.trylock

    def release(self) -> None:
        self._rt.local_irq_save()
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _ReadersAlone(FreeRwSem):
    __slots__ = ()

    def _grant(self, write: bool) -> bool:
        return super()._grant(False)


class _WritersTogether(FreeRuntime):
    def rwsem(self, name: str) -> api.RwSem:
        return _ReadersAlone(name, self.sleeper)


class _NewestFirst(FreeRuntime):
    def waitqueue(self, lock: api.Lock, name: str) -> api.WaitQueue:
        class Queue(FreeWaitQueue):
            __slots__ = ()

            def wake_up(self, nr: int = 1) -> int:
                self._waiters.reverse()
                return super().wake_up(nr)

        return Queue(lock, name, self.sleeper)


class _GhostWaiters(FreeRuntime):
    def waitqueue(self, lock: api.Lock, name: str) -> api.WaitQueue:
        class Queue(FreeWaitQueue):
            __slots__ = ()

            def wait(self, timeout: float | None = None) -> bool:
                woken = super().wait(timeout)
                if not woken:
                    self._waiters.append(threading.local())  # type: ignore[arg-type]
                return woken

            def wake_up(self, nr: int = 1) -> int:
                ghosts = len(self._waiters)
                self._waiters.clear()
                return ghosts

        return Queue(lock, name, self.sleeper)


class _LossyAtomics(FreeRuntime):
    def atomic(self, value: int, name: str) -> api.Atomic:
        class Lossy(FreeAtomic):
            __slots__ = ()

            def add_return(self, n: int) -> int:
                self._value = 0
                return super().add_return(n)

        return Lossy(value, name)


class _EverybodyIsLast(FreeRuntime):
    def refcount(self, name: str) -> api.Refcount:
        class Count(FreeRefcount):
            __slots__ = ()

            def dec_and_test(self) -> bool:  # type: ignore[override]
                self.pop()
                return True

        return Count(name)


class _HalfAPair(FreePair):
    __slots__ = ()

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        return super().try_cmpxchg(old_first, self.second, new_first, new_second)


class _ComparesHalf(FreeRuntime):
    def pair(self, first: int, second: int, name: str) -> api.Pair:
        return _HalfAPair(first, second, name)


class _SplitPair(FreePair):
    __slots__ = ()

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        if self.first != old_first or self.second != old_second:
            return False
        time.sleep(0.0005)
        self.set(new_first, new_second)
        return True


class _ComparesThenStores(FreeRuntime):
    def pair(self, first: int, second: int, name: str) -> api.Pair:
        return _SplitPair(first, second, name)


class _InterruptiblePair(FreeThisCpuPair):
    __slots__ = ("relax",)

    relax: Callable[[], None]

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        if self.first != old_first or self.second != old_second:
            return False
        self.relax()
        self.set(new_first, new_second)
        return True


class _InterruptedInBetween(FreeRuntime):
    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        pair = _InterruptiblePair(first, second, name)
        pair.relax = self.cpu_relax
        return pair


class _ForgetfulPair(FreeThisCpuPair):
    """Believes that the first word says it all, unless it can tell at once."""

    __slots__ = ()

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        if old_second + 2 == self.second:
            old_second = self.second
        return super().try_cmpxchg(old_first, old_second, new_first, new_second)


class _AwayAndBack(FreeRuntime):
    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        return _ForgetfulPair(first, second, name)


class _WordsOfACopy(FreeRuntime):
    def watch_words(self, words: memoryview, name: str) -> api.Words:
        return list(words)  # type: ignore[return-value]


class _FreesNothing(FreeRuntime):
    def free_percpu(self, variable: api.PerCpu[Any], poison: object) -> None:
        pass


class _ForgetsLaterThreads(FreeRuntime):
    def free_percpu(self, variable: api.PerCpu[Any], poison: object) -> None:
        for area in self.areas:
            area[variable.offset] = poison


class _FreesTheNextOne(FreeRuntime):
    def free_percpu(self, variable: api.PerCpu[Any], poison: object) -> None:
        super().free_percpu(variable, poison)
        for area in self.areas:
            area[variable.offset + 1] = []


class _CallsHere(FreeRuntime):
    def call_on_any(self, number: int, fn: Callable[[], Any]) -> Any:
        return fn()


class _CallsCpusOnly(FreeRuntime):
    def call_on_any(self, number: int, fn: Callable[[], Any]) -> Any:
        return self.call_on(number % self.nr_cpus, fn)


class _ForgetsReports(FreeRuntime):
    def report_failure(self, error: Exception) -> None:
        pass


class _OneStream(FreeRuntime):
    def rng(self, stream: object) -> random.Random:
        return super().rng("the only one")


class _Unseeded(FreeRuntime):
    def rng(self, stream: object) -> random.Random:
        return random.Random()


class _SharedPerCpu(FreeRuntime):
    def percpu(self, factory: Callable[[], Any], name: str) -> api.PerCpu[Any]:
        one = factory()
        return super().percpu(lambda: one, name)


class _HandlersElsewhere(FreeRuntime):
    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        self.check_cpu(cpu)
        return fn()


class _AlwaysOn(FreeRuntime):
    def local_irq_save(self) -> bool:
        super().local_irq_save()
        self.local_irq_restore(True)
        return True


class _Swallows(FreeRuntime):
    def run(self, bodies: Sequence[Callable[[], Any] | None]) -> list[Any]:
        try:
            return super().run(bodies)
        except ExceptionGroup:
            return [None] * len(bodies)


class _DoesNotStop(FreeRuntime):
    def stop_machine(self, fn: Callable[[], Any]) -> Any:
        return fn()


class _NeverEnds(FreeRuntime):
    def shutdown(self) -> None:
        return


@pytest.mark.parametrize(
    ("runtime", "check"),
    [
        (_Unlocked, "mutual_exclusion"),
        (_ReleaseOfNothing, "release_unheld"),
        (_ForgetsIrqsave, "release_unheld"),
        (_WritersTogether, "rwsem_exclusion"),
        (_NewestFirst, "wake_up_order"),
        (_GhostWaiters, "timeouts"),
        (_LossyAtomics, "atomics"),
        (_EverybodyIsLast, "refcounts"),
        (_ComparesHalf, "pairs"),
        (_ComparesThenStores, "pairs"),
        (_InterruptedInBetween, "this_cpu_pairs"),
        (_AwayAndBack, "this_cpu_pairs"),
        (_WordsOfACopy, "words"),
        (_FreesNothing, "free_percpu"),
        (_ForgetsLaterThreads, "free_percpu"),
        (_FreesTheNextOne, "free_percpu"),
        (_CallsHere, "call_on_any"),
        (_CallsCpusOnly, "call_on_any"),
        (_ForgetsReports, "report_failure"),
        (_OneStream, "rng"),
        (_Unseeded, "rng"),
        (_SharedPerCpu, "percpu"),
        (_HandlersElsewhere, "interrupt_target"),
        (_AlwaysOn, "interrupts_disabled"),
        (_Swallows, "interrupt_failures"),
        (_DoesNotStop, "stop_machine"),
    ],
)
def test_broken_runtimes_are_found(
    runtime: type[FreeRuntime], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that breaks a promise fails the check of that promise, by name."""
    only = tuple(each for each in CHECKS if each.name == check)
    monkeypatch.setattr("concmem.testing.conformance.CHECKS", only)
    with pytest.raises(AssertionError, match=rf"^{check}: "):
        run_runtime_conformance_test(runtime)


def test_the_seed_decides_the_random_numbers() -> None:
    """Two runtimes with one seed draw the same numbers, and another seed gives others."""

    def draw(seed: int) -> list[int]:
        rt = FreeRuntime(1, seed=seed)
        try:
            return [rt.rng("stream").getrandbits(32) for _ in range(5)]
        finally:
            rt.shutdown()

    assert draw(1) == draw(1) != draw(2)


def test_threads_left_are_found() -> None:
    """A runtime whose shutdown leaves threads behind fails."""
    made: list[FreeRuntime] = []

    def make(nr_cpus: int) -> FreeRuntime:
        made.append(_NeverEnds(nr_cpus))
        return made[-1]

    try:
        with pytest.raises(AssertionError, match="threads left after shutdown"):
            run_runtime_conformance_test(make)
    finally:
        for rt in made:
            FreeRuntime.shutdown(rt)
