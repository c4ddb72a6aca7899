"""The free-running runtime: arguments, construction, per-CPU data, and threads that meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    ConcmemError,
    MachineClosed,
    NotACpu,
    SleepInAtomic,
)
from concmem.runtime.free import FreeRuntime
from concmem.runtime.jitter import JitterRuntime

from .helpers import Make, cpu_threads

pytestmark = pytest.mark.timeout(30)


# -- arguments


@pytest.mark.parametrize("runtime", [FreeRuntime, JitterRuntime])
@pytest.mark.parametrize("nr_cpus", [0, -1, 257])
def test_number_of_cpus_out_of_range(runtime: type[FreeRuntime], nr_cpus: int) -> None:
    """A machine has 1 to 256 CPUs."""
    with pytest.raises(BadArgument, match=f"cpus: must be 1 to 256, got {nr_cpus}"):
        runtime(nr_cpus)


@pytest.mark.parametrize("nr_cpus", [True, 1.5, "2", None])
def test_number_of_cpus_of_wrong_type(nr_cpus: Any) -> None:
    """The number of CPUs is a whole number, and True is none."""
    with pytest.raises(BadArgumentType, match="cpus: expected a whole number"):
        FreeRuntime(nr_cpus)


@pytest.mark.parametrize("cpu", [-1, 2, 256])
def test_unknown_cpu(make: Make, cpu: int) -> None:
    """A CPU that is not there is refused by name."""
    rt = make(2)
    variable = rt.percpu(int, "variable")
    for use in (
        lambda: rt.submit(cpu, int),
        lambda: rt.call_on(cpu, int),
        lambda: variable.of(cpu),
    ):
        with pytest.raises(BadArgument, match=rf"cpu: there is no CPU {cpu}, only 0 to 1"):
            use()
    assert rt.run([rt.smp_processor_id] * 2) == [0, 1]


@pytest.mark.parametrize("cpu", [True, 0.0, 1.5, "0", None])
def test_cpu_of_wrong_type(make: Make, cpu: Any) -> None:
    """A CPU number is a whole number."""
    rt = make(2)
    variable = rt.percpu(int, "variable")
    for use in (
        lambda: rt.submit(cpu, int),
        lambda: rt.call_on(cpu, int),
        lambda: variable.of(cpu),
    ):
        with pytest.raises(BadArgumentType, match="cpu: expected a CPU number"):
            use()


def test_more_bodies_than_cpus(make: Make) -> None:
    """run() takes at most one body for each CPU, and then runs none."""
    rt, ran = make(2), []
    with pytest.raises(BadArgument, match="bodies: 3 of them, but only 2 CPUs"):
        rt.run([lambda: ran.append(1)] * 3)
    assert ran == []


def test_run_on_a_cpu(make: Make) -> None:
    """run() waits for all CPUs, so a CPU may not call it; one of another machine may."""
    rt, other = make(2), make(1)
    with pytest.raises(ExceptionGroup) as caught:
        rt.run([lambda: rt.run([int])])
    assert [type(error) for error in caught.value.exceptions] == [SleepInAtomic]
    assert rt.run([lambda: other.run([other.smp_processor_id])]) == [[0]]


def test_foreign_threads(make: Make) -> None:
    """On a thread that is no CPU of this machine there is no current CPU; the message says why."""
    rt, other = make(1), make(1)
    for use in (rt.smp_processor_id, rt.cpu_relax, rt.this_cpu):
        with pytest.raises(NotACpu, match="is no CPU of this machine"):
            use()
    with pytest.raises(ExceptionGroup) as caught:
        other.run([rt.smp_processor_id])
    assert [type(error) for error in caught.value.exceptions] == [NotACpu]
    flags = rt.local_irq_save()
    rt.local_irq_restore(flags)


# -- construction


@pytest.mark.parametrize("runtime", [FreeRuntime, JitterRuntime])
def test_no_thread_left_after_failed_construction(
    runtime: type[FreeRuntime], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the host has no thread for CPU 3, those of CPUs 0 to 2 end."""
    _allow_threads(monkeypatch, 3)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        runtime(8)
    assert cpu_threads() == []


def _allow_threads(monkeypatch: pytest.MonkeyPatch, nr: int) -> None:
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def start_some(thread: threading.Thread) -> None:
        if len(started) == nr:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)


