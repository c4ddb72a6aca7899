"""The free-running mode: CPUs are OS threads and nothing decides their order but the host."""

from __future__ import annotations

import os
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from time import perf_counter_ns, sleep
from typing import Any, Final, TypeVar, cast

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    InterruptFailed,
    MachineClosed,
    ShutdownTimeout,
    SleepInAtomic,
)
from concmem.runtime import api, ipi
from concmem.runtime.cpu import Cpu, end_of, wait_for_ends
from concmem.runtime.guarded import check_guards
from concmem.runtime.lockdep import Lockdep
from concmem.runtime.lockdep_locks import LockdepLocks
from concmem.runtime.locks import (
    FreeMutex,
    FreeRwSem,
    FreeSpinlock,
    FreeWaitQueue,
    IrqSafeLock,
)
from concmem.runtime.lockstat import LockStat, StatLock, StatRwSem
from concmem.runtime.percpu import FreePerCpu, NoArea
from concmem.runtime.sleeper import Outsider, Outsiders, Sleeper
from concmem.runtime.stop import Stop
from concmem.runtime.variables import (
    FreeAtomic,
    FreeCell,
    FreePair,
    FreeRefcount,
    FreeThisCpuPair,
)
from concmem.units import HZ, MAX_NR_CPUS

T = TypeVar("T")

_CPU: Final = 1
"""Offset of the `Cpu` itself in its area; item 0 is its `attention`."""

_FIRST_OFFSET: Final = api.HOT_FREE + 1
"""Offset of the first per-CPU variable."""

SHUTDOWN_TIMEOUT: Final = 30.0
"""Seconds that :meth:`FreeRuntime.shutdown` gives a body to reach a point."""


