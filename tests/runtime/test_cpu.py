"""CPUs as OS threads: what the host sees of them, how they sleep, and how they end."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from concmem.errors import CpuStopped, InterruptFailed, MachineClosed, SleepInAtomic
from concmem.runtime.cpu import Cpu
from concmem.runtime.free import FreeRuntime
from concmem.runtime.sleeper import Call, Sleeper

from .helpers import Make, error_of, eventually

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def cpu() -> Cpu:
    """A CPU of no runtime, not started."""
    return Cpu(3, "concmem-alone", lambda cpu: None, lambda cpu, error: None)


# -- threads


def test_cpus_are_threads_of_the_host(make: Make) -> None:
    """Each CPU is one OS thread of this process, with a number of its own from the start."""
    rt = make(4)
    ids = [cpu.native_id for cpu in rt.cpus]
    assert set(ids) <= {thread.id for thread in psutil.Process().threads()}
    assert len(set(ids)) == 4
    assert rt.run([threading.get_native_id] * 4) == ids


def test_256_cpus(make: Make) -> None:
    """256 CPUs are 256 threads, and each can be interrupted."""
    rt = make(256)
    assert rt.run([rt.smp_processor_id] * 256) == list(range(256))
    assert len({cpu.native_id for cpu in rt.cpus}) == 256
    count = rt.atomic(0, "count")
    rt.on_each_cpu(count.inc)
    assert count.value == 256
    assert rt.stop_machine(lambda: count.value) == 256


def test_pinned_cpus_run_where_they_should(make: Make) -> None:
    """With pin=True CPU i runs on the i-th host CPU allowed, round and round."""
    allowed = sorted(os.sched_getaffinity(0))
    rt = make(5, pin=True)
    places = rt.run([lambda: os.sched_getaffinity(0)] * 5)
    assert places == [{allowed[cpu % len(allowed)]} for cpu in range(5)]
    assert [os.sched_getaffinity(cpu.native_id) for cpu in rt.cpus] == places
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_unpinned_cpus_may_run_anywhere(make: Make) -> None:
    """Without pin the threads keep the affinity of the process."""
    rt = make(2)
    assert rt.run([lambda: os.sched_getaffinity(0)] * 2) == [os.sched_getaffinity(0)] * 2


def _cpu_time_and_switches(cpu: Cpu) -> tuple[float, int]:
    """Seconds a CPU's thread has run, and how often it went to sleep."""
    [times] = [t for t in psutil.Process().threads() if t.id == cpu.native_id]
    status = Path(f"/proc/self/task/{cpu.native_id}/status").read_text()
    [switches] = [int(line.split()[1]) for line in status.splitlines() if "voluntary" in line][:1]
    return times.user_time + times.system_time, switches


def test_idle_cpus_do_not_spin(make: Make) -> None:
    """While one CPU works, the idle ones do not run: no CPU time, no wake-ups to speak of."""
    rt = make(4)

    def work() -> None:
        until = time.thread_time() + 0.25
        while time.thread_time() < until:
            rt.cond_resched()

    rt.run([int] * 4)
    before = [_cpu_time_and_switches(cpu) for cpu in rt.cpus]
    rt.run([work])
    after = [_cpu_time_and_switches(cpu) for cpu in rt.cpus]
    grown = [(t1 - t0, s1 - s0) for (t0, s0), (t1, s1) in zip(before, after, strict=True)]
    assert grown[0][0] > 0.2
    for seconds, switches in grown[1:]:
        # 10 ms are one tick of the host's clock; the switches are the end of the run before.
        assert seconds < 0.1
        assert switches < 10


def test_idle_cpu_keeps_nothing_alive(make: Make) -> None:
    """A CPU that has finished a body refers neither to it nor to its result."""

    class Result:
        pass

    rt = make(1)
    result = rt.run([Result])[0]
    rt.stop_machine(int)  # the CPU has finished the body and parked
    ref = weakref.ref(result)
    del result
    gc.collect()
    assert ref() is None


# -- sleeping and interrupts


