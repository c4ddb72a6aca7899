"""
A failure as Chrome trace events, for Perfetto and ``chrome://tracing``.

A CPU is a thread, a step a slice of one microsecond, with the functions that led to it around it and what it
accessed under its guard inside. Locks are asynchronous slices, a track for each. Arrows (flow events) lead from a
wake-up, a release, or the sender of an interrupt to whoever goes on because of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from concmem.explore import operation as op
from concmem.explore.render import words
from concmem.explore.render.explain import explain
from concmem.explore.render.lanes import lanes_of
from concmem.explore.render.state import held_after
from concmem.explore.steps import INTERRUPT, PREEMPTION, Step, Trace

if TYPE_CHECKING:
    from concmem.explore.failure import Failure

Event = dict[str, Any]
Frame = tuple[str, int]
"""A function, or an interrupt with the step at which it began."""

PROCESS: Final = 1

_FLOWS: Final = {op.WAKE: "wake-up", op.SEND: "interrupt", op.DONE: "end", op.SPAWN: "start"}
"""What an arrow is called, by what it comes from; all others hand over a lock."""


def trace_events(failure: Failure) -> dict[str, Any]:
    """*failure* in the JSON object format."""
    trace = failure.trace if failure.trace is not None else Trace()
    explanation = explain(failure)
    slices = [*_steps(trace), *_calls(trace)]
    # What begins together: the longer first, so that slices nest in the order of the file, too.
    slices.sort(key=lambda event: (event["ts"], -event["dur"], event.pop("depth")))
    events = [*slices, *_locks(trace), *_arrows(trace), *_marks(trace), *_ends(failure, trace)]
    events.sort(key=lambda event: event["ts"])
    return {
        "traceEvents": [*_names(failure, trace), *events],
        "displayTimeUnit": "ns",
        "otherData": {
            "kind": failure.kind,
            "error": type(failure.error).__name__,
            "message": str(failure.error),
            "explanation": explanation.text,
            "schedule": failure.schedule,
            "replay": failure.replay_line,
        },
    }


def _event(phase: str, name: str, ts: float, cpu: int, **more: Any) -> Event:
    return {"ph": phase, "name": name, "ts": ts, "pid": PROCESS, "tid": cpu + 1, **more}


def _names(failure: Failure, trace: Trace) -> Iterator[Event]:
    """Who is who."""
    title = words.clean(f"{failure.kind}: {failure.schedule}")
    yield _event("M", "process_name", 0, 0, args={"name": title})
    for place, lane in enumerate(lanes_of(trace)):
        yield _event("M", "thread_name", 0, lane.cpu, args={"name": lane.name})
        yield _event("M", "thread_sort_index", 0, lane.cpu, args={"sort_index": place})


def _steps(trace: Trace) -> Iterator[Event]:
    """Each step a slice; notes inside of the step that they follow."""
    notes: defaultdict[int, list[Step]] = defaultdict(list)
    for step in trace:
        if not step.is_note:
            yield _slice(step, step.number, 1)
        elif step.kind not in words.HIDDEN:
            notes[step.number].append(step)
    for number, each in notes.items():
        length = 1 / (len(each) + 1)
        for place, step in enumerate(each, 1):
            yield _slice(step, number + place * length, length)


def _slice(step: Step, ts: float, dur: float) -> Event:
    args = {
        "step": step.number,
        "value": step.value,
        "source": step.where,
        "locks held": ", ".join(step.held),
        "calls": " > ".join(step.calls),
    }
    return _event(
        "X", words.operation(step), ts, step.cpu, dur=dur, cat=step.kind, depth=1 << 20,
        args={name: value for name, value in args.items() if value != ""},
    )  # fmt: skip


def _calls(trace: Trace) -> Iterator[Event]:
    """Functions and interrupts, around the steps in them. Two calls in a row look like one."""
    by_cpu: defaultdict[int, list[Step]] = defaultdict(list)
    for step in trace:
        if not step.is_note:
            by_cpu[step.cpu].append(step)
    for cpu, steps in by_cpu.items():
        stack: list[tuple[Frame, int]] = []
        end = 0
        for step, frames in zip(steps, _frames(steps), strict=True):
            same = 0
            while same < min(len(stack), len(frames)) and stack[same][0] == frames[same]:
                same += 1
            yield from _close(stack, same, end, cpu)
            stack += [(frame, step.number) for frame in frames[same:]]
            end = step.number + 1
        yield from _close(stack, 0, end, cpu)


def _close(stack: list[tuple[Frame, int]], depth: int, end: int, cpu: int) -> Iterator[Event]:
    """End the innermost calls until *depth* are left."""
    while len(stack) > depth:
        (name, _), start = stack.pop()
        yield _event("X", name, start, cpu, dur=end - start, cat="call", depth=len(stack))


def _frames(steps: list[Step]) -> Iterator[tuple[Frame, ...]]:
    """Of a CPU's steps: what each is in, outermost first. An interrupt is in what it has interrupted."""
    main: tuple[Frame, ...] = ()
    interrupt: Frame = "", 0
    was_irq = False
    for step in steps:
        calls = tuple((words.clean(name), 0) for name in step.calls)
        if not step.is_irq:
            main = calls
            yield main
        elif step.kind is op.IRQ or not was_irq:
            interrupt = f"interrupt {words.clean(step.new)}".strip(), step.number
            yield (*main, interrupt)
        else:
            yield (*main, interrupt, *calls)
        was_irq = step.is_irq


