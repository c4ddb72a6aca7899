"""
One execution of a program after the other, on the same threads.

For each execution there is a fresh runtime, and the program is built afresh on it: first that (*boot*, which is
no part of the schedule), then the bodies under the scheduler, then the checks, and last everything ends.
"""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeAlias

from concmem.errors import BadArgument, BadArgumentType, ScheduleAbandoned
from concmem.explore.controlled import ControlledRuntime, OtherCpus, kind_of
from concmem.explore.crew import Crew, current_crew
from concmem.explore.execution import Execution
from concmem.explore.failure import Failure, failure_of
from concmem.explore.lockdep import Validator
from concmem.explore.program import Program, runnable
from concmem.explore.races import find_races
from concmem.explore.schedule import Dropped, Schedule
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.replay import Replay
from concmem.explore.stuck import Finding
from concmem.explore.trace import TracedExecution
from concmem.runtime.interpreter import has_gil
from concmem.runtime.lockdep import Lockdep

MakeProgram: TypeAlias = Callable[[ControlledRuntime], Program]

LIMITS = ("max_steps", "early_timeouts", "spurious_wakeups", "detectors", "verify_every")

DETECTORS = frozenset(("races", "lockdep"))
"""What can be switched off; all other detectors are always on."""


@dataclass(frozen=True)
class Limits:
    """What an execution may do, and what is looked at."""

    max_steps: int = 20_000
    early_timeouts: int = 0
    spurious_wakeups: int = 0
    detectors: frozenset[str] = DETECTORS
    verify_every: int = 0
    """Steps between two calls of the program's ``verify``; 0: only at the end."""


