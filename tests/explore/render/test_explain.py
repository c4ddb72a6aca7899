"""What went wrong, in one sentence, for every kind of failure."""

from __future__ import annotations

import re
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.explore.render.explain import explain

from ..programs import sleeper_without_waker
from .failures import PROGRAMS, failure_of

SENTENCES = {
    "counter": "cpu0 read x = 0 (step 1), cpu1 wrote x = 1 (step 3), then cpu0 wrote x = 1 (step 4) from "
    "what it had read: the update of cpu1 is lost.",
    "abba": r"cpu0 holds a (step 1) and waits for b at programs.py:\d+ run; cpu1 holds b (step 2) and waits "
    r"for a at programs.py:\d+ run: each waits for what the next one holds, in a circle.",
    "lost_wakeup": r"cpu0 read ready = False (step 1) and went to sleep on queue (step 7) at "
    r"programs.py:\d+ waiter, but cpu1 had woken queue too early (step 4), when nobody slept on it: the "
    "wake-up is lost.",
    "data_race": r"cpu0 wrote Account.balance = 1 (after step 1) at failures.py:\d+ careful, holding "
    r"account->lock, and cpu1 read Account.balance = 1 (step 3) at failures.py:\d+ careless, holding no "
    "lock: nothing that the two did orders these accesses, so they may come in any order, or at once. It "
    "is declared to be guarded by lock.",
    "interrupt": "cpu0 read Slot.value = 0 (step 1), cpu0's interrupt wrote Slot.value = 10 (after step 2), "
    "then cpu0 wrote Slot.value = 1 (step 3) from what it had read: the update of cpu0's interrupt is lost.",
    "reorder": "cpu0 wrote a = 1 (step 1) and was preempted before it could write b; meanwhile cpu1 read "
    "a = 1 (step 2) and read b = 0 (step 3), and failed.",
    "order": "No CPU was preempted: that they ran one after the other is enough. cpu1 wrote data = 3 "
    "(step 7), then cpu2 read data = 3 (step 10), and failed.",
    "leak": "cpu0 took leaked (step 1), and ended without giving it back.",
    "livelock": "From step 1 on nothing changes that anybody could see: cpu0 reads b = False, cpu1 reads "
    "a = False, again and again.",
    "endless": r"Of the last 200 steps most are by cpu0 at failures.py:\d+ body (200).",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences(name: str) -> None:
    """Who did what, with the values and the steps."""
    wanted = SENTENCES[name]
    pattern = re.escape(wanted).replace(re.escape(r"\d+"), r"\d+")
    assert re.fullmatch(pattern, failure_of(name).explanation), failure_of(name).explanation


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_steps_it_speaks_of(name: str) -> None:
    """Each number in the sentence is that of a step that it gives, and the other way round."""
    failure = failure_of(name)
    explanation = explain(failure)
    assert failure.trace is not None
    told = {int(n) for n in re.findall(r"\((?:after )?step (\d+)\)", explanation.text)}
    given = {failure.trace[at].number for at in explanation.steps}
    assert told == given or failure.kind == "livelock"


@pytest.mark.parametrize("name", ["machine", "kernel_thread", "evil"])
def test_a_lost_update_in_larger_programs(name: str) -> None:
    """Read by one, written by another one, written by the first: on the object that the mistake is about."""
    failure = failure_of(name)
    explanation = explain(failure)
    assert failure.trace is not None
    steps = [failure.trace[at] for at in explanation.steps]
    assert [step.kind for step in steps] == ["read", "write", "write"]
    assert len({step.object for step in steps}) == 1
    assert steps[0].task == steps[2].task != steps[1].task
    assert {"machine": "nr_freed", "kernel_thread": "total"}.get(name, steps[0].object) == steps[
        0
    ].object
    assert "lost." in explanation.text


def failing(program: Any, **options: Any) -> str:
    """How the first failure of *program* is explained."""
    outcome = explore.check(program, "dfs", **options)
    assert outcome.failure is not None
    return outcome.failure.explanation


def test_a_sleeper_that_nobody_wakes() -> None:
    """A deadlock without a circle."""
    text = failing(sleeper_without_waker)
    assert re.fullmatch(
        r"cpu0 sleeps on queue at programs.py:\d+ body: nobody is left to change that.", text
    )


def test_a_wake_up_that_is_never_sent() -> None:
    """The waker forgets it: that is not one that came too early."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")
        ready = rt.cell(False, "ready")

        def waiter() -> None:
            with lock:
                while not ready.value:
                    queue.wait(condition=lambda: ready.value)

        def waker() -> None:
            with lock:
                ready.value = True

        return Program([waiter, waker])

    text = failing(program)
    assert text.startswith("cpu0 read ready = False (step 2) and went to sleep on queue (step 3)")
    assert text.endswith("and nobody ever wakes queue.")


def test_a_wake_up_for_one_of_two() -> None:
    """Somebody was woken, but not everybody who should have been."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")
        ready = rt.cell(False, "ready")

        def waiter() -> None:
            with lock:
                while not ready.value:
                    queue.wait(condition=lambda: ready.value)

        def waker() -> None:
            with lock:
                ready.value = True
                queue.wake_up()

        return Program([waiter, waiter, waker])

    text = failing(program)
    assert "cpu1 went to sleep on queue" in text
    assert "cpu2 woke queue" in text
    assert text.endswith("but that woke cpu0, and nobody is left to wake cpu1.")


def test_a_handler_that_waits_for_what_it_has_interrupted() -> None:
    """The circle goes through the interrupt."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")

        def section() -> None:
            with lock:
                pass

        return Program([section], interrupts=[(0, section)])

    text = failing(program, detectors=set())
    assert "cpu0's interrupt waits for lock" in text
    assert "cpu0 holds lock (step 1) and is interrupted" in text
    assert "in a circle" in text


def test_a_failure_without_a_race() -> None:
    """One CPU alone: it says so, and looks for no conflict."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(1, "x")

        def body() -> None:
            assert x.value == 2

        return Program([body])

    assert failing(program) == "Nobody else ran: this is no race."


def test_without_a_trace() -> None:
    """A failure that did not show again has no trace, and no explanation."""
    failure = explore.Failure("assertion", AssertionError("no"), "v1:", "cpu0", 3, "here")
    assert failure.explanation == ""
    assert "assertion on cpu0: AssertionError" in str(failure)
    assert "<h1" in failure.to_html()
    assert failure.to_trace_events()["traceEvents"]


def test_hang() -> None:
    """Where the CPU was last seen."""

    def program(rt: ControlledRuntime) -> Program:
        rt.execution.patience = 0.2
        x = rt.cell(0, "x")

        def body() -> None:
            x.value = 1
            while True:
                pass

        return Program([body])

    text = failing(program, shrink=False)
    assert text == ("cpu0 wrote x = 1 (step 1) and has not come to another scheduling point since.")
