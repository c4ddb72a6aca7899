"""The front door: :func:`check`, :func:`replay`, :func:`shrink`."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

from concmem.errors import BadArgument, BadArgumentType, ReplayDiverged
from concmem.explore.failure import Failure
from concmem.explore.runner import DETECTORS, Limits, MakeProgram, Runner, failure_from
from concmem.explore.schedule import Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers import DPOR, make_scheduler
from concmem.explore.schedulers.replay import Replay
from concmem.explore.shrink import minimize

EXECUTIONS: Final = 10_000
SHRINK_SECONDS: Final = 5.0

SUSPECTED: Final = 100
SUSPECTED_SECONDS: Final = 5.0
"""
How long is looked on for something worse once the lock validator has reported: so many executions besides twice
those that it took, and not more than so many seconds.
"""


@dataclass
class Coverage:
    """How much of a program a check has seen."""

    schedules: int = 0
    """Different schedules."""
    steps_min: int = 0
    steps_max: int = 0
    """Steps of the shortest and of the longest execution."""
    tasks: int = 0
    """The most tasks (CPUs, interrupts, kernel threads) that took part in one."""
    preemptions_max: int = 0
    """The most deviations that one schedule had."""
    unchosen: int = 0
    """Steps of all executions that the scheduler did not choose: they bring CPUs to where ``verify`` can look."""
    unoffered: int = 0
    """Sleeps that could have ended spuriously, too, but were only offered their time-out."""

    @property
    def leaves_out(self) -> bool:
        """Whether something could happen that no scheduler was asked about: then it covers nothing completely."""
        return bool(self.unchosen or self.unoffered)


@dataclass
class Outcome:
    """
    What a check has found, or what it means that it found nothing.

    ``bool(outcome)`` is whether nothing was found; ``str(outcome)`` says it in words.
    """

    scheduler: str
    seed: int
    failure: Failure | None = None
    executions: int = 0
    steps: int = 0
    """Of all executions."""
    seconds: float = 0.0
    exhausted: bool = False
    """Whether every schedule was covered: nothing was cut off, by a bound neither."""
    bound: int | None = None
    """The deepest bound that was covered completely, for schedulers that have bounds."""
    bounds: str = ""
    """What `bound` counts, such as ``preemptions``."""
    probability: float | None = None
    """At least so probable is it that a bug of the scheduler's depth would have been found."""
    coverage: Coverage = field(default_factory=Coverage)
    abandoned: int = 0
    """Executions that were broken off because others cover them."""
    interrupted: bool = False
    """Ended by Ctrl-C."""
    depth: int | None = None
    """Which bug depth `probability` is for."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments that were not the usual ones, and decide what an execution is."""
    ended_by: str = ""
    """
    ``failure``, ``exhausted``, ``executions``, ``seconds``, ``interrupt``, or ``scheduler``: that had no more,
    although there is more.
    """

    def __bool__(self) -> bool:
        return self.failure is None

    def to_text(self, width: int | None = None, colour: bool = False) -> str:
        """``str(outcome)`` in so many columns (``None``: those of the terminal), for a terminal in colour."""
        from concmem.explore.render.summary import summarize
        from concmem.explore.render.table import Look, terminal_width

        return summarize(self, Look(width or terminal_width(), colour))

    def __str__(self) -> str:
        return self.to_text()


Progress = Callable[[Outcome], None]


