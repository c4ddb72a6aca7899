"""Small programs made at random, of one kind each, and all that can come of one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from concmem.errors import ScheduleAbandoned
from concmem.explore import ControlledRuntime, Program, Scheduler
from concmem.explore.failure import failure_of
from concmem.explore.runner import Limits, MakeProgram, Runner
from concmem.explore.schedule import Schedule

Operation = tuple[Any, ...]
Spec = tuple[list[list[Operation]], list[tuple[int, list[Operation]]]]
"""The operations of each body, and of each interrupt with its CPU."""


class Box:
    """A plain field with a guard."""

    __guarded_by__ = {"value": "lock"}

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.value = 0


KINDS = {
    "cells": ["read", "write", "add", "inc", "cmpxchg"],
    "locks": ["section", "nested", "trylock", "add", "locked_add"],
    "plain": ["plain", "guarded", "section", "inc"],
    "waits": ["wait", "wake", "set_and_wake", "inc", "locked_add"],
    "timed": ["timed_wait", "set_and_wake", "inc"],
    "sems": ["read_section", "write_section", "read", "write"],
    "spins": ["spin", "set", "inc", "read"],
    "interrupts": ["add", "irq_off_add", "irqsave_add", "send", "inc"],
    "joins": ["spawn", "add", "inc", "locked_add"],
    "mixed": ["read", "write", "add", "section", "trylock", "wait", "set_and_wake", "locked_add", "guarded"],
}  # fmt: skip


def make_spec(seed: int) -> tuple[str, Spec]:
    """The *seed*-th program: of what kind, and its operations."""
    rng = Random(f"generated/{seed}")
    kind = list(KINDS)[seed % len(KINDS)]
    nr_bodies = 2 if rng.random() < 0.7 else 3
    length = 2 if nr_bodies == 3 else 3
    draw = lambda n: [(rng.choice(KINDS[kind]), rng.randrange(2), rng.randrange(1, 3)) for _ in range(n)]  # noqa: E731 # fmt: skip
    bodies = [draw(rng.randint(1, length)) for _ in range(nr_bodies)]
    interrupts: list[tuple[int, list[Operation]]] = []
    if kind == "interrupts":
        bodies = bodies[:2]
        interrupts = [(0, [(rng.choice(["add", "inc", "irqsave_add"]), rng.randrange(2), 1)])]
    return kind, (bodies, interrupts)


def make_program(spec: Spec, states: set[Any]) -> MakeProgram:
    """The program of *spec*, which adds its final states to *states*."""
    bodies, interrupts = spec

    def program(rt: ControlledRuntime) -> Program:
        world = _World(rt)
        results: list[list[Any]] = [[] for _ in bodies]

        def body(number: int, operations: list[Operation]) -> Callable[[], None]:
            def run() -> None:
                for name, which, value in operations:
                    results[number].append(getattr(world, name)(which, value))

            return run

        def handler(operations: list[Operation]) -> Callable[[], None]:
            def run() -> None:
                for name, which, value in operations:
                    getattr(world, name)(which, value)

            return run

        def after() -> None:
            states.add((world.state(), repr(results)))

        return Program(
            [body(i, operations) for i, operations in enumerate(bodies)],
            after,
            interrupts=[(cpu, handler(operations)) for cpu, operations in interrupts],
        )

    return program


class _World:
    """Two of everything, and what may be done with it."""

    def __init__(self, rt: ControlledRuntime) -> None:
        self.rt = rt
        self.cells = [rt.cell(0, f"cell{i}") for i in range(2)]
        self.atomics = [rt.atomic(0, f"atomic{i}") for i in range(2)]
        self.locks = [rt.spinlock("lock0"), rt.mutex("lock1")]
        self.irqsave = rt.spinlock("irqsave", irqsave=True)
        self.sem = rt.rwsem("sem")
        self.boxes = [rt.watch(Box(lock)) for lock in self.locks]
        self.queues = [rt.waitqueue(lock, f"queue{i}") for i, lock in enumerate(self.locks)]
        self.ready = [False, False]

    def state(self) -> Any:
        cells = tuple(each.value for each in [*self.cells, *self.atomics])
        return cells, tuple(box.value for box in self.boxes), tuple(self.ready)

    def read(self, i: int, _v: int) -> int:
        return self.cells[i].value

    def write(self, i: int, v: int) -> None:
        self.cells[i].value = v

    def add(self, i: int, v: int) -> None:
        # The order of two of these shows in the end.
        self.cells[i].value = 2 * self.cells[i].value + v

    def inc(self, i: int, v: int) -> int:
        return self.atomics[i].add_return(v)

    def cmpxchg(self, i: int, v: int) -> int:
        return self.atomics[i].cmpxchg(0, v)

    def section(self, i: int, _v: int) -> None:
        with self.locks[i]:
            pass

    def nested(self, i: int, v: int) -> None:
        with self.locks[i]:
            if v == 1 and i == 0:
                return
            if self.locks[1 - i].trylock():
                self.locks[1 - i].release()

    def trylock(self, i: int, v: int) -> bool:
        got = self.locks[i].trylock()
        if got:
            self.cells[i].value = v
            self.locks[i].release()
        return got

    def locked_add(self, i: int, v: int) -> None:
        with self.locks[i]:
            self.add(i, v)

    def plain(self, i: int, v: int) -> None:
        self.boxes[i].value = 2 * self.boxes[i].value + v

    def guarded(self, i: int, v: int) -> None:
        with self.locks[i]:
            self.plain(i, v)

    def wait(self, i: int, _v: int) -> None:
        with self.locks[i]:
            self.queues[i].wait_for(lambda: self.ready[i])

    def timed_wait(self, i: int, v: int) -> bool:
        with self.locks[i]:
            return self.queues[i].wait_for(lambda: self.ready[i], float(v))

    def wake(self, i: int, _v: int) -> int:
        with self.locks[i]:
            return self.queues[i].wake_up()

    def set_and_wake(self, i: int, _v: int) -> None:
        with self.locks[i]:
            self.ready[i] = True
            self.queues[i].wake_up()

    def read_section(self, i: int, _v: int) -> int:
        with self.sem.read():
            return self.cells[i].value

    def write_section(self, i: int, v: int) -> None:
        with self.sem.write():
            self.add(i, v)

    def spin(self, i: int, _v: int) -> None:
        while not self.cells[i].value:
            self.rt.cpu_relax()

    def set(self, i: int, _v: int) -> None:
        self.cells[i].value = 1

    def irq_off_add(self, i: int, v: int) -> None:
        flags = self.rt.local_irq_save()
        self.add(i, v)
        self.rt.local_irq_restore(flags)

    def irqsave_add(self, i: int, v: int) -> None:
        with self.irqsave:
            self.add(i, v)

    def send(self, i: int, v: int) -> None:
        self.rt.call_on(i, lambda: self.inc(0, v), wait=False)

    def spawn(self, i: int, v: int) -> None:
        future = self.rt.submit(
            1 - self.rt.smp_processor_id() if self.rt.smp_processor_id() < 2 else 0, self.inc, i, v
        )
        if v == 2:
            future.done()


class TooLarge(Exception):
    """More executions than allowed."""


def explore_all(
    spec: Spec, scheduler: Scheduler, most: int, limits: Limits | None = None
) -> tuple[set[Any], set[Any], int]:
    """Final states, failures, and how many executions it took."""
    states: set[Any] = set()
    failures: set[Any] = set()
    scheduler.reset(0)
    runner = Runner(make_program(spec, states), 3, limits=limits or Limits(max_steps=300), pin=True)
    executions = 0
    with runner.session():
        while (execution := runner.run_once(scheduler)) is not None:
            executions += 1
            if executions > most:
                raise TooLarge
            if isinstance(execution.scheduler_error, ScheduleAbandoned):
                continue
            if execution.finding is not None:
                failures.add(failure_of(execution.finding, Schedule()).identity)
    assert scheduler.exhaustive
    return states, failures, executions
