"""The controlled runtime keeps the promises of the seam, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from math import factorial
from typing import Any

import psutil
import pytest

from concmem import explore
from concmem.errors import BadArgument, BadArgumentType, MachineClosed, NotACpu
from concmem.explore import ControlledRuntime, Program
from concmem.explore.schedulers import SCHEDULERS
from concmem.explore.shrink import Shrinker
from concmem.testing.conformance import run_runtime_conformance_test

from .programs import abba, counter, sleeper_without_waker


@pytest.mark.parametrize("seed", range(10))
def test_conforms(seed: int) -> None:
    """It passes the conformance test of all runtimes, whatever the random walk does."""
    run_runtime_conformance_test(partial(ControlledRuntime, seed=seed))


def test_conforms_under_round_robin() -> None:
    """The same with a scheduler that switches at every step."""
    run_runtime_conformance_test(lambda n: ControlledRuntime(n, scheduler=explore.RoundRobin()))


def test_bodies_run_on_threads_of_their_own() -> None:
    """CPUs are OS threads, and the same ones in every execution."""
    seen: set[tuple[int, int]] = set()

    def program(rt: ControlledRuntime) -> Program:
        def body() -> None:
            seen.add((rt.smp_processor_id(), threading.get_ident()))

        return Program([body, body])

    explore.check(program, "dfs", executions=5)
    explore.check(program, "random", executions=20)
    assert {cpu for cpu, _ in seen} == {0, 1}
    assert threading.get_ident() not in {thread for _, thread in seen}
    assert len(seen) <= 4, "two checks, two threads each"


@pytest.mark.parametrize("program", [counter, abba, sleeper_without_waker])
def test_no_thread_and_no_memory_is_left(program: explore.check.MakeProgram) -> None:
    """10,000 executions that all fail: as many threads as before, and the memory does not grow."""
    threads, descriptors = threading.active_count(), psutil.Process().num_fds()

    def fail(times: int) -> None:
        runner = explore.runner.Runner(program, 2)
        with runner.session():
            failed = 0
            scheduler = explore.Replay(str(FAILING[program.__name__]))
            for _ in range(times):
                execution = runner.run_once(scheduler)
                assert execution is not None
                failed += execution.finding is not None
            assert failed == times

    fail(2_000)
    gc.collect()
    before = psutil.Process().memory_info().rss
    fail(10_000)
    gc.collect()
    grown = psutil.Process().memory_info().rss - before
    assert threading.active_count() == threads
    assert psutil.Process().num_fds() == descriptors
    # 10,000 executions that kept no more than their trace would be some 50 MB. An allocator may keep some of
    # what others have freed, the more so in a process that has run many tests.
    assert grown < 20 << 20


FAILING = {"counter": "v1:1.0", "abba": "v1:1.0", "sleeper_without_waker": "v1:"}


def test_host_cpus_are_given_back() -> None:
    """Threads are pinned for the duration of a check only."""
    before = os.sched_getaffinity(0)
    inside: list[set[int]] = []

    def program(rt: ControlledRuntime) -> Program:
        return Program([lambda: inside.append(os.sched_getaffinity(0))])

    explore.check(program, executions=1)
    explore.check(program, executions=1, pin=False)
    assert os.sched_getaffinity(0) == before
    assert [len(cpus) for cpus in inside] == [1, len(before)]


def test_runtime_after_the_end() -> None:
    """A runtime that was shut down says so."""
    rt = ControlledRuntime(1)
    rt.shutdown()
    with pytest.raises(MachineClosed):
        rt.run([int])


@pytest.mark.parametrize("cpus", [0, 257, -1, 1.5, True, "2"])
def test_bad_number_of_cpus(cpus: object) -> None:
    """The argument is named."""
    with pytest.raises(BadArgument, match="cpus"):
        ControlledRuntime(cpus)  # type: ignore[arg-type]


def test_the_driver_wakes_and_waits() -> None:
    """Who is woken by the driver, under the lock, can have the lock once the driver sleeps."""
    rt = ControlledRuntime(1)
    lock = rt.spinlock("lock")
    asked, answered = rt.waitqueue(lock, "asked"), rt.waitqueue(lock, "answered")
    states = ["idle"]

    def answer() -> None:
        with lock:
            asked.wait_for(lambda: states[-1] == "asked")
            states.append("answered")
            answered.wake_up()

    rt.kthread_run(answer, "answers")
    with lock:
        states.append("asked")
        asked.wake_up()
        answered.wait_for(lambda: states[-1] == "answered")
    rt.shutdown()


def test_not_a_cpu() -> None:
    """The driver has no per-CPU data, not even between two bodies."""
    rt = ControlledRuntime(1)
    rt.run([lambda: None])
    with pytest.raises(NotACpu):
        rt.smp_processor_id()
    rt.shutdown()


def test_a_hang_is_a_failure() -> None:
    """A body that never comes to a point is broken off, and said where it was."""

    def program(rt: ControlledRuntime) -> Program:
        rt.execution.patience = 0.2

        def spins_alone() -> None:
            while True:
                pass

        return Program([spins_alone])

    outcome = explore.check(program, executions=3, shrink=False)
    assert outcome.failure is not None
    assert outcome.failure.kind == "hang"
    assert "spins_alone" in str(outcome.failure.error)


INTERRUPTED = """
    import sys
    from concmem import explore

    def program(rt):
        x = rt.atomic(0, "x")
        def body():
            for _ in range(20):
                x.inc()
            print("." if x.value == 40 else "", end="", flush=True)
        return explore.Program([body, body])

    outcome = explore.check(program, "random", executions=10**9)
    assert outcome.interrupted and outcome.ended_by == "interrupt" and outcome.executions > 0
    assert outcome.failure is None and not outcome.exhausted
    sys.exit(7)
