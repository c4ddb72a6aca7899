"""What every scheduler must do: :func:`run_scheduler_conformance_test`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from concmem.errors import ScheduleAbandoned
from concmem.explore import ControlledRuntime, Program, Replay, Schedule, Scheduler
from concmem.explore import operation as op
from concmem.explore.runner import Limits, Runner
from concmem.testing.conformance_check import Nonconforming, expect

if TYPE_CHECKING:
    from concmem.explore.execution import Execution
    from concmem.explore.task import Task

EXECUTIONS = 40

Steps = list[tuple[str, str, str]]


def run_scheduler_conformance_test(make_scheduler: Callable[[], Scheduler]) -> None:
    """
    Check that a scheduler keeps the promises of :class:`concmem.explore.Scheduler`.

    Args:
        make_scheduler: a `Scheduler` class, or a callable; called afresh for each check.

    Covered: it chooses enabled tasks only, and does not change what it is given; the same seed gives the same
    executions; what it did replays from its schedule to the same operations; it survives executions that
    fail, and programs with interrupts, kernel threads, time-outs, spurious wake-ups and yields; when it says
    that it is done, it stays done.

    Raises:
        AssertionError: a property does not hold. The message says which, with which program.
    """
    for make_program in _PROGRAMS:
        name = make_program.__name__
        first = _run(_Watched(make_scheduler(), name), make_program, seed=1)
        again = _run(_Watched(make_scheduler(), name), make_program, seed=1)
        expect([steps for _, steps in again], [steps for _, steps in first], f"{name}: same seed")
        runner = Runner(make_program, 2, limits=_LIMITS)
        with runner.session():
            for schedule, steps in first:
                execution = runner.run_once(Replay(schedule))
                assert execution is not None
                expect(_steps(execution), steps, f"{name}: replay of {schedule}")
                expect(tuple(execution.deviations), schedule.deviations, f"{name}: its schedule")


_LIMITS = Limits(max_steps=400, early_timeouts=1, spurious_wakeups=1)


class _Watched(Scheduler):
    """Looks at what another scheduler does."""

    name = "watched"

    def __init__(self, inner: Scheduler, program: str) -> None:
        self._inner = inner
        self._program = program
        self._running = False

    def reset(self, seed: int) -> None:
        self._inner.reset(seed)

    def begin(self, execution: Execution) -> bool:
        expect(self._running, False, f"{self._program}: begin() after end()")
        self._running = self._inner.begin(execution)
        return self._running

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        given = list(enabled)
        chosen = self._inner.choose(enabled, current)
        expect(list(enabled), given, f"{self._program}: the list of enabled tasks, afterwards")
        if not any(chosen is task for task in given):
            raise Nonconforming(f"{self._program}: {chosen} was chosen of {given}")
        return chosen

    def end(self, execution: Execution) -> None:
        self._running = False
        self._inner.end(execution)


def _run(
    scheduler: Scheduler, make_program: Callable[[ControlledRuntime], Program], seed: int
) -> list[tuple[Schedule, Steps]]:
    scheduler.reset(seed)
    runner = Runner(make_program, 2, limits=_LIMITS)
    executions = []
    with runner.session():
        for _ in range(EXECUTIONS):
            execution = runner.run_once(scheduler)
            if execution is None:
                expect(runner.run_once(scheduler), None, "begin() once it has said that it is done")
                break
            if isinstance(execution.scheduler_error, ScheduleAbandoned):
                continue
            executions.append((Schedule(tuple(execution.deviations)), _steps(execution)))
    if not executions:
        raise Nonconforming("not a single execution")
    return executions


def _steps(execution: Execution) -> Steps:
    trace: list[Any] = execution.trace
    return [
        (trace[i].name, trace[i + 1], op.name_of(trace[i + 2]))
        for i in range(0, len(trace), 3)
        if trace[i] is not None and trace[i + 1] not in op.NOTES
    ]


# -- programs with a bit of everything


def _counters(rt: ControlledRuntime) -> Program:
    """Fails under some schedules."""
    x, lock = rt.cell(0, "x"), rt.spinlock("lock")

    def body() -> None:
        value = x.value
        with lock:
            x.value = value + 1

    def after() -> None:
        assert x.value == 2

    return Program([body, body], after)


def _sleepers(rt: ControlledRuntime) -> Program:
    """Wake-ups, time-outs, and a CPU that yields."""
    lock = rt.spinlock("lock", irqsave=True)
    queue = rt.waitqueue(lock, "queue")
    ready = [False]
    seen = rt.cell(False, "seen")

    def sleeper() -> None:
        with lock:
            queue.wait_for(lambda: ready[0], 1.0)
        seen.value = True

    def waker() -> None:
        with lock:
            ready[0] = True
            queue.wake_up()
        while not seen.value:
            rt.cpu_relax()

    return Program([sleeper, waker])


def _interrupted(rt: ControlledRuntime) -> Program:
    """Interrupts, of the program and of another CPU, and a semaphore."""
    x, sem = rt.atomic(0, "x"), rt.rwsem("sem")

    def body() -> None:
        flags = rt.local_irq_save()
        x.inc()
        rt.local_irq_restore(flags)
        with sem.read():
            x.inc()

    def caller() -> None:
        with sem.write():
            x.inc()
        rt.call_on(0, x.inc)

    return Program([body, caller], interrupts=[(0, x.inc), (1, x.dec)])


def _kthread(rt: ControlledRuntime) -> Program:
    """A kernel thread with work, and a body that starts another one and joins it."""
    lock = rt.spinlock("lock")
    queue = rt.waitqueue(lock, "queue")
    work: list[int] = []
    done = rt.atomic(0, "done")

    def thread() -> None:
        while True:
            with lock:
                queue.wait_for(lambda: bool(work))
                work.clear()
            done.inc()

    rt.kthread_run(thread, "worker")

    def add(number: int) -> None:
        with lock:
            work.append(number)
            queue.wake_up()

    def main() -> None:
        future = rt.submit(1, add, 1)
        add(2)
        future.result()

    return Program([main, None])


_PROGRAMS = (_counters, _sleepers, _interrupted, _kthread)
