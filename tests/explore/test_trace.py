"""A trace tells what happened: values, locks, places, who was forced out, and what let whom go on."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.explore import operation as op
from concmem.explore.look import show
from concmem.explore.steps import Step, Trace

from .programs import counter, lost_wakeup
from .render.failures import failure_of


def trace_of(program: Any, schedule: str = "v1:", **options: Any) -> Trace:
    """What happens in *program*, which is made to fail at its end."""

    def failing(rt: ControlledRuntime) -> Program:
        made = program(rt)

        def after() -> None:
            raise AssertionError

        return Program(made.bodies, after, interrupts=made.interrupts)

    failure = explore.replay(failing, schedule, **options).failure
    assert failure is not None
    assert failure.kind == "assertion"
    assert failure.trace is not None
    return failure.trace


def only(trace: Trace, kind: str, name: str = "") -> list[Step]:
    """Its steps of that kind."""
    return [step for step in trace if step.kind is kind and name in ("", step.object)]


def test_values_before_and_after() -> None:
    """Reads have the value; changes have the old and the new one, the last step of all, too."""
    trace = trace_of(counter, "v1:1.0")
    steps = [
        (s.number, s.task, s.kind, s.object, s.value, s.changes) for s in trace if not s.is_note
    ]
    assert steps == [
        (1, "cpu0", "read", "x", "0", False),
        (2, "cpu1", "read", "x", "0", False),
        (3, "cpu1", "write", "x", "0 -> 1", True),
        (4, "cpu0", "write", "x", "1 -> 1", False),
    ]


def test_numbers_of_steps_are_those_of_the_schedule() -> None:
    """A deviation at step n comes before step n + 1 of the trace."""
    trace = trace_of(counter, "v1:1.0")
    assert [(s.number, s.switch, s.left) for s in trace if s.switch] == [
        (2, "preemption", "cpu0"),
        (4, "switch", "cpu1"),
    ]
    assert trace.preemptions == 1
    assert trace.steps == 4


def test_places_and_calls() -> None:
    """The innermost line of the program's own, its text, and the functions that led there."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def helper() -> None:
            x.value = 7  # the line to be found

        return Program([lambda: helper()])

    trace = trace_of(program)
    (step,) = only(trace, op.WRITE)
    assert step.site.file == __file__
    assert step.site.function == "helper"
    assert trace.line_at(step.site) == "x.value = 7  # the line to be found"
    assert step.where == f"test_trace.py:{step.site.line} helper"
    assert step.calls == ("<lambda>", "helper")


def test_objects_of_one_name_are_told_apart() -> None:
    """Two objects called x are x and x#2; the same one keeps its name."""

    def program(rt: ControlledRuntime) -> Program:
        cells = [rt.cell(i, "x") for i in range(2)]

        def body() -> None:
            for cell in (*cells, *cells):
                assert cell.value < 2

        return Program([body])

    trace = trace_of(program)
    reads = [(step.object, step.value) for step in only(trace, op.READ)]
    assert reads == [("x", "0"), ("x#2", "1"), ("x", "0"), ("x#2", "1")]


def test_locks_and_trylocks() -> None:
    """Locks held before each step; whether a trylock got it."""

    def program(rt: ControlledRuntime) -> Program:
        a, b = rt.spinlock("a"), rt.mutex("b")

        def body() -> None:
            b.acquire()
            with a:
                assert not a.trylock()
            assert a.trylock()
            a.release()
            b.release()

        return Program([body])

    trace = trace_of(program)
    steps = [(s.kind, s.object, s.new, s.held) for s in trace if not s.is_note]
    assert steps == [
        ("acquire", "b", "", ()),
        ("acquire", "a", "", ("b",)),
        ("trylock", "a", "busy", ("b", "a")),
        ("release", "a", "", ("b", "a")),
        ("trylock", "a", "taken", ("b",)),
        ("release", "a", "", ("b", "a")),
        ("release", "b", "", ("b",)),
    ]


