"""Conformance: CPUs, per-CPU data, interrupts, stopping."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from concmem.errors import InterruptFailed, MachineClosed, NotACpu
from concmem.runtime.api import Runtime
from concmem.testing.conformance_check import PATIENCE, Check, expect, raised_by, until

ROUNDS = 20


class Pair:
    """Two counters that are equal between two operations of their CPU."""

    def __init__(self) -> None:
        self.a = self.b = 0

    def step(self, rt: Runtime) -> None:
        self.a += 1
        rt.cpu_relax()
        self.b += 1


def check_percpu(rt: Runtime) -> None:
    """Every CPU, and every kernel thread, has its own object, made by one call of the factory."""
    made: list[Pair] = []

    def factory() -> Pair:
        made.append(Pair())
        return made[-1]

    variable = rt.percpu(factory, "conformance-pair")
    expect(len(made), rt.nr_cpus, "calls of the factory")

    def body() -> tuple[object, ...]:
        return rt.smp_processor_id(), variable.this(), rt.area()[variable.offset]

    results = rt.run([body] * rt.nr_cpus)
    mine = [variable.of(cpu) for cpu in range(rt.nr_cpus)]
    expect(results, [(cpu, mine[cpu], mine[cpu]) for cpu in range(rt.nr_cpus)], "number, this()")
    expect(list(variable.all()), mine, "all()")
    expect(len(set(map(id, mine))), rt.nr_cpus, "different objects")

    seen: list[object] = []
    done = rt.cell(False, "done")

    def kthread() -> None:
        seen.extend(body())
        done.value = True

    number = rt.kthread_run(kthread, "conformance-kthread")
    rt.run([lambda: until(rt, lambda: done.value)])
    expect(number >= rt.nr_cpus, True, "number of a kernel thread is none of a CPU's")
    expect(seen, [number, variable.of(number), variable.of(number)], "a kernel thread's own")
    expect((made[-1], len(made)), (variable.of(number), rt.nr_cpus + 1), "the factory, once more")
    expect(list(variable.all()), [*mine, variable.of(number)], "all(), kernel threads last")
    later = rt.percpu(Pair, "conformance-later")
    expect(len(set(map(id, later.all()))), rt.nr_cpus + 1, "a variable made afterwards")


def check_not_a_cpu(rt: Runtime) -> None:
    """On a thread that is no CPU, per-CPU data and the CPU number raise NotACpu."""
    variable = rt.percpu(Pair, "conformance-pair")
    for use in (rt.smp_processor_id, variable.this, lambda: rt.area()[variable.offset]):
        expect(isinstance(raised_by(use), NotACpu), True, "NotACpu is raised")


def check_interrupt_target(rt: Runtime) -> None:
    """A handler runs on the CPU it was posted to, interrupts disabled; its result comes back."""

    def handler() -> tuple[int, bool]:
        enabled = rt.local_irq_save()
        rt.local_irq_restore(enabled)
        return rt.smp_processor_id(), enabled

    def body() -> list[object]:
        return [rt.call_on(cpu, handler) for cpu in range(rt.nr_cpus)]

    wanted = [(cpu, False) for cpu in range(rt.nr_cpus)]
    expect(rt.run([body] * rt.nr_cpus), [wanted] * rt.nr_cpus, "from every CPU at once")
    expect(body(), wanted, "from a thread that is no CPU")
    expect(rt.run([rt.local_irq_save]), [True], "enabled again afterwards")


def check_interrupts_disabled(rt: Runtime) -> None:
    """An interrupt is taken when the outermost local_irq_restore enables interrupts, not before."""
    ready, posted, taken = (rt.cell(False, name) for name in ("ready", "posted", "taken"))

    def handler() -> None:
        taken.value = True

    def deaf() -> list[bool]:
        outer = rt.local_irq_save()
        ready.value = True
        until(rt, lambda: posted.value)
        rt.cond_resched()
        seen = [outer, taken.value]
        inner = rt.local_irq_save()
        rt.local_irq_restore(inner)
        rt.cpu_relax()
        seen += [inner, taken.value]
        rt.local_irq_restore(outer)
        return [*seen, taken.value]

    def sender() -> None:
        until(rt, lambda: ready.value)
        rt.call_on(1, handler, wait=False)
        posted.value = True

    expect(rt.run([sender, deaf])[1], [True, False, False, False, True], "flags and deliveries")


def check_interrupts_of_sleepers(rt: Runtime) -> None:
    """A CPU that waits for a mutex, a reader-writer semaphore or a wake-up takes interrupts."""
    mutex, sem = rt.mutex("conformance-mutex"), rt.rwsem("conformance-rwsem")
    for hold, wait in ((mutex, mutex), (sem.write(), sem.write()), (sem.write(), sem.read())):
        expect(rt.run(_interrupt_a_waiter(rt, hold, wait)), [1, None], "CPU of the handler")

    lock = rt.spinlock("conformance-lock", irqsave=True)
    queue = rt.waitqueue(lock, "conformance-queue")
    asleep, awake = rt.cell(False, "asleep"), [False]

    def sleeper() -> bool:
        with lock:
            asleep.value = True
            return queue.wait_for(lambda: awake[0], PATIENCE)

    def handler() -> int:
        with lock:
            awake[0] = True
            queue.wake_up()
        return rt.smp_processor_id()

    def waker() -> object:
        until(rt, lambda: asleep.value)
        return rt.call_on(1, handler)

    expect(rt.run([waker, sleeper]), [1, True], "a sleeper woken by its own CPU's handler")


def _interrupt_a_waiter(
    rt: Runtime, hold: AbstractContextManager[Any], wait: AbstractContextManager[Any]
) -> list[Callable[[], object]]:
    held, waiting = rt.cell(False, "held"), rt.cell(False, "waiting")

    def holder() -> object:
        with hold:
            held.value = True
            until(rt, lambda: waiting.value)
            return rt.call_on(1, rt.smp_processor_id)

    def waiter() -> None:
        until(rt, lambda: held.value)
        waiting.value = True
        with wait:
            pass

    return [holder, waiter]


def check_interrupt_failures(rt: Runtime) -> None:
    """What a handler raises reaches who waits for it, or else the end of the run."""
    error = ValueError("raised by a handler")

    def fail() -> None:
        raise error

    def asks() -> bool:
        return all(raised_by(partial(rt.call_on, cpu, fail)) is error for cpu in range(2))

    expect(rt.run([asks]), [True], "the error reaches the caller")
    for cpu in range(2):
        failure = raised_by(lambda: rt.run([lambda: rt.call_on(cpu, fail, wait=False)]))  # noqa: B023
        members = failure.exceptions if isinstance(failure, ExceptionGroup) else ()
        expect([type(member) for member in members], [InterruptFailed], "the end of the run")
        expect(members[0].__cause__, error, "the cause of InterruptFailed")
    expect(rt.run([lambda: 1, lambda: 2]), [1, 2], "the next run")


def check_on_each_cpu(rt: Runtime) -> None:
    """on_each_cpu() runs the function once on each CPU, also when several CPUs call it at once."""
    pairs = rt.percpu(Pair, "conformance-pair")

    def handler() -> None:
        pairs.this().step(rt)

    def body() -> None:
        for _ in range(ROUNDS):
            rt.on_each_cpu(handler)

    rt.run([body] * rt.nr_cpus)
    body()
    counts = [pair.b for pair in pairs.all()]
    expect(counts, [ROUNDS * (rt.nr_cpus + 1)] * rt.nr_cpus, "calls on each CPU")


def check_body_failures(rt: Runtime) -> None:
    """run() returns results in order, or raises what bodies raised, once all have ended."""
    errors = [ValueError("first"), KeyError("third")]
    ended = rt.cell(False, "ended")

    def fail(error: Exception) -> None:
        raise error

    def slow() -> None:
        for _ in range(ROUNDS):
            rt.cpu_relax()
        ended.value = True

    bodies: list[Callable[[], None]] = [partial(fail, errors[0]), slow, partial(fail, errors[1])]
    failure = raised_by(lambda: rt.run(bodies))
    expect(isinstance(failure, ExceptionGroup), True, "an ExceptionGroup")
    members = failure.exceptions if isinstance(failure, ExceptionGroup) else ()
    expect(list(members), errors, "its members")
    expect(ended.value, True, "the other body has ended")
    expect(rt.run([lambda: "a", None, lambda: "c"]), ["a", None, "c"], "results in order")
    expect(rt.run([]), [], "no bodies")


def check_run_queue(rt: Runtime) -> None:
    """submit() runs calls on their CPU in order, and the futures have results and errors."""
    order: list[int] = []  # of CPU 1 only

    def fn(number: int) -> tuple[int, int]:
        order.append(number)
        return rt.smp_processor_id(), number

    futures = [rt.submit(1, fn, number) for number in range(ROUNDS)]
    results = [future.result(PATIENCE) for future in futures]
    expect(results, [(1, number) for number in range(ROUNDS)], "results")
    expect(order, list(range(ROUNDS)), "order")
    error = rt.submit(0, "".index, "x").exception(PATIENCE)
    expect(isinstance(error, ValueError), True, "an error")


def check_stop_machine(rt: Runtime) -> None:
    """stop_machine() finds every CPU and kernel thread between two operations, and returns."""
    pairs = rt.percpu(Pair, "conformance-pair")
    stops, done = rt.cell(0, "stops"), rt.cell(False, "done")

    def work() -> None:
        while not done.value:
            pairs.this().step(rt)
            rt.cond_resched()

    def look() -> list[bool]:
        counts = [(pair.a, pair.b) for pair in pairs.all()]
        still = [pair.a == pair.b for pair in pairs.all()]
        stops.value = stops.value + 1  # no lock: one at a time
        return [*still, counts == [(pair.a, pair.b) for pair in pairs.all()]]

    def stop_often() -> bool:
        return all(all(rt.stop_machine(look)) for _ in range(ROUNDS))

    working = [0, 1, rt.kthread_run(work, "conformance-kthread")]
    workers = [rt.submit(cpu, work) for cpu in (0, 1)]
    begun = rt.submit(2, until, rt, lambda: all(pairs.of(cpu).b for cpu in working))
    begun.result(PATIENCE)
    stoppers = [rt.submit(cpu, stop_often) for cpu in (2, 3)]
    outside = stop_often()
    consistent = [stopper.result(PATIENCE) for stopper in stoppers]
    failure = raised_by(lambda: rt.stop_machine(lambda: 1 // 0))
    done.value = True
    for worker in workers:
        worker.result(PATIENCE)
    expect([outside, *consistent], [True] * 3, "a consistent view")
    expect(stops.value, 3 * ROUNDS, "stops, one at a time")
    expect(isinstance(failure, ZeroDivisionError), True, "an error reaches the caller")


def check_stop_machine_meets_waiters(rt: Runtime) -> None:
    """stop_machine() gets through between interrupts, contended mutexes and sleepers."""
    mutex, value = rt.mutex("conformance-mutex"), [0]

    def busy() -> None:
        other = 1 - rt.smp_processor_id()
        for _ in range(ROUNDS):
            with mutex:
                value[0] += 1
            rt.call_on(other, rt.smp_processor_id)
            rt.on_each_cpu(lambda: None)

    def stop() -> None:
        for _ in range(ROUNDS):
            with mutex:
                value[0] += rt.stop_machine(lambda: 1)

    rt.run([busy, busy, stop, stop])
    expect(value, [4 * ROUNDS], "turns")


def check_shutdown(rt: Runtime) -> None:
    """shutdown() ends bodies that run, spin, sleep or have not begun; nothing starts afterwards."""
    mutex = rt.mutex("conformance-mutex")
    queue = rt.waitqueue(mutex, "conformance-queue")
    started = rt.atomic(0, "started")
    survived: list[str] = []

    def running() -> None:
        started.inc()
        while True:
            rt.cond_resched()

    def spinning() -> None:
        started.inc()
        until(rt, lambda: False)

    def sleeping() -> None:
        with mutex:
            started.inc()
            queue.wait()
            survived.append("wait")

    def careless() -> None:
        started.inc()
        while True:
            try:
                with mutex:
                    queue.wait()
            except Exception:
                survived.append("except Exception")

    bodies = [running, spinning, sleeping, careless]
    futures = [rt.submit(cpu, body) for cpu, body in enumerate(bodies)]
    futures.append(rt.submit(2, survived.append, "queued"))
    rt.kthread_run(sleeping, "conformance-kthread")
    rt.run([None] * 4 + [lambda: until(rt, lambda: started.value == 5)])
    rt.shutdown()
    errors = [type(future.exception(PATIENCE)) for future in futures]
    expect(errors, [MachineClosed] * 5, "errors of the futures")
    expect(survived, [], "code that ran on")
    rt.shutdown()
    for use in (
        lambda: rt.submit(0, int),
        lambda: rt.call_on(0, int),
        lambda: rt.run([int]),
        lambda: rt.stop_machine(int),
        lambda: rt.kthread_run(running, "conformance-late"),
    ):
        expect(type(raised_by(use)), MachineClosed, "use after shutdown")


def check_clock(rt: Runtime) -> None:
    """Time does not go back."""
    times = [rt.clock_ns(), *(rt.run([rt.clock_ns])[0] or 0 for _ in range(3)), rt.clock_ns()]
    expect(times, sorted(times), "clock_ns()")
    expect(rt.jiffies >= 0, True, "jiffies are positive")


CHECKS = (
    Check(check_percpu, 3),
    Check(check_not_a_cpu, 1),
    Check(check_interrupt_target, 3),
    Check(check_interrupts_disabled, 2),
    Check(check_interrupts_of_sleepers, 2),
    Check(check_interrupt_failures, 2),
    Check(check_on_each_cpu, 3),
    Check(check_body_failures, 3),
    Check(check_run_queue, 2),
    Check(check_stop_machine, 4),
    Check(check_stop_machine_meets_waiters, 4),
    Check(check_shutdown, 5),
    Check(check_clock, 1),
)
