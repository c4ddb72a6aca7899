"""Everything that a search reaches in a drawn program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from concmem.errors import ScheduleAbandoned
from concmem.explore import ControlledRuntime, Program, Scheduler
from concmem.explore.races import find_races
from concmem.explore.runner import Limits, Runner, failure_from

from .spec import Spec
from .world import World


@dataclass
class Reached:
    """What a search has reached."""

    states: set[Any]
    failures: set[tuple[str, str]]
    executions: int = 0
    abandoned: int = 0
    exhausted: bool = False
    steps: int = 0

    @property
    def found(self) -> tuple[set[Any], set[tuple[str, str]]]:
        return self.states, self.failures


def make_program(spec: Spec, states: set[Any]) -> Callable[[ControlledRuntime], Program]:
    """*spec* as a program that adds its final states to *states*."""

    def program(rt: ControlledRuntime) -> Program:
        world = World(rt, spec)
        if spec.kthread:
            rt.kthread_run(world.worker, "worker")
        return Program(
            [world.runner(f"body{i}", ops) for i, ops in enumerate(spec.bodies)],
            lambda: states.add(world.state()),
            interrupts=[
                (cpu, world.runner(f"irq{i}", ops)) for i, (cpu, ops) in enumerate(spec.interrupts)
            ],
        )

    return program


def search(spec: Spec, scheduler: Scheduler, most: int, max_steps: int = 150) -> Reached:
    """Everything that *scheduler* reaches in at most *most* executions; failures do not end it."""
    reached = Reached(set(), set())
    limits = Limits(
        max_steps=max_steps,
        early_timeouts=spec.early_timeouts,
        spurious_wakeups=spec.spurious_wakeups,
        detectors=frozenset(),
    )
    scheduler.reset(0)
    runner = Runner(make_program(spec, reached.states), spec.nr_cpus, limits=limits)
    with runner.session():
        while reached.executions < most:
            execution = runner.run_once(scheduler)
            if execution is None:
                reached.exhausted = scheduler.exhaustive
                break
            reached.executions += 1
            reached.steps += execution.step
            if isinstance(execution.scheduler_error, ScheduleAbandoned):
                reached.abandoned += 1
                continue
            failure = failure_from(execution)
            if failure is not None:
                reached.failures.add((failure.kind, failure.place))
            else:
                for race in find_races(execution.trace, 100):
                    reached.failures.add(("data-race", race.field.name))
    return reached