def test_sleep_in_atomic_context(make: Make) -> None:
    """Whatever may sleep says so where that is a bug, whether or not it would have to wait."""
    rt = make(2)
    mutex, sem, lock = rt.mutex("mutex"), rt.rwsem("sem"), rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")

    def wait() -> None:
        with lock:
            queue.wait(0.001)

    def down() -> None:
        with sem.read():
            pass

    def kinds() -> list[str]:
        return [
            type(error).__name__
            for fn in (
                mutex.acquire,
                down,
                wait,
                lambda: rt.call_on(1, int),
                lambda: rt.on_each_cpu(int),
                lambda: rt.stop_machine(int),
            )
            for error in [error_of(fn)]
        ]

    def irqs_off() -> list[str]:
        flags = rt.local_irq_save()
        try:
            return kinds()
        finally:
            rt.local_irq_restore(flags)

    assert rt.run([irqs_off]) == [["SleepInAtomic"] * 6]
    assert rt.call_on(0, kinds) == ["SleepInAtomic"] * 6
    assert not mutex.locked()
    assert not lock.locked()
    assert rt.run([lambda: rt.stop_machine(int)]) == [0]


def test_body_cannot_leave_interrupts_disabled(make: Make) -> None:
    """A body that ends with interrupts disabled does not leave a deaf CPU."""
    rt = make(1)
    rt.run([rt.local_irq_save])
    assert rt.call_on(0, lambda: "heard") == "heard"
    assert rt.run([rt.local_irq_save]) == [True]


def test_late_interrupts_belong_to_their_run(make: Make) -> None:
    """A run ends after the interrupts that its bodies have posted, be the target busy or idle."""
    rt = make(2)
    taken = []

    def slow() -> None:
        for _ in range(50):
            rt.cpu_relax()
        taken.append(1)

    def fail() -> None:
        raise ValueError("late")

    def body() -> None:
        for _ in range(20):
            rt.call_on(1, slow, wait=False)
        rt.call_on(1, fail, wait=False)

    with pytest.raises(ExceptionGroup) as caught:
        rt.run([body])
    assert len(taken) == 20
    assert [type(error) for error in caught.value.exceptions] == [InterruptFailed]


def test_interrupts_are_counted(make: Make) -> None:
    """nr_interrupts counts handlers, and nothing that the runtime does for itself."""
    rt = make(2)
    rt.run([lambda: [rt.call_on(1, int, wait=False) for _ in range(7)]])
    rt.stop_machine(int)
    rt.call_on(1, int)
    assert [cpu.nr_interrupts for cpu in rt.cpus] == [0, 8]


def test_handler_may_interrupt_its_own_cpu(make: Make) -> None:
    """call_on() for one's own CPU runs the function at once, also inside a handler."""
    rt = make(1)
    assert rt.call_on(0, lambda: rt.call_on(0, rt.smp_processor_id)) == 0


def test_sleeper_that_is_no_cpu() -> None:
    """A thread that is no CPU may sleep anywhere; its sleep ends by wake-up or time-out."""
    sleeper = Sleeper()
    sleeper.assert_may_sleep()
    assert not sleeper.sleep_until(lambda: False, 0.001)
    seen = [False]
    threading.Timer(0.01, lambda: (seen.append(True), sleeper.notify())).start()
    assert sleeper.sleep_until(lambda: seen[-1])


@pytest.mark.parametrize("kind", ["interrupt", "stopper"])
def test_constant_stream_does_not_starve(cpu: Cpu, kind: str) -> None:
    """A CPU that always has the next interrupt, or ``stop_machine``, waiting gets on with its work."""
    post = cpu.post_interrupt if kind == "interrupt" else cpu.post_stopper
    done = threading.Event()

    def again() -> None:
        if not done.is_set():
            post(again)

    post(again)
    future = cpu.post_task(done.set, ())
    cpu.start()
    try:
        future.result(10)
    finally:
        done.set()
        cpu.post_stop()
        cpu.thread.join()


# -- the end


