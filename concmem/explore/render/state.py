"""What holds after each step of a trace: values, and who holds which locks."""

from __future__ import annotations

from typing import Final

from concmem.explore import operation as op
from concmem.explore.steps import VALUES, Step, Trace

_TAKE: Final = frozenset((op.ACQUIRE, op.TAKEN))
_GIVE_UP: Final = frozenset((op.RELEASE, op.UP))


def held_after(trace: Trace) -> list[tuple[str, ...]]:
    """For each entry of *trace*: the locks that its task holds once it is done."""
    last = {pending.task: pending.held for pending in trace.pending}
    found: list[tuple[str, ...]] = []
    for step in reversed(trace):
        found.append(last[step.task] if step.task in last else _effect(step))
        last[step.task] = step.held
    found.reverse()
    return found


def _effect(step: Step) -> tuple[str, ...]:
    """What a task holds after its last step."""
    if step.kind in _TAKE and step.object not in step.held:
        return (*step.held, step.object)
    if step.kind in _GIVE_UP:
        return tuple(lock for lock in step.held if lock != step.object)
    if step.kind is op.WAIT:
        return step.held[:-1]  # gives up the lock of the queue, the one taken last
    return step.held


def first_values(trace: Trace) -> dict[str, str]:
    """Every object that has a value, and what that is before the first step, in the order of access."""
    values: dict[str, str] = {}
    for step in trace:
        if step.kind in VALUES:
            values.setdefault(step.object, step.old)
    return values


def shared_objects(trace: Trace) -> set[str]:
    """Those that more than one task accesses, and at least one changes."""
    tasks: dict[str, set[str]] = {}
    changed: set[str] = set()
    for step in trace:
        if step.kind in VALUES:
            tasks.setdefault(step.object, set()).add(step.task)
            if step.changes:
                changed.add(step.object)
    return {name for name, users in tasks.items() if len(users) > 1 and name in changed}
