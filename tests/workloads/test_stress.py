"""The engine: what it finds, and how a run ends early."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from concmem import Machine
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.page import Page
from concmem.mm.page_alloc import PageAllocator
from concmem.workloads import (
    WORKLOADS,
    Phase,
    Scenario,
    StressProgress,
    Worker,
    Workload,
    register,
    run_stress,
)

pytestmark = pytest.mark.timeout(60)


def scenario(*names: str, **values: object) -> Scenario:
    known: dict[str, object] = {"cpus": 2, "memory": "16M", "ops": 2000, "runtime": "free"}
    phases = tuple(Phase(name) for name in names)
    return Scenario(phases, **{**known, **values})  # type: ignore[arg-type]


class GivesPagesTwice(PageAllocator):
    """Hands out, now and then, a page that has an owner already."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        correct = self.alloc_pages
        last: list[Page | None] = [None]
        calls = count(1)

        def alloc_pages(order: int = 0, gfp: int = GFP_KERNEL) -> Page | None:
            page = last[0]
            if order == 0 and next(calls) % 50 == 0 and page is not None and page.ref_count():
                return page
            page = correct(order, gfp)
            if order == 0:
                last[0] = page
            return page

        self.alloc_pages = alloc_pages  # type: ignore[assignment]


class LosesPages(PageAllocator):
    """Forgets to free one page."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        correct = self.free_pages
        frees = count(1)

        def free_pages(page: Page, order: int = 0) -> None:
            if next(frees) != 7:
                correct(page, order)

        self.free_pages = free_pages


@pytest.fixture
def temporary_workload():  # type: ignore[no-untyped-def]
    """Workloads registered by a test are forgotten after it."""
    before = dict(WORKLOADS)
    yield
    WORKLOADS.clear()
    WORKLOADS.update(before)


@pytest.mark.parametrize("name", ["local", "fragmentation", "bursts"])
def test_a_page_with_two_owners_is_found(name: str) -> None:
    """The first owner finds the second one's tag, and the report names both."""
    plan = scenario(name, cpus=1)
    with plan.boot(classes={PageAllocator: GivesPagesTwice}) as machine:
        result = run_stress(machine, plan)
    assert result.verdict == "broken"
    assert result.errors[0].type == "PageOwnershipError"
    assert "has two owners: cpu0's allocation" in result.errors[0].message
    assert result.errors[0].where.startswith("workloads/worker.py")


@pytest.mark.parametrize("name", ["fragmentation", "pressure", "producer-consumer"])
def test_a_page_with_owners_on_two_cpus_is_found(name: str) -> None:
    """Which rule breaks first is up to the host, but one does, and the run ends."""
    plan = scenario(name, cpus=4, ops=None, seconds=1000.0)
    with plan.boot(classes={PageAllocator: GivesPagesTwice}) as machine:
        result = run_stress(machine, plan)
    rules = {"PageOwnershipError", "DoubleFree", "BadFree", "PageCountError"}
    assert {error.type for error in result.errors} & rules


def test_a_page_that_stays_allocated_is_found() -> None:
    """Nothing else is wrong, but at the end one page is missing."""
    plan = scenario("local", ops=100)
    with plan.boot(classes={PageAllocator: LosesPages}) as machine:
        result = run_stress(machine, plan)
    assert [error.type for error in result.errors] == ["PageCountError"]
    assert "still allocated" in result.errors[0].message


def test_pages_of_the_caller_do_not_count() -> None:
    """Only what the run allocated must be back."""
    plan = scenario("local", ops=100)
    with plan.boot() as machine:
        machine.submit(0, machine.alloc_pages, 3).result()
        result = run_stress(machine, plan)
    assert result.clean
    assert result.memory.allocated == 8


@pytest.mark.parametrize("name", ["local", "producer-consumer", "interrupts", "pressure"])
def test_a_keyboard_interrupt_ends_the_run_cleanly(name: str) -> None:
    """The result is partial, verified, marked, and everything was given back."""
    plan = scenario(name, "bursts", ops=None, seconds=1000.0, cpus=3)

    def interrupt(progress: StressProgress) -> None:
        if sum(progress.operations) > 100:
            raise KeyboardInterrupt

    with plan.boot() as machine:
        result = run_stress(machine, plan, on_progress=interrupt_once(interrupt))
        machine.verify()
    assert result.interrupted
    assert result.clean, result.errors
    assert result.operations > 100
    assert result.memory.allocated == 0
    assert result.verifications > 0
    assert [(phase.name, phase.complete) for phase in result.phases] == [(name, False)]


