"""Trace events keep the rules of the format, and say what happened."""

from __future__ import annotations

from typing import Any

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program

from .failures import PROGRAMS, failure_of
from .trace_format import problems

GOOD: dict[str, Any] = {"name": "n", "ts": 1, "pid": 1, "tid": 1}
NAME: dict[str, Any] = {**GOOD, "ph": "M", "name": "thread_name", "args": {"name": "cpu0"}}


def events_of(name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = failure_of(name).to_trace_events()["traceEvents"]
    return events


def by_phase(events: list[dict[str, Any]], phase: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == phase]


@pytest.mark.parametrize("name", PROGRAMS)
def test_rules_of_the_format(name: str) -> None:
    """Required fields, nesting, order, pairs: for every kind of failure."""
    assert problems(failure_of(name).to_trace_events()) == []


@pytest.mark.parametrize(
    "events",
    [
        [{**GOOD, "ph": "X"}],
        [{**GOOD, "ph": "?"}],
        [{**GOOD, "ph": "X", "dur": -1}],
        [{**GOOD, "ph": "i"}],
        [{**GOOD, "ph": "M", "args": {}}],
        [{**GOOD, "ph": "X", "dur": 1, "tid": "cpu0"}],
        [{**GOOD, "ph": "X", "dur": 1}],
        [NAME, {**GOOD, "ph": "X", "dur": 3}, {**GOOD, "ph": "X", "dur": 3, "ts": 2}],
        [NAME, {**GOOD, "ph": "X", "dur": 1, "ts": 5}, {**GOOD, "ph": "X", "dur": 1}],
        [NAME, {**GOOD, "ph": "B"}, {**GOOD, "ph": "E", "name": "other"}],
        [NAME, {**GOOD, "ph": "B"}],
        [NAME, {**GOOD, "ph": "b", "id": 1, "cat": "c"}],
        [NAME, {**GOOD, "ph": "e", "id": 1, "cat": "c"}],
        [NAME, {**GOOD, "ph": "X", "dur": 1}, {**GOOD, "ph": "s", "id": 1, "cat": "c"}],
        [NAME, {**GOOD, "ph": "s", "id": 1, "cat": "c"}, {**GOOD, "ph": "f", "id": 1, "cat": "c"}],
    ],
)
def test_the_validator_sees_mistakes(events: list[dict[str, Any]]) -> None:
    """The oracle itself: a missing field, an overlap, a lonely end, ..."""
    assert problems({"traceEvents": events})


def test_a_slice_for_each_step() -> None:
    """On the thread of its CPU, at its number, with value, place and locks."""
    failure = failure_of("order")
    assert failure.trace is not None
    slices = [event for event in by_phase(events_of("order"), "X") if event["cat"] != "call"]
    steps = [step for step in failure.trace if not step.is_note]
    assert [(e["ts"], e["dur"], e["tid"]) for e in slices] == [
        (step.number, 1, step.cpu + 1) for step in steps
    ]
    write = next(event for event in slices if event["name"] == "write data 1 -> 3")
    assert write["args"]["value"] == "1 -> 3"
    assert write["args"]["locks held"] == "lock"
    assert write["args"]["source"].startswith("failures.py:")


def test_threads_are_cpus() -> None:
    """Each has its name; a kernel thread without steps has none."""
    names = {
        e["tid"]: e["args"]["name"]
        for e in events_of("kernel_thread")
        if e["name"] == "thread_name"
    }
    assert sorted(names.values()) == ["cpu0", "flusher"]


def test_locks_are_held_from_acquire_to_release() -> None:
    """Three CPUs take one lock in turn; the last one still gives it up."""
    events = events_of("order")
    begun = {e["id"]: e for e in by_phase(events, "b")}
    held = [(begun[e["id"]]["ts"], e["ts"], e["args"]["holder"]) for e in by_phase(events, "e")]
    assert held == [(1, 5, "cpu0"), (5, 9, "cpu1"), (9, 12, "cpu2")]
    assert {e["name"] for e in begun.values()} == {"lock"}


def test_a_lock_that_is_never_given_back() -> None:
    """It is held to the end."""
    (end,) = by_phase(events_of("leak"), "e")
    assert end["ts"] == 2


def test_arrows() -> None:
    """From the wake-up and the release to the sleeper's next step."""
    events = events_of("kernel_thread")
    starts = {e["id"]: e for e in by_phase(events, "s")}
    arrows = {(e["name"], int(starts[e["id"]]["ts"]), int(e["ts"])) for e in by_phase(events, "f")}
    trace = failure_of("kernel_thread").trace
    assert trace is not None
    woken = next(step.number for step in trace if step.kind == "wake")
    released = next(s.number for s in trace if s.kind == "release" and s.number > woken)
    first = next(step.number for step in trace if step.task == "flusher" and not step.is_note)
    assert {("wake-up", woken, first), ("lock", released, first)} <= arrows


def test_arrow_of_an_interrupt() -> None:
    """From who sent it to the CPU that takes it."""

    def program(rt: ControlledRuntime) -> Program:
        x = rt.cell(0, "x")

        def sender() -> None:
            rt.call_on(1, lambda: setattr(x, "value", 1))

        def after() -> None:
            assert x.value == 0

        return Program([sender, lambda: rt.cond_resched()], after)

    failure = explore.check(program, "dfs").failure
    assert failure is not None
    data = failure.to_trace_events()
    assert problems(data) == []
    events = data["traceEvents"]
    (start,) = [e for e in by_phase(events, "s") if e["name"] == "interrupt"]
    (end,) = [e for e in by_phase(events, "f") if e["name"] == "interrupt"]
    assert (start["tid"], end["tid"]) == (1, 2)


def test_preemptions_and_the_failure_are_instants() -> None:
    """On the thread that was forced out; the failure for all."""
    instants = by_phase(events_of("counter"), "i")
    assert [(e["name"], e["ts"], e["tid"], e["s"]) for e in instants] == [
        ("preempted by cpu1", 2, 1, "t"),
        ("assertion", 5, 1, "g"),
    ]


def test_an_interrupt_is_inside_of_what_it_has_interrupted() -> None:
    """Its slice is between the body's first and last step, on the same thread."""
    slices = by_phase(events_of("interrupt"), "X")
    body = next(e for e in slices if (e["name"], e["cat"]) == ("add", "call"))
    irq = next(e for e in slices if e["name"].startswith("interrupt") and e["cat"] == "call")
    assert body["tid"] == irq["tid"]
    assert body["ts"] < irq["ts"]
    assert irq["ts"] + irq["dur"] < body["ts"] + body["dur"]


def test_functions_are_around_their_steps() -> None:
    """As far as the steps tell: an allocation is inside of the body that asked for it."""
    slices = by_phase(events_of("machine"), "X")
    calls = [e for e in slices if e["cat"] == "call"]
    body = next(e for e in calls if e["name"] == "body" and e["tid"] == 1)
    inner = next(e for e in calls if e["name"].endswith("alloc_pages") and e["tid"] == 1)
    assert body["ts"] <= inner["ts"] < inner["ts"] + inner["dur"] <= body["ts"] + body["dur"]


def test_other_data() -> None:
    """What the failure is, and how to see it again."""
    other = failure_of("counter").to_trace_events()["otherData"]
    assert other["kind"] == "assertion"
    assert other["schedule"] == "v1:1.0"
    assert other["replay"] == 'explore.replay(program, "v1:1.0")'
