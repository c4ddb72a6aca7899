"""
What every scheduler must do: :func:`run_scheduler_conformance_test`.

The checks know nothing of a scheduler's policy: they look at what it does with small programs in which
everything occurs that can be a choice (locks, sleepers, interrupts, kernel threads, time-outs, yields).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Any, ClassVar, Final

from concmem.errors import ScheduleAbandoned
from concmem.explore.controlled import ControlledRuntime
from concmem.explore.execution import Execution
from concmem.explore.operation import NOTES, name_of
from concmem.explore.program import Program
from concmem.explore.runner import Limits, MakeProgram, Runner
from concmem.explore.schedule import Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.replay import Replay
from concmem.explore.task import Task
from concmem.testing.conformance_check import Nonconforming, expect
from concmem.testing.conformance_programs import CORRECT, PROGRAMS, failing

EXECUTIONS: Final = 20
"""Of each program; less where the scheduler has no more."""

MOST: Final = 1000
"""Executions in which an exhaustive search of the smallest program is to end."""

LIMITS: Final = Limits(max_steps=2000, early_timeouts=1, spurious_wakeups=1)

MakeScheduler = Callable[[], Scheduler]

Operations = list[tuple[int, str, str]]
"""Of each step: `Task.index`, the kind of the operation, the name of its object."""


def run_scheduler_conformance_test(make_scheduler: MakeScheduler) -> None:
    """
    Check that a scheduler keeps the promises of :class:`concmem.explore.Scheduler`.

    Args:
        make_scheduler: a `Scheduler` class, or a callable that makes a new one.

    Covered: it chooses enabled tasks only; the same seed makes the same search, also after `reset`; what it did
    replays; it goes on after executions that failed or were abandoned; interrupts, kernel threads, time-outs and
    yields do not get it stuck; what it calls an exhaustive search misses nothing.

    Raises:
        AssertionError: a property does not hold. The message starts with the property's name.
    """
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        try:
            check(make_scheduler)
        except Exception as error:
            raise AssertionError(
                f"{name}: {(check.__doc__ or '').strip()} But: {error!r}"
            ) from error


class Watcher(Scheduler):
    """
    Passes each call on to another scheduler, and looks at what comes back.

    Args:
        abandon: in each third execution, break off at a step that grows from one to the next.
    """

    name: ClassVar[str] = "watcher"

    def __init__(self, scheduler: Scheduler, abandon: bool = False) -> None:
        self._scheduler = scheduler
        self._abandon = abandon
        self._executions = 0
        self._is_on = False

    def reset(self, seed: int) -> None:
        self._scheduler.reset(seed)

    def begin(self, execution: Execution) -> bool:
        expect(self._is_on, False, "an execution begins while another one is on")
        self._is_on = more = self._scheduler.begin(execution)
        expect(type(more), bool, "what begin() returns")
        self._executions += 1
        self._left = self._executions if self._abandon and self._executions % 3 == 0 else -1
        return more

    def choose(self, enabled: Sequence[Task], current: Task) -> Task:
        expect(self._is_on, True, "choices are made in an execution")
        if not self._left:
            raise ScheduleAbandoned
        self._left -= 1
        before = list(enabled)
        chosen = self._scheduler.choose(enabled, current)
        if chosen not in before:
            raise Nonconforming(f"chose {chosen!r}, which is none of {before}")
        expect(list(enabled), before, "the list of tasks is left as it was")
        return chosen

    def end(self, execution: Execution) -> None:
        expect(self._is_on, True, "an execution has begun that ends")
        self._is_on = False
        self._scheduler.end(execution)


@contextmanager
def _session(program: MakeProgram) -> Iterator[Runner]:
    with Runner(program, limits=LIMITS).session() as runner:
        yield runner


def _executions(
    runner: Runner, scheduler: Scheduler, most: int = EXECUTIONS
) -> Iterator[Execution]:
    for _ in range(most):
        execution = runner.run_once(scheduler)
        if execution is None:
            return
        yield execution


def _operations(execution: Execution) -> Operations:
    trace: list[Any] = execution.trace
    return [
        (trace[i].index, trace[i + 1], name_of(trace[i + 2]))
        for i in range(0, len(trace), 3)
        if trace[i] is not None and trace[i + 1] not in NOTES
    ]


def _search(program: MakeProgram, scheduler: Scheduler, seed: int) -> list[Operations]:
    scheduler.reset(seed)
    with _session(program) as runner:
        return [_operations(execution) for execution in _executions(runner, scheduler)]


def check_chooses_enabled_tasks(make_scheduler: MakeScheduler) -> None:
    """It chooses one of the enabled tasks, and correct programs come to their end."""
    for program in CORRECT:
        scheduler = Watcher(make_scheduler())
        scheduler.reset(1)
        with _session(program) as runner:
            for execution in _executions(runner, scheduler):
                if execution.finding is not None:
                    raise Nonconforming(f"{program.__name__} failed: {execution.finding}")


def check_goes_on_after_failures(make_scheduler: MakeScheduler) -> None:
    """Executions that fail end like others, and others follow."""
    scheduler = Watcher(make_scheduler())
    scheduler.reset(3)
    with _session(failing) as runner:
        for _ in _executions(runner, scheduler):
            pass


def check_goes_on_after_abandoned_executions(make_scheduler: MakeScheduler) -> None:
    """Executions that are broken off end like others, and others follow."""
    for program in PROGRAMS:
        scheduler = Watcher(make_scheduler(), abandon=True)
        scheduler.reset(4)
        with _session(program) as runner:
            for _ in _executions(runner, scheduler):
                pass


def check_same_seed_same_search(make_scheduler: MakeScheduler) -> None:
    """The same seed makes the same executions, also of an object that was used before."""
    used = make_scheduler()
    for program in PROGRAMS:
        first = _search(program, make_scheduler(), 7)
        expect(len(first) > 0, True, f"executions of {program.__name__}")
        expect(_search(program, make_scheduler(), 7) == first, True, f"{program.__name__} again")
        expect(_search(program, used, 7) == first, True, f"{program.__name__} after reset()")


def check_replays(make_scheduler: MakeScheduler) -> None:
    """The schedule of each execution replays to the same operations and the same end."""
    for program in PROGRAMS:
        scheduler = make_scheduler()
        scheduler.reset(2)
        with _session(program) as runner:
            for execution in _executions(runner, scheduler):
                operations, finding = _operations(execution), execution.finding
                replay = Replay(Schedule(tuple(execution.deviations)))
                again = runner.run_once(replay)
                assert again is not None
                replayed = _operations(again)
                if (
                    execution.scheduler_error is not None
                ):  # it was broken off; the other one goes on
                    del replayed[len(operations) :]
                expect(replayed, operations, f"{program.__name__}, {replay.schedule}")
                if execution.scheduler_error is not None:
                    continue
                kinds = [each and each.kind for each in (again.finding, finding)]
                expect(kinds[0], kinds[1], f"the end of {program.__name__}, {replay.schedule}")
                if finding is None:
                    replay.finish()


def check_exhaustive_is_exhaustive(make_scheduler: MakeScheduler) -> None:
    """A search that ends, and says that it was exhaustive, has met every order of conflicting operations."""
    orders = set()

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")
        order: list[int] = []

        def body(number: int) -> None:
            for _ in range(2):
                x.value = number
                order.append(number)

        bodies = [partial(body, 0), partial(body, 1)]
        return Program(bodies, lambda: orders.add(tuple(order)))

    scheduler = make_scheduler()
    scheduler.reset(5)
    with _session(program) as runner:
        executions = len(list(_executions(runner, scheduler, MOST)))
        if executions == MOST:
            return
        if scheduler.exhaustive:
            expect(orders, set(permutations((0, 0, 1, 1))), "orders of two writes each")
        expect(runner.run_once(scheduler), None, "one more execution after the last one")


CHECKS: tuple[Callable[[MakeScheduler], None], ...] = (
    check_chooses_enabled_tasks,
    check_goes_on_after_failures,
    check_goes_on_after_abandoned_executions,
    check_same_seed_same_search,
    check_replays,
    check_exhaustive_is_exhaustive,
)