class FreeRuntime(api.Runtime):
    """
    CPUs as OS threads, locks as ``threading.Lock``.

    Args:
        nr_cpus: 1 to 256.
        seed: of `rng`.
        lockstat: keep lock statistics (wait and hold times by lock class).
        lockdep: validate the order of locks: what could deadlock raises `LockdepError`.
        pin: bind the thread of CPU *i* to the *i*-th host CPU allowed, round and round.
    """

    name = "free"

    def __init__(
        self,
        nr_cpus: int = 4,
        *,
        seed: int = 0,
        lockstat: bool = False,
        lockdep: bool = False,
        pin: bool = False,
    ) -> None:
        if isinstance(nr_cpus, bool) or not isinstance(nr_cpus, int):
            raise BadArgumentType(f"cpus: expected a whole number, got {nr_cpus!r}")
        if not 1 <= nr_cpus <= MAX_NR_CPUS:
            raise BadArgument(f"cpus: must be 1 to {MAX_NR_CPUS}, got {nr_cpus}")
        self.nr_cpus = nr_cpus
        self.seed = seed
        self.lockstat: LockStat | None = LockStat() if lockstat else None
        self._pin_to = sorted(os.sched_getaffinity(0)) if pin else []
        self._area: ContextVar[list[Any]] = ContextVar("concmem_area", default=NoArea())  # noqa: B039
        self.area = self._area.get
        self._percpu_lock = threading.Lock()
        # _percpu_lock: cpus, areas, _factories, _closed, _stop. Areas and CPUs are
        # appended to only and read without it: a reader sees a prefix, and every index that it can
        # know of is in it.
        self.cpus: list[Cpu] = []
        self.areas: list[list[Any]] = []
        self._factories: list[Callable[[], Any]] = []
        self._guards_checked: set[type] = set()
        self._owner: object = None
        self._closed = False
        self._stop: Stop | None = None
        self._failures: deque[BaseException] = deque()
        self._outsiders = Outsiders()
        self._task_exits: list[Callable[[], None]] = []
        self._start_ns = perf_counter_ns()
        self._bind_hot_paths()
        self._validated = LockdepLocks(self) if lockdep else None
        if self._validated is not None:
            self.local_irq_restore = self._validated.local_irq_restore  # type: ignore[method-assign]
            self._task_exits.append(self._validated.task_exit)
        # Handed over in order, so that a caller that stops the machine all the time starves nobody.
        self._stop_turn = FreeRwSem("stop_machine", self.sleeper)
        try:
            for number in range(nr_cpus):
                self._add_cpu(f"concmem-cpu{number}")
        except BaseException:
            self.shutdown()
            raise

    def _bind_hot_paths(self) -> None:
        area = self.area

        def smp_processor_id() -> int:
            return cast(int, area()[_CPU].number)

        def cond_resched() -> None:
            # No lock: `attention` only says "look under the lock"; missed now, seen next time.
            here = area()
            if here[0]:
                here[_CPU].schedule()

        self.smp_processor_id = smp_processor_id
        self.cond_resched = cond_resched

    @property
    def lockdep(self) -> Lockdep | None:
        """The lock validator, if there is one."""
        return self._validated.dep if self._validated else None

    def claim(self, owner: object) -> None:
        """
        One machine for each runtime: the hot slots of its CPUs belong to it.

        Raises:
            BadArgument: another machine has it already.
        """
        with self._percpu_lock:
            if self._owner is not None:
                raise BadArgument(f"runtime: is used by {self._owner!r} already")
            self._owner = owner

    # -- CPUs

    def _add_cpu(self, name: str) -> Cpu:
        made: list[tuple[Callable[[], Any], Any]] = []
        while True:
            # Factories are the caller's code: they may raise or make per-CPU variables. No lock.
            # One whose variable is freed meanwhile is found out under the lock.
            made = [
                made[i] if i < len(made) and made[i][0] is factory else (factory, factory())
                for i, factory in enumerate(list(self._factories))
            ]
            with self._percpu_lock:
                if [factory for factory, _ in made] == self._factories:
                    return self._start_cpu(name, [value for _, value in made])

    def _start_cpu(self, name: str, values: list[Any]) -> Cpu:
        """Caller holds _percpu_lock. If there is no thread to be had, nothing has changed."""
        if self._closed:
            raise MachineClosed(f"{name}: the machine has been shut down")
        cpu = Cpu(len(self.cpus), name, self._enter, self._on_interrupt_failure, self._task_exits)
        cpu.area += [cpu, {}, {}, *values]
        if self._stop is not None:  # stop_machine is running: come up parked
            cpu.post_stopper(self._stop.stay)
        try:
            cpu.start()
        except BaseException:
            cpu.post_stop()  # if interrupted while the thread was starting
            raise
        # In this order: who reads an index from the areas, without the lock, finds that CPU.
        self.cpus.append(cpu)
        self.areas.append(cpu.area)
        return cpu

    def _enter(self, cpu: Cpu) -> None:
        self._area.set(cpu.area)
        if self._pin_to:
            os.sched_setaffinity(0, {self._pin_to[cpu.number % len(self._pin_to)]})

    def allocate_percpu(self, factory: Callable[[], Any]) -> int:
        """Add a variable to every area; its offset."""
        values: list[Any] = []
        while True:
            values += [factory() for _ in self.areas[len(values) :]]  # no lock: see _add_cpu
            with self._percpu_lock:
                if self._closed:
                    raise MachineClosed("per-CPU data: the machine has been shut down")
                if len(values) == len(self.areas):
                    self._factories.append(factory)
                    for area, value in zip(self.areas, values, strict=True):
                        area.append(value)
                    return len(self._factories) - 1 + _FIRST_OFFSET

    def free_percpu(self, variable: api.PerCpu[Any], poison: object) -> None:
        with self._percpu_lock:
            self._factories[variable.offset - _FIRST_OFFSET] = lambda: poison
            for area in self.areas:
                area[variable.offset] = poison

    def this_cpu(self) -> Cpu:
        return cast(Cpu, self.area()[_CPU])

    def on_cpu(self) -> bool:
        """Whether the calling thread is one of this runtime's CPUs."""
        return self.area().__class__ is not NoArea

    def sleeper(self) -> Sleeper:
        """What the calling thread sleeps on: its CPU, or for other threads a new sleeper."""
        here = self.area()
        if here.__class__ is NoArea:
            return Outsider(self._outsiders)
        return cast(Cpu, here[_CPU])

    def check_cpu(self, cpu: int) -> Cpu:
        """The CPU of that number, or `BadArgument`."""
        if isinstance(cpu, bool) or not isinstance(cpu, int):
            raise BadArgumentType(f"cpu: expected a CPU number, got {cpu!r}")
        if not 0 <= cpu < self.nr_cpus:
            raise BadArgument(f"cpu: there is no CPU {cpu}, only 0 to {self.nr_cpus - 1}")
        return self.cpus[cpu]

    def submit(self, cpu: int, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        return self.check_cpu(cpu).post_task(fn, args)

    def run(self, bodies: Sequence[Callable[[], T] | None]) -> list[T | None]:
        if not isinstance(bodies, Sequence) or not all(
            body is None or callable(body) for body in bodies
        ):
            raise BadArgumentType(f"bodies: expected a list of functions or None, got {bodies!r}")
        if len(bodies) > self.nr_cpus:
            raise BadArgument(f"bodies: {len(bodies)} of them, but only {self.nr_cpus} CPUs")
        if self.on_cpu():
            raise SleepInAtomic("run() waits for all CPUs: call it from a thread that is no CPU")
        futures = [None if body is None else Future[T]() for body in bodies]
        ends = [end_of(future) for future in futures if future is not None]
        for cpu, body, future in zip(self.cpus, bodies, futures, strict=False):
            if body is not None:
                cpu.post_task(body, (), future)
        wait_for_ends(ends)
        for cpu in self.cpus[: self.nr_cpus]:
            cpu.flush_interrupts()  # those of the bodies, whose failures belong to this run
        failures: list[BaseException] = []
        for cpu_number, future in enumerate(futures):
            error = None if future is None else future.exception()
            if error is not None:
                error.add_note(f"raised by the body on cpu{cpu_number}")
                failures.append(error)
        with suppress(IndexError):  # until empty, also while others append or take
            while True:
                failures.append(self._failures.popleft())
        if failures:
            # An ExceptionGroup, unless a body raised something like KeyboardInterrupt.
            raise BaseExceptionGroup(f"{len(failures)} failure(s) on the CPUs", failures)
        return [None if future is None else future.result() for future in futures]

    def _on_interrupt_failure(self, cpu: Cpu, error: BaseException) -> None:
        failure = InterruptFailed(f"an interrupt handler on {cpu.name} raised {error!r}")
        failure.__cause__ = error
        self._failures.append(failure)

    def kthread_run(self, fn: Callable[[], None], name: str) -> int:
        cpu = self._add_cpu(f"concmem-{name}")
        cpu.post_task(fn, ()).add_done_callback(partial(self._on_kthread_end, cpu.name))
        return cpu.number

    def _on_kthread_end(self, name: str, future: Future[None]) -> None:
        error = future.exception()
        if error is not None and not isinstance(error, MachineClosed):
            error.add_note(f"raised in kernel thread {name}")
            self._failures.append(error)

    def at_task_exit(self, fn: Callable[[], None]) -> None:
        self._task_exits.append(fn)

    def report_failure(self, error: Exception) -> None:
        self._failures.append(error)

    # -- interrupts

    def in_interrupt(self) -> bool:
        return self.on_cpu() and self.this_cpu().in_interrupt

    def might_sleep(self) -> None:
        if self.on_cpu():
            self.this_cpu().assert_may_sleep()

    def cpu_relax(self) -> None:
        cpu = self.this_cpu()
        if cpu.attention:
            cpu.relax()
        sleep(0)  # lets another thread run

    def local_irq_save(self) -> bool:
        if not self.on_cpu():
            return False  # a thread that is no CPU gets no interrupts
        cpu = self.this_cpu()
        enabled = cpu.irqs_enabled
        cpu.irqs_enabled = False
        return enabled

    def local_irq_restore(self, flags: bool) -> None:
        if not flags:
            return  # they were disabled before, and still are
        cpu = self.this_cpu()
        cpu.irqs_enabled = True
        # No lock: see Cpu.attention.
        if cpu.attention:
            cpu.take_interrupts()

    def call_on(self, cpu: int, fn: Callable[[], Any], wait: bool = True) -> Any:
        return self._call(self.check_cpu(cpu), fn, wait)

    def call_on_any(self, number: int, fn: Callable[[], Any]) -> Any:
        return self._call(self.cpus[number], fn, wait=True)

    def _call(self, target: Cpu, fn: Callable[[], Any], wait: bool) -> Any:
        return ipi.call(self.sleeper(), target, fn, wait)

    def on_each_cpu(self, fn: Callable[[], Any], wait: bool = True) -> None:
        ipi.call_each(self.sleeper(), self.cpus[: self.nr_cpus], fn, wait)

    # -- primitives

    def spinlock(self, name: str, irqsave: bool = False) -> api.Lock:
        lock = self._make_spinlock(name)
        if self._validated is not None:
            lock = self._validated.lock(lock, "spinlock")
        if irqsave:
            lock = IrqSafeLock(lock, self.local_irq_save, self.local_irq_restore)
        return lock

    def _make_spinlock(self, name: str) -> api.Lock:
        return self._with_lockstat(FreeSpinlock(name))

    def mutex(self, name: str) -> api.Lock:
        lock = self._make_mutex(name)
        return self._validated.lock(lock, "mutex") if self._validated else lock

    def _make_mutex(self, name: str) -> api.Lock:
        return self._with_lockstat(FreeMutex(name, self.sleeper), self.sleeper)

    def _with_lockstat(
        self, lock: api.Lock, sleeper: Callable[[], Sleeper] | None = None
    ) -> api.Lock:
        if self.lockstat is None:
            return lock
        return StatLock(lock, self.lockstat.register(lock.name), self._cpu_or_none, sleeper)

    def _cpu_or_none(self) -> int:
        """The CPU number for the statistics; nr_cpus for a thread that is none."""
        return self.this_cpu().number if self.on_cpu() else self.nr_cpus

    def rwsem(self, name: str) -> api.RwSem:
        sem = (
            FreeRwSem(name, self.sleeper)
            if self.lockstat is None
            else StatRwSem(name, self.sleeper, self.lockstat, self._cpu_or_none)
        )
        return self._validated.rwsem(sem) if self._validated else sem

    def waitqueue(self, lock: api.Lock, name: str) -> api.WaitQueue:
        return FreeWaitQueue(lock, name, self.sleeper)

    def cell(self, value: T, name: str) -> api.Cell[T]:
        return FreeCell(value, name)

    def atomic(self, value: int, name: str) -> api.Atomic:
        return FreeAtomic(value, name)

    def refcount(self, name: str) -> api.Refcount:
        return FreeRefcount(name)

    def percpu(self, factory: Callable[[], T], name: str) -> api.PerCpu[T]:
        return FreePerCpu(self, factory, name)

    def pair(self, first: int, second: int, name: str) -> api.Pair:
        return FreePair(first, second, name)

    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        return FreeThisCpuPair(first, second, name)

    def watch_words(self, words: memoryview, name: str) -> api.Words:
        return words

    def watch(self, obj: T) -> T:
        if type(obj) not in self._guards_checked:
            check_guards(obj)
            self._guards_checked.add(type(obj))
        return obj

    # -- time

    @property
    def jiffies(self) -> int:
        return self.clock_ns() * HZ // 1_000_000_000

    def clock_ns(self) -> int:
        return perf_counter_ns() - self._start_ns

    def rng(self, stream: object) -> random.Random:
        """A generator for *stream*, the same in every run with the same seed."""
        return random.Random(f"{self.seed}/{stream}")

    # -- stopping

    def stop_machine(self, fn: Callable[[], T]) -> T:
        if self._closed:
            raise MachineClosed("stop_machine: the machine has been shut down")
        with self._stop_turn.write():
            sleeper = self.sleeper()
            stop = Stop(sleeper)
            try:
                with self._percpu_lock:
                    self._stop = stop  # CPUs that come from now on come up parked
                    cpus = list(self.cpus)
                for cpu in cpus:
                    if cpu is not sleeper and not cpu.post_stopper(stop.park):
                        stop.park_nobody()
                    stop.expected += cpu is not sleeper
                stop.wait_for_all()
                flags = self.local_irq_save()
                try:
                    return fn()
                finally:
                    self.local_irq_restore(flags)
            finally:
                with self._percpu_lock:
                    self._stop = None
                stop.release()

    def shutdown(self) -> None:
        if self.on_cpu():
            raise SleepInAtomic("shutdown() joins all CPUs: call it from a thread that is no CPU")
        with self._percpu_lock:
            self._closed = True
        for cpu in self.cpus:
            cpu.post_stop()
        for cpu in self.cpus:
            cpu.thread.join(SHUTDOWN_TIMEOUT)
            if cpu.thread.is_alive():
                raise ShutdownTimeout(
                    f"{cpu.name} did not stop within {SHUTDOWN_TIMEOUT:.0f} s: its body runs without "
                    "calling the machine, or waits for something that never comes. It is here:\n"
                    + cpu.stack()
                )
        self._outsiders.close()


def wait_interruptibly(futures: Sequence[Future[Any]]) -> None:
    """Wait for all, so that Ctrl-C gets through. Only a thread that is no CPU ever waits here."""
    wait_for_ends([end_of(future) for future in futures])