def check(
    program: MakeProgram,
    scheduler: str | Scheduler = "pct",
    executions: int = EXECUTIONS,
    seed: int = 0,
    *,
    seconds: float | None = None,
    cpus: int | None = None,
    max_steps: int = Limits.max_steps,
    early_timeouts: int = 0,
    spurious_wakeups: int = 0,
    detectors: frozenset[str] | set[str] = DETECTORS,
    verify_every: int = 0,
    shrink: bool = True,
    pin: bool = True,
    progress: Progress | None = None,
) -> Outcome:
    """
    Run *program* under many schedules, until one fails.

    Args:
        program: called with a fresh runtime for each execution; returns a `Program`.
        scheduler: ``random pct pos urw surw pb db dfs dpor rr nondeterminism``, or an object.
        executions: the most; *seconds*: of the search, the most.
        seed: everything random follows from it; the same seed, the same search.
        cpus: of the runtime; by default what the program needs.
        max_steps: an execution with more fails with ``livelock`` or ``step-limit``.
        early_timeouts, spurious_wakeups: how many an execution may have. Other time-outs fire when nobody
            can go on. With both, what sleeps with a time-out wakes spuriously only once these are used up, and no
            search is exhaustive: check each alone as well.
        detectors: of ``races`` and ``lockdep``; the others are always on.
        verify_every: call the program's ``verify`` also after so many steps, again and again (0: only at the end),
            between any two operations. ``Machine.verify`` first lets each CPU come to where it can be parked:
            steps that the scheduler does not choose, so not for ``dpor``; and then no other search is exhaustive,
            has a bound or a probability.
        shrink: look for the simplest schedule, and the smallest program, that fail the same way.
        pin: keep all threads on one host CPU meanwhile; ten times as fast.
        progress: called now and then with the outcome so far.

    Returns:
        The outcome. Ctrl-C ends the search, or the shrinking, and gives the outcome so far.

    Raises:
        BadArgument: an argument cannot be.
        ReplayDiverged: the program depends on more than its schedule.
    """
    _check_number("executions", executions, 1)
    _check_seconds(seconds)
    limits = _limits(max_steps, early_timeouts, spurious_wakeups, detectors, verify_every)
    policy = make_scheduler(scheduler)
    if verify_every and isinstance(policy, DPOR):
        raise BadArgument("verify_every: not with dpor, which must choose every step itself")
    policy.reset(seed)
    runner = Runner(program, cpus, limits=limits, pin=pin)
    outcome = Outcome(policy.name, seed, bounds=policy.bounds, options=runner.options())
    with runner.session():
        try:
            _search(runner, policy, outcome, executions, seconds, progress)
        except KeyboardInterrupt:
            outcome.interrupted = True
            outcome.ended_by = "interrupt"
        if outcome.failure is not None:
            try:
                _explain(runner, outcome.failure, shrink)
            except KeyboardInterrupt:
                outcome.interrupted = True
    coverage = outcome.coverage
    if outcome.failure is None and not coverage.leaves_out:
        outcome.probability = policy.probability(
            outcome.executions, coverage.steps_max, coverage.tasks
        )
        outcome.depth = getattr(policy, "depth", None)
    return outcome


def _search(
    runner: Runner,
    policy: Scheduler,
    outcome: Outcome,
    executions: int,
    seconds: float | None,
    progress: Progress | None,
) -> None:
    """Execute until there is a failure, nothing left, or a limit is reached."""
    start = now = perf_counter()
    told = start
    seen: set[int] = set()
    coverage = outcome.coverage
    outcome.ended_by = "executions"
    suspicion: Failure | None = None
    try:
        while outcome.executions < executions:
            if seconds is not None and now - start >= seconds:
                outcome.ended_by = "seconds"
                return
            execution = runner.run_once(policy)
            now = perf_counter()
            if execution is None:
                outcome.exhausted = policy.exhaustive and not coverage.leaves_out
                outcome.ended_by = "exhausted" if outcome.exhausted else "scheduler"
                return
            outcome.executions += 1
            step = execution.step
            outcome.steps += step
            coverage.unchosen += execution.unchosen
            coverage.unoffered += execution.unoffered
            if execution.scheduler_error is not None:
                outcome.abandoned += 1
            else:
                seen.add(hash(tuple(execution.deviations)))
                coverage.steps_max = max(coverage.steps_max, step)
                coverage.steps_min = min(coverage.steps_min or step, step)
                coverage.preemptions_max = max(coverage.preemptions_max, len(execution.deviations))
                coverage.tasks = max(coverage.tasks, execution.nr_tasks())
            failure = failure_from(execution)
            if failure is not None:
                failure.executions = outcome.executions
                if failure.kind == "lockdep":
                    # What could go wrong; perhaps some schedule shows that it does.
                    if suspicion is None:
                        suspicion = failure
                        executions = min(executions, 2 * outcome.executions + SUSPECTED)
                        left = now - start + SUSPECTED_SECONDS
                        seconds = left if seconds is None else min(seconds, left)
                    continue
                outcome.failure = failure
                outcome.ended_by = "failure"
                return
            if progress is not None and now - told >= 0.25:
                told = now
                outcome.seconds = now - start
                coverage.schedules = len(seen)
                outcome.bound = None if coverage.leaves_out else policy.bound
                progress(outcome)
    finally:
        if outcome.failure is None and suspicion is not None:
            outcome.failure, outcome.ended_by = suspicion, "failure"
        outcome.exhausted = outcome.exhausted and outcome.failure is None
        outcome.seconds = perf_counter() - start
        outcome.bound = None if coverage.leaves_out else policy.bound
        coverage.schedules = len(seen)


def _explain(runner: Runner, failure: Failure, shrink: bool) -> None:
    """Make the schedule of *failure* simple, and record what happens under it."""
    schedule = Schedule.parse(failure.schedule)
    failure.original_schedule = failure.schedule
    failure.options = runner.options()
    if (
        failure.kind == "hang"
    ):  # each execution more takes as long again: once more, to see it, not so patiently
        runner.patience = 2.0
    elif shrink:
        schedule = minimize(runner, schedule, failure.identity, SHRINK_SECONDS)
    again = _replay(runner, schedule)
    if again is None or again.identity != failure.identity:
        failure.notes.append(
            "the same schedule does not show it again: the program depends on more than its schedule"
        )
        return
    failure.schedule = str(schedule)
    for name in ("error", "cpu", "step", "place", "trace", "options"):
        setattr(failure, name, getattr(again, name))