def test_kernel_thread_that_cannot_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the host has no thread for a kernel thread, nothing has changed."""
    rt = make(2)
    variable = rt.percpu(list, "variable")
    with monkeypatch.context() as patch:
        _allow_threads(patch, 0)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            rt.kthread_run(int, "none")
    assert len(variable.all()) == 2
    assert rt.stop_machine(lambda: "stopped") == "stopped"
    assert rt.kthread_run(int, "one") == 2


# -- per-CPU data and kernel threads


def test_failing_factory_changes_nothing(make: Make) -> None:
    """A factory that raises, for a CPU or a kernel thread, leaves other variables as they were."""
    rt = make(3)
    values = iter([10, 11, 12])
    with pytest.raises(StopIteration):
        rt.percpu(lambda: next(iter([])), "never")
    with pytest.raises(StopIteration):
        rt.percpu(iter([1, 2]).__next__, "two of three")
    numbers = rt.percpu(lambda: next(values, 13), "numbers")
    assert list(numbers.all()) == [10, 11, 12]
    assert rt.run([numbers.this] * 3) == [10, 11, 12]
    once = iter([1, 2, 3])
    rt.percpu(lambda: next(once), "for no kernel thread")
    with pytest.raises(StopIteration):
        rt.kthread_run(int, "none")
    assert list(numbers.all()) == [10, 11, 12]


def test_factory_may_make_variables(make: Make) -> None:
    """A factory may make a per-CPU variable of its own."""
    rt = make(2)
    outer = rt.percpu(lambda: rt.percpu(lambda: "inner", "inner"), "outer")
    assert [outer.of(cpu).of(cpu) for cpu in (0, 1)] == ["inner"] * 2
    assert rt.run([lambda: outer.this().this()] * 2) == ["inner"] * 2


def test_kernel_threads_started_at_once(make: Make) -> None:
    """Kernel threads that start at the same time get different numbers, and every variable."""
    rt = make(2)
    meet, meeting = threading.Barrier(2), []
    variable = rt.percpu(list, "variable")

    def factory() -> None:
        if meeting:
            meet.wait(10)

    rt.percpu(factory, "meets")
    meeting.append(True)
    numbers = rt.run([lambda: rt.kthread_run(int, "a"), lambda: rt.kthread_run(int, "b")])
    assert sorted(numbers) == [2, 3]
    assert [cpu.number for cpu in rt.cpus] == [0, 1, 2, 3]
    assert len({id(each) for each in variable.all()}) == 4


def test_variables_and_kernel_threads_at_once(make: Make) -> None:
    """Variables made while CPUs run and kernel threads start are there for everybody."""
    rt = make(4)
    numbers: list[int] = []

    def makes_variables() -> bool:
        me = rt.smp_processor_id()
        fine = True
        for turn in range(30):
            variable = rt.percpu(lambda turn=turn: (me, turn), "variable")
            fine = fine and set(variable.all()) == {(me, turn)} and variable.this() == (me, turn)
            rt.cond_resched()
        return fine

    def starts_threads() -> bool:
        for _ in range(10):
            numbers.append(rt.kthread_run(lambda: rt.cond_resched(), "short"))
        return True

    assert rt.run([makes_variables, makes_variables, starts_threads, starts_threads]) == [True] * 4
    assert sorted(numbers) == list(range(4, 24))
    assert len({len(area) for area in rt.areas}) == 1


def test_failing_kernel_thread_is_reported(make: Make) -> None:
    """What a kernel thread raises comes out at the end of the run, with its name."""
    rt = make(1)

    def fail() -> None:
        raise KeyError("kernel thread")

    def body() -> None:
        rt.kthread_run(fail, "kfail")
        while not rt._failures:
            rt.cpu_relax()

    with pytest.raises(ExceptionGroup) as caught:
        rt.run([body])
    [error] = caught.value.exceptions
    assert isinstance(error, KeyError)
    assert error.__notes__ == ["raised in kernel thread concmem-kfail"]
    assert rt.run([int]) == [0]


def test_kernel_thread_comes_up_parked(make: Make) -> None:
    """A kernel thread that starts while the machine is stopped runs when it goes on."""
    rt = make(2)
    ran = threading.Event()

    def stopped() -> bool:
        rt.kthread_run(ran.set, "early")
        return ran.wait(0.05)  # a wrong runtime lets it run; a right one lets this expire

    assert rt.stop_machine(stopped) is False
    assert ran.wait(10)


# -- threads that meet


def test_chaos_then_shutdown(make: Make) -> None:
    """However CPUs are entangled, shutdown ends them, and nobody who waited for them hangs."""
    for seed in range(12):
        rt = make(4, runtime=JitterRuntime if seed % 2 else FreeRuntime, seed=seed)
        chaos = _Chaos(rt)
        futures = [rt.submit(cpu, chaos.body, cpu) for cpu in range(4) for _ in range(2)]
        outside = threading.Thread(target=_ignore_closed, args=[lambda: chaos.body(4)])  # noqa: B023
        outside.start()
        for _ in range(5):
            _ignore_closed(lambda: rt.stop_machine(int))  # noqa: B023
        rt.shutdown()
        outside.join()
        assert {type(future.exception(10)) for future in futures} == {MachineClosed}
        assert not any(cpu.thread.is_alive() for cpu in rt.cpus)


def _ignore_closed(fn: Callable[[], object]) -> bool:
    try:
        fn()
    except MachineClosed:
        return False
    return True


class _Chaos:
    """Everything by which threads wait for each other, until the machine stops."""

    def __init__(self, rt: FreeRuntime) -> None:
        self._rt = rt
        self._mutex, self._sem = rt.mutex("chaos"), rt.rwsem("chaos")
        self._queue = rt.waitqueue(self._mutex, "chaos")

    def body(self, stream: int) -> None:
        rt, rng = self._rt, self._rt.rng(stream)
        deeds: list[Callable[[], object]] = [
            self._sleep,
            self._read,
            self._write,
            lambda: self._interrupt(rng.randrange(4)),
            lambda: rt.call_on(rng.randrange(4), int),
            lambda: rt.call_on(rng.randrange(4), int, wait=False),
            lambda: rt.on_each_cpu(int),
            lambda: rt.stop_machine(int),
            lambda: rt.percpu(int, "chaos"),
            lambda: rt.kthread_run(int, "chaos") if rng.random() < 0.02 else None,
        ]
        while True:
            rng.choice(deeds)()
            if rt.on_cpu():
                rt.cond_resched()

    def _sleep(self) -> None:
        with self._mutex:
            self._queue.wait(0.001)
            self._queue.wake_up()

    def _read(self) -> None:
        with self._sem.read():
            self._rt.percpu(int, "chaos")

    def _write(self) -> None:
        with self._sem.write():
            self._sem.downgrade()

    def _interrupt(self, cpu: int) -> None:
        with self._mutex:
            self._rt.call_on(cpu, int)


def test_stop_machine_called_from_everywhere(make: Make) -> None:
    """CPUs, kernel threads and other threads may all stop the machine at once."""
    rt = make(3)
    count = [0]  # no lock: one at a time

    def stop() -> None:
        count[0] += 1

    def stops() -> None:
        for _ in range(10):
            rt.stop_machine(stop)

    outside = [threading.Thread(target=stops) for _ in range(2)]
    for thread in outside:
        thread.start()
    rt.kthread_run(stops, "stops")
    rt.run([stops] * 3)
    for thread in outside:
        thread.join()
    for _ in range(1000):  # starves nobody: each waits for its turn
        rt.stop_machine(int)
    assert count == [60]


def test_on_each_cpu_collects_failures(make: Make) -> None:
    """Failures of handlers that are waited for come as one ExceptionGroup, from all CPUs."""
    rt = make(3)

    def fail() -> None:
        raise ValueError(rt.smp_processor_id())

    with pytest.raises(ExceptionGroup) as caught:
        rt.on_each_cpu(fail)
    assert sorted(error.args[0] for error in caught.value.exceptions) == [0, 1, 2]
    assert rt.run([int] * 3) == [0] * 3


def test_use_after_shutdown(make: Make) -> None:
    """A runtime that has been shut down says so, and starts nothing."""
    rt = make(2)
    rt.shutdown()
    for use in (
        lambda: rt.kthread_run(int, "late"),
        lambda: rt.on_each_cpu(int),
        lambda: rt.stop_machine(int),
        lambda: rt.submit(0, int),
    ):
        with pytest.raises(MachineClosed):
            use()
    assert cpu_threads() == []


def test_cancelled_future_does_not_run(make: Make) -> None:
    """A call that is still queued can be cancelled; the CPU goes on with the next."""
    rt, ran = make(1), []
    go = threading.Event()
    first: Future[bool] = rt.submit(0, go.wait, 10)
    second = rt.submit(0, ran.append, "second")
    third = rt.submit(0, ran.append, "third")
    assert second.cancel()
    go.set()
    third.result(10)
    assert first.result()
    assert ran == ["third"]


def test_random_streams(make: Make) -> None:
    """rng() depends on seed and stream only."""
    one, same, other = make(1, seed=1), make(1, seed=1), make(1, seed=2)
    assert one.rng("a").random() == same.rng("a").random() != other.rng("a").random()
    assert one.rng("a").random() != one.rng("b").random()


def test_every_error_is_a_concmem_error() -> None:
    """What the runtime raises on purpose can be caught by one name, and by the builtin one."""
    assert issubclass(BadArgumentType, ConcmemError)
    assert issubclass(BadArgumentType, ValueError)
    assert issubclass(BadArgumentType, TypeError)


def test_a_thread_that_waits_is_told_of_the_end() -> None:
    """What it waits for never comes once the machine is shut down."""
    rt = FreeRuntime(1)
    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")
    waiting = threading.Event()
    told: list[BaseException] = []

    def outsider() -> None:
        try:
            with lock:
                waiting.set()
                queue.wait()
        except MachineClosed as error:
            told.append(error)

    thread = threading.Thread(target=outsider)
    thread.start()
    waiting.wait(10)
    rt.shutdown()
    thread.join(20)
    assert not thread.is_alive()
    assert len(told) == 1