class Runner:
    """
    Runs one program again and again.

    Args:
        make_program: called with a fresh runtime for each execution.
        cpus: how many; ``None``: as many as the program needs.
        seed: of ``rt.rng``.
        pin: keep all threads on one host CPU while they work.
    """

    def __init__(
        self,
        make_program: MakeProgram,
        cpus: int | None = None,
        seed: int = 0,
        limits: Limits | None = None,
        pin: bool = True,
    ) -> None:
        if not callable(make_program):
            raise BadArgumentType(
                f"program: expected a function that makes a Program, got {make_program!r}"
            )
        self._make_program = make_program
        self._cpus = cpus
        self._elastic = cpus is None
        self.nr_cpus = cpus if cpus is not None else 2
        self._seed = seed
        self.limits = limits if limits is not None else Limits()
        self.crew = Crew(pin)
        self._program: Program | None = None
        self._interrupted = False
        self.patience: float | None = None
        """Seconds without a step after which a CPU is taken to hang, if not the usual ones."""
        self.last_steps = 0
        """Of the last execution."""
        self._orders: Lockdep | None = Lockdep()
        """Orders of locks that were seen, as long as no rule is broken."""

    @contextmanager
    def session(self) -> Iterator[Runner]:
        """
        Threads are kept until the end of this.

        Meanwhile Ctrl-C is taken between two executions, or at the next point of one: `run_once` raises
        `KeyboardInterrupt`. In the midst of a hand-over it would leave the threads in no state at all.
        """
        before = None
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if before is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._on_sigint)
        # What is there now stays there: the collector need not look at it again and again. A machine is full
        # of circles, so it has to look at each execution's rest quite often. Without a GIL this walks the whole
        # heap, 10 ms and more, and gains nothing: there are no generations.
        if has_gil():
            gc.freeze()
        try:
            with self.crew.pinned():
                yield self
        finally:
            if has_gil():
                gc.unfreeze()
            if before is signal.default_int_handler:
                signal.signal(signal.SIGINT, before)
            self.crew.dismiss()

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._interrupted:
            signal.default_int_handler(signum, frame)  # impatient: whatever state that leaves
        self._interrupted = True
        execution: Execution | None = self.crew.execution
        if execution is not None and execution.current is not None:
            execution.interrupt()

    def _raise_interrupt(self) -> None:
        if self._interrupted:
            self._interrupted = False
            raise KeyboardInterrupt

    def run_once(
        self,
        scheduler: Scheduler,
        dropped: Sequence[Dropped] = (),
        traced: bool = False,
    ) -> Execution | None:
        """
        One execution; ``None`` when *scheduler* has no more.

        Raises:
            whatever the scheduler raises, or the program while it is built.
        """
        self._raise_interrupt()
        limits = self.limits
        execution = (TracedExecution if traced else Execution)(
            scheduler,
            self.crew.gate,
            max_steps=limits.max_steps,
            stop_on_failure=True,
            early_timeouts=limits.early_timeouts,
            spurious_wakeups=limits.spurious_wakeups,
        )
        if self.patience is not None:
            execution.patience = self.patience
        if "lockdep" in limits.detectors:
            execution.lockdep = Validator(None if traced else self._orders)
        rt = ControlledRuntime(
            self.nr_cpus,
            seed=self._seed,
            crew=self.crew,
            execution=execution,
            elastic=self._elastic,
        )
        try:
            program = self._build(rt, dropped)
            if len(program.bodies) > self.nr_cpus:
                rt.want_cpus(len(program.bodies))
                raise BadArgument(
                    f"cpus: the program has {len(program.bodies)} bodies, but only {self.nr_cpus} CPUs"
                )
            # Only now, so that an execution begins once, however often the CPUs were guessed wrong.
            if not scheduler.begin(execution):
                return None
            self._queue(rt, program)
            self._drive(execution, program)
            if execution.interrupted:
                self._raise_interrupt()
            error = execution.scheduler_error
            if error is not None and not isinstance(error, ScheduleAbandoned):
                raise error
            if error is None:
                self._check(rt, program)
        except OtherCpus as other:
            self.nr_cpus = other.nr_cpus
            rt.shutdown()
            return self.run_once(scheduler, dropped, traced)
        finally:
            if execution.hung:
                self.crew.lose()
            else:
                rt.shutdown()
        self.last_steps = execution.step
        scheduler.end(execution)
        if self._orders is not None and execution.finding is None and not traced:
            self._judge_alone(execution, dropped)
        return execution

    def _judge_alone(self, execution: Execution, dropped: Sequence[Dropped]) -> None:
        """
        Of a broken rule of lock orders: is it broken in *execution* alone?

        Orders are remembered from one execution to the next, since to learn them afresh in each takes as long
        as the rest of a small program. But a failure is one that its schedule shows; so from the first report
        on, each execution is on its own, and this one is run again.
        """
        if execution.lockdep is None or execution.lockdep.error is None:
            return
        self._orders = None
        schedule = Schedule(tuple(execution.deviations), tuple(dropped))
        again = self.run_once(Replay(schedule, strict=False), dropped)
        assert again is not None
        execution.lockdep = again.lockdep

    def _build(self, rt: ControlledRuntime, dropped: Sequence[Dropped]) -> Program:
        token = current_crew.set(self.crew)
        try:
            program = self._make_program(rt)
        finally:
            current_crew.reset(token)
        if not isinstance(program, Program):
            raise BadArgumentType(f"program: expected it to return a Program, got {program!r}")
        self._program = program
        return program.without(dropped) if dropped else program

    def options(self) -> dict[str, object]:
        """Arguments of :func:`concmem.explore.replay` that are not the usual ones."""
        options: dict[str, object] = {} if self._cpus is None else {"cpus": self._cpus}
        for name in LIMITS:
            value = getattr(self.limits, name)
            if value != getattr(Limits, name):
                options[name] = set(value) if name == "detectors" else value
        return options

    def parts(self) -> list[Dropped]:
        """What of the program can be left out, as of the last execution."""
        return self._program.parts() if self._program is not None else []

    @staticmethod
    def _queue(rt: ControlledRuntime, program: Program) -> None:
        """The boot is over: give the CPUs their bodies."""
        ex = rt.execution
        ex.step = 0
        ex.trace.clear()
        ex.deviations.clear()
        if isinstance(ex, TracedExecution):
            ex.forget_boot()
        for cpu, body in zip(rt.cpus, program.bodies, strict=False):
            fn = runnable(body)
            if fn is not None:
                rt.queue_job(cpu, fn, ())
        for number, handler in program.interrupts:
            rt.post_interrupt(rt.check_cpu(number), handler)

    def _drive(self, execution: Execution, program: Program) -> None:
        every, verify = self.limits.verify_every, program.verify
        if not every or verify is None:
            execution.drive()
            return
        while not execution.drive_steps(every):
            step = execution.step
            try:
                verify()
            except Exception as error:
                if not execution.interrupted:
                    execution.finding = Finding(kind_of(error), error, None, execution.step)
                return
            finally:
                execution.unchosen += execution.step - step

    def _check(self, rt: ControlledRuntime, program: Program) -> None:
        """All CPUs are done, unless something was found already."""
        ex = rt.execution
        try:
            if ex.finding is None:
                for failure in rt.take_failures():
                    raise failure
                for check in (program.verify, program.after):
                    if check is not None:
                        check()
                for failure in rt.take_failures():
                    raise failure
        except Exception as error:
            if ex.finding is None:
                ex.finding = Finding(kind_of(error), error, None, ex.step)
        if ex.finding is None and ex.fields and "races" in self.limits.detectors:
            for race in find_races(ex.trace):
                ex.finding = Finding(
                    "data-race", str(race), race.second.task, ex.step, race.field.name, race
                )


def failure_from(execution: Execution, dropped: Sequence[Dropped] = ()) -> Failure | None:
    """What *execution* has found, if anything."""
    finding = execution.finding
    if finding is None and execution.lockdep is not None:
        error = execution.lockdep.error
        if error is not None:
            finding = Finding("lockdep", error, None, execution.step)
    if finding is None:
        return None
    return failure_of(finding, Schedule(tuple(execution.deviations), tuple(dropped)))