def test_stopper_of_a_cpu_that_is_going(cpu: Cpu) -> None:
    """A CPU told to stop counts as running until its body has ended: it still parks."""
    cpu.start()
    inside, go, ran = threading.Event(), threading.Event(), threading.Event()
    future = cpu.post_task(lambda: (inside.set(), go.wait()), ())
    inside.wait()
    cpu.post_stop()
    assert cpu.post_stopper(ran.set)
    assert not ran.is_set()
    go.set()
    future.result()
    cpu.thread.join()
    assert ran.is_set()
    assert not cpu.post_stopper(ran.set)


def test_stopped_cpu_refuses_work(cpu: Cpu) -> None:
    """What comes after the stop is refused; what came before is answered."""
    first = cpu.post_task(int, ())
    call = Call(int, Sleeper())
    cpu.post_interrupt(call)
    cpu.post_stop()
    for post in (lambda: cpu.post_task(int, ()), lambda: cpu.post_interrupt(int)):
        with pytest.raises(MachineClosed, match="has been shut down"):
            post()
    cpu.start()
    cpu.thread.join()
    assert isinstance(first.exception(), MachineClosed)
    assert call.wait() == 0  # interrupts get in before the stop
    cpu.flush_interrupts()


def test_waiters_of_a_cpu_that_dies_deaf(make: Make) -> None:
    """Who waits for an interrupt of a CPU that ends with interrupts disabled gets MachineClosed."""
    rt = make(2)
    ready = threading.Event()

    def deaf() -> None:
        rt.local_irq_save()
        ready.set()
        while True:
            rt.cpu_relax()

    body = rt.submit(1, deaf)
    ready.wait()
    answers: list[BaseException | None] = []
    asker = threading.Thread(target=lambda: answers.append(error_of(lambda: rt.call_on(1, int))))
    asker.start()
    sleeper: Future[object] = rt.submit(0, rt.call_on, 1, int)
    eventually(lambda: len(rt.cpus[1].interrupts) == 2)
    rt.shutdown()
    asker.join()
    assert [type(answer) for answer in answers] == [MachineClosed]
    assert type(sleeper.exception()) is MachineClosed
    assert type(body.exception()) is MachineClosed


def test_body_may_not_shut_down(make: Make) -> None:
    """shutdown() on a CPU raises at once and leaves the machine running."""
    rt = make(2)
    with pytest.raises(ExceptionGroup) as caught:
        rt.run([rt.shutdown])
    assert [type(error) for error in caught.value.exceptions] == [SleepInAtomic]
    assert rt.run([lambda: 1, lambda: 2]) == [1, 2]


def test_cpu_stopped_passes_except_exception() -> None:
    """``except Exception`` in a body does not catch the end of its CPU."""
    assert not issubclass(CpuStopped, Exception)


def test_keyboard_interrupt_in_run(make: Make) -> None:
    """Control-C in run() reaches the caller; shutdown then ends bodies that run and sleep."""
    rt: FreeRuntime = make(3)
    main = threading.main_thread().ident
    assert main is not None
    interrupted: list[int] = []

    def once(signum: int, _frame: object) -> None:
        if not interrupted:
            interrupted.append(signum)
            raise KeyboardInterrupt

    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")

    def sleeps() -> None:
        with lock:
            queue.wait()

    def interrupts_main() -> None:
        while not interrupted:  # a signal just before the main thread blocks does not wake it
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.001)
        while True:
            rt.cond_resched()

    before = signal.signal(signal.SIGINT, once)
    try:
        with pytest.raises(KeyboardInterrupt):
            rt.run([interrupts_main, sleeps])
    finally:
        signal.signal(signal.SIGINT, before)
    rt.shutdown()
    assert not any(cpu.thread.is_alive() for cpu in rt.cpus)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_body_that_raised_leaves_a_working_cpu(make: Make, error: type[BaseException]) -> None:
    """Whatever a body raises, its CPU runs the next one."""
    rt = make(2)

    def body() -> None:
        rt.local_irq_save()
        raise error("body")

    with pytest.raises(BaseExceptionGroup) as caught:
        rt.run([body, int])
    assert [type(member) for member in caught.value.exceptions] == [error]
    assert isinstance(caught.value, ExceptionGroup) == issubclass(error, Exception)
    assert rt.run([lambda: 1, lambda: 2]) == [1, 2]