def replay(
    program: MakeProgram,
    schedule: str | Schedule,
    *,
    cpus: int | None = None,
    max_steps: int = Limits.max_steps,
    early_timeouts: int = 0,
    spurious_wakeups: int = 0,
    detectors: frozenset[str] | set[str] = DETECTORS,
    verify_every: int = 0,
    strict: bool = True,
    pin: bool = True,
) -> Outcome:
    """
    Run *program* once under *schedule*; the other arguments as they were for :func:`check`.

    Args:
        strict: where the program does not offer what the schedule asks for, raise; otherwise take the
            default. Not strict is for a program that was mended since.

    Raises:
        BadArgument: an argument cannot be.
        ReplayDiverged: the program does not do what it did when the schedule was recorded.
    """
    wanted = Schedule.parse(schedule)
    limits = _limits(max_steps, early_timeouts, spurious_wakeups, detectors, verify_every)
    runner = Runner(program, cpus, limits=limits, pin=pin)
    outcome = Outcome("replay", 0, executions=1, ended_by="executions")
    start = perf_counter()
    with runner.session():
        outcome.failure = _replay(runner, wanted, strict)
        outcome.steps = runner.last_steps
    outcome.seconds = perf_counter() - start
    if outcome.failure is not None:
        outcome.failure.executions = 1
        outcome.ended_by = "failure"
    return outcome


def _replay(runner: Runner, schedule: Schedule, strict: bool = True) -> Failure | None:
    scheduler = Replay(schedule, strict)
    execution = runner.run_once(scheduler, schedule.dropped, traced=True)
    assert execution is not None
    failure = failure_from(execution, schedule.dropped)
    if failure is None:
        scheduler.finish()
    else:
        failure.schedule = str(schedule)
        failure.trace = execution.steps  # type: ignore[attr-defined]
        failure.options = runner.options()
    return failure


def shrink(
    program: MakeProgram,
    schedule: str | Schedule,
    *,
    cpus: int | None = None,
    seconds: float = SHRINK_SECONDS,
    max_steps: int = Limits.max_steps,
    early_timeouts: int = 0,
    spurious_wakeups: int = 0,
    detectors: frozenset[str] | set[str] = DETECTORS,
    verify_every: int = 0,
    pin: bool = True,
) -> Failure:
    """
    The simplest schedule, of the smallest program, that fails as *schedule* does.

    Raises:
        BadArgument: nothing fails under *schedule*, or an argument cannot be.
    """
    wanted = Schedule.parse(schedule)
    _check_seconds(seconds)
    limits = _limits(max_steps, early_timeouts, spurious_wakeups, detectors, verify_every)
    runner = Runner(program, cpus, limits=limits, pin=pin)
    with runner.session():
        failure = _replay(runner, wanted)
        if failure is None:
            raise BadArgument(f"schedule: nothing fails under {wanted}")
        simplest = minimize(runner, wanted, failure.identity, seconds)
        found = _replay(runner, simplest)
        if found is None:
            raise ReplayDiverged(f"{simplest} failed, and then did not")
        found.original_schedule = str(wanted)
        return found


def _limits(
    max_steps: int,
    early_timeouts: int,
    spurious_wakeups: int,
    detectors: frozenset[str] | set[str],
    verify_every: int,
) -> Limits:
    """The limits that these arguments mean, or `BadArgument`."""
    _check_number("max_steps", max_steps, 1)
    _check_number("early_timeouts", early_timeouts, 0)
    _check_number("spurious_wakeups", spurious_wakeups, 0)
    _check_number("verify_every", verify_every, 0)
    if not isinstance(detectors, Set):
        raise BadArgumentType(f"detectors: expected a set of names, got {detectors!r}")
    unknown = set(detectors) - DETECTORS
    if unknown:
        raise BadArgument(
            f"detectors: unknown {sorted(map(str, unknown))}, there are {sorted(DETECTORS)}"
        )
    return Limits(max_steps, early_timeouts, spurious_wakeups, frozenset(detectors), verify_every)


def _check_seconds(seconds: object) -> None:
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise BadArgumentType(f"seconds: expected a number, got {seconds!r}")
    if not seconds > 0:
        raise BadArgument(f"seconds: must be positive, got {seconds!r}")


def _check_number(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if value < low:
        raise BadArgument(f"{name}: must be at least {low}, got {value}")
