"""The programs that :mod:`concmem.testing.conformance_schedulers` runs schedulers on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from concmem.explore import ControlledRuntime, Program


def counter(rt: ControlledRuntime) -> Program:
    """Two increments that are not atomic: correct with any result of 1 or 2."""
    x = rt.cell(0, "x")

    def body() -> None:
        value = x.value
        x.value = value + 1

    def after() -> None:
        assert x.value in (1, 2)

    return Program([body, body], after)


def locks(rt: ControlledRuntime) -> Program:
    """Every kind of lock, contended."""
    spin, irqsave = rt.spinlock("spin"), rt.spinlock("irqsave", irqsave=True)
    mutex, sem = rt.mutex("mutex"), rt.rwsem("sem")
    x = rt.cell(0, "x")

    def body() -> None:
        with mutex, spin:
            x.value = x.value + 1
        with sem.read():
            got = irqsave.trylock()
        if got:
            irqsave.release()
        with sem.write(), irqsave:
            pass

    def after() -> None:
        assert x.value == 3

    return Program([body, body, body], after)


def sleepers(rt: ControlledRuntime) -> Program:
    """Wake-ups, and time-outs that may come first."""
    lock = rt.mutex("lock")
    queue = rt.waitqueue(lock, "queue")
    ready = rt.cell(False, "ready")

    def sleeper() -> None:
        with lock:
            while not ready.value:
                queue.wait(0.01)

    def waker() -> None:
        with lock:
            ready.value = True
            queue.wake_up_all()

    return Program([sleeper, waker, sleeper])


def interrupts(rt: ControlledRuntime) -> Program:
    """Interrupts at any moment, while they are disabled, and sent by another CPU."""
    x = rt.atomic(0, "x")

    def deaf() -> None:
        flags = rt.local_irq_save()
        x.inc()
        rt.local_irq_restore(flags)
        x.inc()

    def sender() -> None:
        rt.call_on(0, x.inc)
        rt.call_on(0, x.inc, wait=False)

    def after() -> None:
        assert x.value == 6

    return Program([deaf, sender], after, interrupts=[(0, x.inc), (1, x.inc)])


def starters(rt: ControlledRuntime) -> Program:
    """A body that starts others and waits for them."""
    x = rt.atomic(0, "x")

    def main() -> None:
        futures = [rt.submit(cpu, x.inc) for cpu in (1, 2)]
        x.inc()
        for future in futures:
            future.result()
        assert x.value == 3

    return Program([main, None, None])


def kernel_thread(rt: ControlledRuntime) -> Program:
    """A kernel thread that sleeps until it has something to do."""
    lock = rt.spinlock("lock", irqsave=True)
    queue = rt.waitqueue(lock, "queue")
    requests, served = rt.cell(0, "requests"), rt.cell(0, "served")

    def thread() -> None:
        while True:
            with lock:
                while requests.value == served.value:
                    queue.wait()
                served.value = served.value + 1

    def body() -> None:
        with lock:
            requests.value = requests.value + 1
            queue.wake_up()

    def after() -> None:
        assert served.value == 2

    rt.kthread_run(thread, "kthread")
    return Program([body, body], after)


def spinners(rt: ControlledRuntime) -> Program:
    """CPUs that wait for each other without sleeping."""
    turn = rt.cell(0, "turn")

    def wait_for(number: int) -> Callable[[], None]:
        def body() -> None:
            while turn.value != number:
                rt.cpu_relax()
            turn.value = number + 1

        return body

    return Program([wait_for(2), wait_for(1), wait_for(0)])


def failing(rt: ControlledRuntime) -> Program:
    """Wrong: may fail an assertion, or deadlock."""
    a, b, x = rt.spinlock("a"), rt.spinlock("b"), rt.cell(0, "x")

    def forwards() -> None:
        with a, b:
            x.value = x.value + 1

    def backwards() -> None:
        with b, a:
            x.value = x.value + 1

    def looks() -> None:
        assert x.value != 1

    return Program([forwards, backwards, looks])


CORRECT: Final = (counter, locks, sleepers, interrupts, starters, kernel_thread, spinners)
"""Whatever the schedule, they come to their end."""

PROGRAMS: Final = (*CORRECT, failing)