def interrupt_once(interrupt):  # type: ignore[no-untyped-def]
    """A user who presses the key once, and waits."""
    raised = False

    def on_progress(progress: StressProgress) -> None:
        nonlocal raised
        if not raised:
            try:
                interrupt(progress)
            except KeyboardInterrupt:
                raised = True
                raise

    return on_progress


def test_a_second_keyboard_interrupt_is_raised() -> None:
    """A user who does not want to wait; closing the machine ends what is left of the run."""
    plan = scenario("local", ops=None, seconds=1000.0)

    def interrupt(progress: StressProgress) -> None:
        raise KeyboardInterrupt

    with plan.boot() as machine, suppress(KeyboardInterrupt):
        # The run may have ended before the second one.
        assert run_stress(machine, plan, on_progress=interrupt, progress_every=1e-3).interrupted
    for thread in threading.enumerate():
        if thread.name == "concmem-stress":
            thread.join()


def test_a_failing_display_stops_the_run() -> None:
    """What on_progress raises comes out, and nothing is left running."""
    plan = scenario("local", ops=None, seconds=1000.0)

    def fail(progress: StressProgress) -> None:
        raise RuntimeError("no display")

    with plan.boot() as machine:
        with pytest.raises(RuntimeError, match="no display"):
            run_stress(machine, plan, on_progress=fail)
        machine.verify()


def test_what_a_body_raises_is_reported_and_ends_the_run(temporary_workload: None) -> None:
    """The other CPUs end early, in their own time, and later phases do not start."""

    @register("failing")
    @dataclass
    class Failing(Workload):
        def body(self, worker: Worker) -> None:
            worker.hold(0, GFP_KERNEL)
            if worker.cpu == 1:
                raise ZeroDivisionError("on purpose")
            while worker.running():
                worker.hold(0, GFP_KERNEL)
                worker.drop_any()

    plan = scenario("failing", "local", ops=None, seconds=1000.0)
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    assert [(error.type, error.message) for error in result.errors] == [
        ("ZeroDivisionError", "on purpose")
    ]
    assert [phase.name for phase in result.phases] == ["failing"]
    assert result.memory.allocated == 0


def test_what_an_interrupt_handler_raises_is_reported(temporary_workload: None) -> None:
    """A handler that nobody waited for fails the run all the same."""

    @register("failing-handler")
    @dataclass
    class FailingHandler(Workload):
        def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
            self._call_on = machine.runtime.call_on

        def body(self, worker: Worker) -> None:
            def handler() -> None:
                raise ZeroDivisionError("in a handler")

            self._call_on(0, handler, wait=False)

    plan = scenario("failing-handler", cpus=1)
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    assert result.errors[0].type == "InterruptFailed"
    assert "in a handler" in result.errors[0].cause


def test_a_hang_is_reported_and_not_waited_for(temporary_workload: None) -> None:
    """A body that sleeps for a wake-up that never comes: the report says where it is."""

    @register("forgotten-wakeup")
    @dataclass
    class ForgottenWakeup(Workload):
        def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
            self._lock = machine.runtime.spinlock("forgotten->lock")
            self._wait = machine.runtime.waitqueue(self._lock, "forgotten->wait")

        def body(self, worker: Worker) -> None:
            with self._lock:
                self._wait.wait()

    plan = scenario("forgotten-wakeup", verify_every=0.0)
    with plan.boot() as machine:
        result = run_stress(machine, plan, progress_every=0.01, lockup_seconds=0.3)
    assert [error.type for error in result.errors] == ["SoftLockup"]
    assert "concmem-cpu1: " in result.errors[0].message
    assert "sleep_until" in result.errors[0].message


def test_a_deadline_ends_the_run() -> None:
    """Without a limit of operations, time is the limit."""
    plan = scenario("local", "producer-consumer", ops=None, seconds=0.2, verify_every=0.05)
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    assert result.clean
    assert [phase.complete for phase in result.phases] == [True, True]
    assert result.seconds >= 0.2


def test_the_result_is_plain_data() -> None:
    """to_json() survives JSON, and has what the run did."""
    plan = scenario("local", "producer-consumer", verify_every=0.01)
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    data = json.loads(json.dumps(result.to_json()))
    assert data["verdict"] == "clean"
    assert data["errors"] == []
    assert data["operations"] == sum(cpu["operations"] for cpu in data["cpus"])
    assert data["scenario"]["phases"] == [
        {"name": "local", "weight": 1.0},
        {"name": "producer-consumer", "weight": 1.0},
    ]
    assert data["buddyinfo"].startswith("Node 0, zone")
    assert {lock["name"] for lock in data["locks"]} >= {"queue->lock"}
    assert set(data["cpus"][0]["host"]) == {
        *("user", "system", "voluntary_switches", "involuntary_switches"),
    }