def _locks(trace: Trace) -> Iterator[Event]:
    """How long each lock was held: begin and end of an asynchronous slice."""
    since: dict[tuple[str, str], Step] = {}
    end = trace[-1].number + 1 if trace else 0
    for step, after in zip(trace, held_after(trace), strict=True):
        for lock in set(after) - set(step.held):
            since[step.task, lock] = step
        for lock in set(step.held) - set(after):
            taken = since.pop((step.task, lock), None)
            if taken is not None:
                yield from _hold(lock, taken, step.number + 1)
    for (_, lock), taken in since.items():
        yield from _hold(lock, taken, end)


def _hold(lock: str, taken: Step, end: int) -> Iterator[Event]:
    name = words.clean(lock)
    ident = f"{name} {taken.at}"
    args = {"holder": words.task(taken.task), "taken at": taken.where}
    for phase, ts in (("b", taken.number), ("e", end)):
        yield _event(phase, name, ts, taken.cpu, cat="lock", id=ident, args=args)


def _arrows(trace: Trace) -> Iterator[Event]:
    """From what lets somebody go on to that one's next step."""
    number = 0
    for step in trace:
        for cause in (trace[at] for at in step.causes):
            if cause.task == step.task:
                continue
            number += 1
            name = _FLOWS.get(cause.kind, "lock")
            yield _event("s", name, cause.number + 0.5, cause.cpu, cat="flow", id=number)
            yield _event("f", name, step.number + 0.25, step.cpu, cat="flow", id=number, bp="e")


def _marks(trace: Trace) -> Iterator[Event]:
    """Where somebody was forced out."""
    cpus = {step.task: step.cpu for step in trace}
    for step in trace:
        if step.switch in (PREEMPTION, INTERRUPT):
            by = words.task(step.task)
            args = {"by": by}
            yield _event(
                "i", f"preempted by {by}", step.number, cpus.get(step.left, step.cpu),
                cat="preemption", s="t", args=args,
            )  # fmt: skip


def _ends(failure: Failure, trace: Trace) -> Iterator[Event]:
    """What everybody was about to do, and the failure."""
    end = trace[-1].number + 1 if trace else 0
    lanes = lanes_of(trace)
    for pending in (each for each in trace.pending if lanes.of(each.cpu) >= 0):
        doing = pending.waits_for or f"about to {words.about_to(pending.kind, pending.object)}"
        yield _event("i", words.clean(doing), end, pending.cpu, cat="end", s="t")
    cpu = next((step.cpu for step in trace if step.task == failure.cpu), 0)
    args = {"message": str(failure.error)}
    yield _event("i", failure.kind, end, cpu, cat="failure", s="g", args=args)