"""


@pytest.mark.parametrize("attempt", range(5))
def test_ctrl_c_gives_the_outcome_so_far(attempt: int) -> None:
    """SIGINT in the middle of a search ends it, with what was counted, and no thread hangs."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.read(3 + attempt)  # it runs
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 7


def test_every_scheduler_by_name() -> None:
    """The names of the reference are there, and an unknown one is refused."""
    assert {"random", "pct", "dfs", "rr"} <= set(SCHEDULERS)
    with pytest.raises(BadArgument, match="scheduler"):
        explore.check(counter, "none")


def test_a_lock_taken_while_its_waiter_rests() -> None:
    """Who has yielded, and wants a lock next, does not get it while another one holds it."""

    def program(rt: ControlledRuntime) -> Program:
        lock, x = rt.spinlock("lock"), rt.cell(0, "x")

        def yields() -> None:
            rt.cpu_relax()
            with lock:
                x.value = 1

        def holds() -> None:
            with lock:
                x.value = 2
                assert x.value == 2

        # A third one, so that the first rests on while the second has the lock.
        return Program([yields, holds, rt.cond_resched])

    outcome = explore.check(program, "dfs")
    assert outcome.failure is None, str(outcome.failure)
    assert outcome.exhausted


def test_a_lock_taken_while_its_waiter_is_interrupted() -> None:
    """A CPU that is about to take a lock is interrupted, and another one takes it meanwhile."""

    def program(rt: ControlledRuntime) -> Program:
        lock, x = rt.spinlock("lock", irqsave=True), rt.cell(0, "x")

        def increment() -> None:
            with lock:
                x.value = x.value + 1

        def after() -> None:
            assert x.value == 2

        return Program([increment, increment], after, interrupts=[(0, rt.cond_resched)])

    outcome = explore.check(program, "dfs")
    assert outcome.failure is None, str(outcome.failure)
    assert outcome.exhausted


@pytest.mark.parametrize("nr_bodies", [1, 2, 3, 4])
def test_every_number_of_cpus_is_searched(nr_bodies: int) -> None:
    """An execution begins once for the scheduler, also where the number of CPUs was guessed wrong first."""

    def program(rt: ControlledRuntime) -> Program:
        return Program([rt.cond_resched] * nr_bodies)

    outcome = explore.check(program, "dfs")
    assert outcome.exhausted
    assert outcome.executions == factorial(nr_bodies)


def test_a_kernel_thread_that_fails_at_once_is_not_run_again() -> None:
    """It fails while the machine boots; then the bodies run, and the schedule is one that can be replayed."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def thread() -> None:
            raise RuntimeError("at boot")

        with contextlib.suppress(RuntimeError):
            rt.kthread_run(thread, "thread")

        def body() -> None:
            for _ in range(5):
                x.value += 1

        def after() -> None:
            assert x.value == 10

        return Program([body, body], after)

    outcome = explore.check(program, "random", 50, seed=0, cpus=2, shrink=False)
    assert outcome.failure is not None
    again = explore.replay(program, outcome.failure.schedule, cpus=2)
    assert again.failure is not None
    assert again.failure.identity == outcome.failure.identity


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"max_steps": 0}, BadArgument),
        ({"max_steps": "many"}, BadArgumentType),
        ({"early_timeouts": -1}, BadArgument),
        ({"spurious_wakeups": -1}, BadArgument),
        ({"verify_every": -1}, BadArgument),
        ({"detectors": {"races", "rates"}}, BadArgument),
        ({"detectors": "races"}, BadArgumentType),
    ],
)
def test_bad_arguments_are_named_wherever_they_are_given(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    """A detector that is misspelt must not look like a program that passes."""
    for call in (
        lambda: explore.check(counter, **arguments),
        lambda: explore.replay(counter, "v1:", **arguments),
        lambda: explore.shrink(counter, "v1:1.0", **arguments),
    ):
        with pytest.raises(error, match=next(iter(arguments))):
            call()


@pytest.mark.parametrize(("seconds", "error"), [(0, BadArgument), ("1", BadArgumentType)])
def test_bad_seconds(seconds: Any, error: type[Exception]) -> None:
    for call in (
        lambda: explore.check(counter, seconds=seconds),
        lambda: explore.shrink(counter, "v1:1.0", seconds=seconds),
    ):
        with pytest.raises(error, match="seconds"):
            call()


def test_interrupted_while_it_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is not lost."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Shrinker, "drop_deviations", interrupted)
    outcome = explore.check(counter, "random", cpus=2)
    assert outcome.interrupted
    assert outcome.failure is not None
    assert outcome.failure.schedule in str(outcome)
    again = explore.replay(counter, outcome.failure.schedule, **outcome.failure.options)
    assert again.failure is not None
    assert again.failure.identity == outcome.failure.identity