def test_a_contended_lock() -> None:
    """Who waits says so, and is let go on by the release."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")

        def body() -> None:
            with lock:
                rt.cond_resched()

        return Program([body, body])

    trace = trace_of(program)
    # cpu1 has announced to take the lock, so it waits as soon as cpu0 has it: nobody is preempted.
    taken = only(trace, op.ACQUIRE)
    released = only(trace, op.RELEASE)
    assert [step.task for step in taken] == ["cpu0", "cpu1"]
    assert taken[1].causes == (released[0].at,)


def test_wake_ups() -> None:
    """Who was woken, and both what woke a sleeper and what gave it the lock back."""

    def program(rt: ControlledRuntime) -> Program:
        lock = rt.spinlock("lock")
        queue = rt.waitqueue(lock, "queue")

        def sleeper() -> None:
            with lock:
                queue.wait()

        def waker() -> None:
            with lock:
                queue.wake_up()
                queue.wake_up()

        return Program([sleeper, waker])

    trace = trace_of(program)
    first, second = only(trace, op.WAKE)
    assert (first.new, second.new) == ("cpu0", "nobody sleeps")
    woken = only(trace, op.ACQUIRE)[-1]
    released = next(step for step in only(trace, op.RELEASE) if step.task == "cpu1")
    assert woken.task == "cpu0"
    assert woken.causes == (first.at, released.at)
    (left,) = [step for step in trace if step.left == "cpu0" and step.why]
    assert left.why == "sleeps on queue"


def test_interrupts_have_senders_and_names() -> None:
    """Those of the program have no sender; one that was sent has, and each says what it runs."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def tick() -> None:
            x.value = 1

        def flush() -> None:
            x.value = 2

        def sender() -> None:
            rt.call_on(1, flush)

        def target() -> None:
            rt.cond_resched()
            rt.cond_resched()

        return Program([sender, target], interrupts=[(1, tick)])

    trace = trace_of(program)
    (sent,) = only(trace, op.SEND)
    assert (sent.object, sent.new) == ("cpu1", "flush")
    taken = only(trace, op.IRQ)
    assert [(step.new, step.causes, step.is_irq) for step in taken] == [
        ("tick", (), True),
        ("flush", (sent.at,), True),
    ]
    resumed = only(trace, op.RESUME)[-1]
    assert trace[resumed.causes[-1]].kind is op.DONE, "the sender waits for the end of the handler"


def test_interrupt_on_top_of_a_body_is_a_switch_of_its_own() -> None:
    """The body is not preempted by another CPU, and goes on as if nothing had been."""
    trace = failure_of("interrupt").trace
    assert trace is not None
    switches = [(step.task, step.switch, step.left) for step in trace if not step.is_note]
    assert switches == [("cpu0", "", ""), ("cpu0/irq", "interrupt", "cpu0"), ("cpu0", "", "")]


def test_bodies_started_by_others() -> None:
    """The first step of a body that was submitted is because of who submitted it, the join because of its end."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def child() -> None:
            x.value = 1

        def parent() -> None:
            rt.submit(1, child).result()

        return Program([parent])

    trace = trace_of(program)
    (spawned,) = only(trace, op.SPAWN)
    (written,) = only(trace, op.WRITE)
    assert spawned.object == "cpu1"
    assert written.causes == (spawned.at,)
    (joined,) = only(trace, op.RESUME)
    assert [trace[at].kind for at in joined.causes] == [op.DONE]


class Touchy:
    """Its ``repr`` reads a watched field, and its comparison fails."""

    __guarded_by__ = {"field": "lock"}

    def __init__(self, rt: ControlledRuntime) -> None:
        self.lock = rt.spinlock("lock")
        self.field = 1

    def __repr__(self) -> str:
        return f"<Touchy {self.field} at 0x7f0000001000>"

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("cannot be compared")

    __hash__ = None  # type: ignore[assignment]


def test_looking_at_values_is_no_step() -> None:
    """A ``repr`` that touches watched fields takes no steps, and shows nothing that differs between runs."""

    def program(rt: ControlledRuntime) -> Program:
        touchy = [rt.watch(Touchy(rt)) for _ in range(2)]
        x: Any = rt.cell(touchy[0], "x")

        def body() -> None:
            x.value = touchy[1]

        return Program([body])

    trace = trace_of(program)
    (step,) = [step for step in trace if not step.is_note]
    assert step.value == "<Touchy 1> -> <Touchy 1>"
    assert step.changes, "what cannot be compared counts as changed"


def test_addresses_are_hexadecimal_and_long_values_short() -> None:
    """As in the kernel's reports; a million characters would help nobody."""

    def program(rt: ControlledRuntime) -> Program:
        x: Any = rt.cell(0xFFFF888000123000, "x")
        pair = rt.pair(0xFFFF888000123000, 5, "pair")

        def body() -> None:
            assert pair.first
            x.value = "long" * 10_000

        return Program([body])

    trace = trace_of(program)
    (read,), (written,) = only(trace, op.READ), only(trace, op.WRITE)
    assert read.value == "(0xffff888000123000, 5)"
    assert written.old == "0xffff888000123000"
    assert len(written.new) <= 40
    assert written.changes


