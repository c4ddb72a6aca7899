"""
A trace as rows with one lane for each CPU: steps, what they mean for others, and where somebody was forced out.

Both the table and the page are made of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.render import words
from concmem.explore.steps import INTERRUPT, PREEMPTION, SWITCH, Step, Trace

STEP: Final = "step"
RULE: Final = "rule"
"""Somebody was forced out, or an interrupt begins or ends."""
ASIDE: Final = "aside"
"""What became of a task that does not go on; in its lane."""
FOLD: Final = "fold"
"""Steps that are left out."""

FOLD_FROM: Final = 4
"""Fewer steps are shown rather than counted."""


class Lane(NamedTuple):
    """One column."""

    cpu: int
    name: str


class Row(NamedTuple):
    """One line of the picture."""

    kind: str
    lane: int
    """Which lane it is in; -1: all of them."""
    text: str
    step: Step | None = None
    """Of `STEP` rows: the step. Of others: the one before which they come."""
    folded: tuple[Step, ...] = ()


class Lanes(list[Lane]):
    """The columns of a trace."""

    def of(self, cpu: int) -> int:
        """The lane of a CPU; -1 if it has none."""
        return next((i for i, lane in enumerate(self) if lane.cpu == cpu), -1)


def lanes_of(trace: Trace) -> Lanes:
    """A lane for each CPU, and each kernel thread, that took a step or was about to."""
    names = {step.cpu: words.clean(step.cpu_name) for step in trace if step.kind is not op.STARTED}
    for pending in trace.pending:
        if pending.cpu < trace.nr_cpus:
            names.setdefault(pending.cpu, words.clean(pending.task.removesuffix("/irq")))
    return Lanes(Lane(cpu, names[cpu]) for cpu in sorted(names))


def rows_of(trace: Trace, lanes: Lanes, kept: Set[int] | None = None) -> Iterator[Row]:
    """
    The rows of *trace*, in order.

    Args:
        kept: indexes of the steps to be shown; runs of others are folded. ``None``: all.
    """
    folded: list[Step] = []
    before: Step | None = None
    for step in trace:
        if step.kind in words.HIDDEN:
            continue
        marks = list(_marks(before, step, lanes))
        if kept is None or step.at in kept or any(mark.kind == RULE for mark in marks):
            yield from _unfold(folded, lanes)
            yield from marks
            yield _row(step, lanes)
        else:
            folded.append(step)
        before = step
    yield from _unfold(folded, lanes)
    yield from _end(trace, lanes)


def _row(step: Step, lanes: Lanes) -> Row:
    return Row(STEP, lanes.of(step.cpu), words.operation(step), step)


def _unfold(folded: list[Step], lanes: Lanes) -> Iterator[Row]:
    """Steps that were left out, as one row, unless that would say more than they do."""
    if len(folded) < FOLD_FROM:
        yield from (_row(step, lanes) for step in folded)
    else:
        n = sum(not step.is_note for step in folded)
        where = list(dict.fromkeys(_activity(step) for step in folded if step.calls))
        text = f"{words.count(n, 'step')}: {', '.join(where)}" if where else words.count(n, "step")
        cpus = {step.cpu for step in folded}
        lane = lanes.of(folded[0].cpu) if len(cpus) == 1 else -1
        yield Row(FOLD, lane, text, folded[0], tuple(folded))
    folded.clear()


def _activity(step: Step) -> str:
    """What the body is at: the function that it has called, or itself."""
    calls = step.calls
    return words.clean(calls[1] if len(calls) > 1 else calls[0])


def _marks(before: Step | None, step: Step, lanes: Lanes) -> Iterator[Row]:
    """What comes between two steps."""
    if before is None:
        if step.kind is op.IRQ:
            yield Row(RULE, lanes.of(step.cpu), _interrupt(step), step)
        return
    if step.switch == PREEMPTION:
        text = f"{words.task(step.left)} is preempted"
        if step.kind is op.IRQ:
            text += f"; {_interrupt(step)}"
        yield Row(RULE, lanes.of(before.cpu), text, step)
    elif step.switch == SWITCH and step.why not in ("", "yields"):
        yield Row(ASIDE, lanes.of(before.cpu), words.clean(step.why), step)
    if step.switch != PREEMPTION and step.kind is op.IRQ:
        yield Row(RULE, lanes.of(step.cpu), _interrupt(step), step)
    elif before.is_irq and not step.is_irq and before.cpu == step.cpu and step.switch != INTERRUPT:
        yield Row(RULE, lanes.of(step.cpu), f"{words.task(step.task)} goes on", step)


def _interrupt(step: Step) -> str:
    name = f": {words.clean(step.new)}" if step.new else ""
    return f"interrupt on {words.clean(step.cpu_name)}{name}"


def _end(trace: Trace, lanes: Lanes) -> Iterator[Row]:
    """What everybody was about to do when it failed."""
    for pending in trace.pending:
        lane = lanes.of(pending.cpu)
        if lane < 0 or (pending.cpu >= trace.nr_cpus and pending.asleep_on and not pending.held):
            continue  # a kernel thread without work
        about_to = f"was about to {words.about_to(pending.kind, pending.object)}"
        yield Row(ASIDE, lane, words.clean(pending.waits_for) or about_to)
