"""Which steps of a long trace are worth showing: the rest is folded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final

from concmem.explore.render.words import HIDDEN
from concmem.explore.steps import INTERRUPT, PREEMPTION, VALUES, Step, Trace

MOST: Final = 48
"""Rows up to which a trace is shown as it is, and which a folded one should not exceed."""

WINDOWS: Final = (40, 20, 10, 5)
"""Steps before and after a preemption within which shared objects count; the first that is short enough."""


def kept_steps(trace: Trace, key: Collection[int], most: int = MOST) -> set[int] | None:
    """
    Indexes of the steps to be shown; ``None``: all of them.

    Kept are: *key* (those that an explanation speaks of), the steps before and after each forced switch and
    where that task goes on, where the trace begins and ends; and near those forced switches that *key* is
    about (or all, if it is about none), the accesses that no lock keeps from those of another task.
    """
    shown = [step for step in trace if step.kind not in HIDDEN]
    if len(shown) <= most:
        return None
    places = {step.at: place for place, step in enumerate(shown)}
    forced = [place for place, step in enumerate(shown) if step.switch in (PREEMPTION, INTERRUPT)]
    kept = {index for index in key if index in places}
    kept |= {shown[0].at, *(step.at for step in shown[-2:])}
    for place in forced:
        kept |= {step.at for step in shown[max(0, place - 1) : place + 1]}
        kept |= _goes_on(shown, place)
    spoken_of = [place for place in forced if key and min(key) < shown[place].at <= max(key)]
    for window in WINDOWS:
        near = _contended(shown, spoken_of or forced or [len(shown) - 1], window)
        if len(kept | near) <= most:
            return kept | near
    return kept


def _goes_on(shown: list[Step], place: int) -> set[int]:
    """Where the task that was forced out before *place* goes on, and the step before that."""
    task = shown[place - 1].task if place else ""
    for later in range(place, len(shown)):
        if shown[later].task == task:
            return {shown[later - 1].at, shown[later].at}
    return set()


def _contended(shown: list[Step], forced: list[int], window: int) -> set[int]:
    """Accesses near forced switches of what another task accesses there, too, not both under one lock."""
    found = set()
    for place in forced:
        by_object: defaultdict[str, list[Step]] = defaultdict(list)
        for step in shown[max(0, place - window) : place + window]:
            if step.kind in VALUES:
                by_object[step.object].append(step)
        for steps in by_object.values():
            found |= {step.at for step in steps if any(_conflict(step, b) for b in steps)}
    return found


def _conflict(a: Step, b: Step) -> bool:
    """Whether two accesses of one object are by different tasks, one changes it, and no lock orders them."""
    return a.task != b.task and (a.changes or b.changes) and not set(a.held) & set(b.held)