def test_changes_of_long_values_are_seen() -> None:
    """Also where the texts that are shown are the same."""

    def program(rt: ControlledRuntime) -> Program:
        x: Any = rt.cell("long" * 1000, "x")

        def body() -> None:
            x.value = "long" * 500 + "short" + "long" * 500

        return Program([body])

    (step,) = only(trace_of(program), op.WRITE)
    assert step.old == step.new
    assert step.changes


def test_what_everybody_was_about_to_do() -> None:
    """In a deadlock: who waits for what, where, with what; asleep or not."""
    failure = explore.check(lost_wakeup, "dfs").failure
    assert failure is not None
    assert failure.trace is not None
    (pending,) = failure.trace.pending
    assert (pending.task, pending.asleep_on, pending.waits_for) == (
        "cpu0",
        "queue",
        "sleeps on queue",
    )
    assert pending.site.function == "waiter"
    circle = failure_of("abba").trace
    assert circle is not None
    told = [(each.task, each.waits_for, each.holder, each.held) for each in circle.pending]
    assert told == [
        ("cpu0", "waits for b, held by cpu1", "cpu1", ("a",)),
        ("cpu1", "waits for a, held by cpu0", "cpu0", ("b",)),
    ]
    assert all(each.site.function == "run" for each in circle.pending)


def test_both_accesses_of_a_race() -> None:
    """The failure carries them, with place and locks."""
    failure = failure_of("data_race")
    assert failure.race is not None
    first, second = failure.race
    assert {first.task, second.task} == {"cpu0", "cpu1"}
    assert first.object == second.object == "Account.balance"
    assert sorted((first.held, second.held)) == [(), ("account->lock",)]
    assert failure.trace is not None
    assert failure.trace.guard == "lock"


def test_kernel_threads_have_numbers_after_the_cpus() -> None:
    """They are told from CPUs by that."""
    trace = failure_of("kernel_thread").trace
    assert trace is not None
    assert {step.task for step in trace if step.cpu >= trace.nr_cpus} == {"flusher"}


@pytest.mark.parametrize("schedule", ["v1:", "v1:1.0"])
def test_tracing_changes_nothing(schedule: str) -> None:
    """A traced execution takes the same steps as one that is not looked at."""
    runner = explore.runner.Runner(counter, 2)
    with runner.session():
        plain = runner.run_once(explore.Replay(schedule))
        traced = runner.run_once(explore.Replay(schedule), traced=True)
    assert plain is not None
    assert traced is not None
    names = [[getattr(each, "name", each) for each in run.trace] for run in (plain, traced)]
    assert names[0] == names[1]
    assert plain.deviations == traced.deviations


def test_the_harness_is_no_place() -> None:
    """No step is in a file of the harness itself."""
    trace = failure_of("machine").trace
    assert trace is not None
    assert len(trace) > 300
    files = {step.site.file for step in trace if step.site.file}
    assert not [name for name in files if "concmem/explore/" in name and "/tests/" not in name]
    assert sys.modules["concmem.mm.zone"].__file__ in files


def test_a_value_that_cannot_say_what_it_is() -> None:
    """It is shown all the same, by its class and without its address."""

    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("not yet made")

    assert show(Mute()) == "<Mute instance>"
