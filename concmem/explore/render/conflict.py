"""
Why a schedule fails: accesses of one task with another one's in between that no serial order would allow.

A task that is forced out leaves a *gap* in what it does. Its last access of an object before the gap, somebody
else's in it, and its first one after it make a pattern. Those that cannot be had by running the tasks one after
the other (Lu, Tucek, Qin, Zhou, ASPLOS 2006, call them unserializable) are candidates, ordered by how often that
kind of thing is the mistake, and by how near the accesses are to the gap.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from typing import Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.steps import INTERRUPT, PREEMPTION, READS, VALUES, WRITES, Step, Trace

LOST_UPDATE: Final = "lost update"
STALE: Final = "acted on a stale value"
CHANGED: Final = "changed between two reads"
OVERWRITTEN: Final = "overwritten before it was read"
HALFWAY: Final = "seen halfway"
HALF_DONE: Final = "one of two changes seen"

REACH: Final = 60
"""Accesses of a task before and after a gap that are looked at."""

_RANK: Final = (LOST_UPDATE, STALE, CHANGED, OVERWRITTEN, HALF_DONE, HALFWAY)


class Conflict(NamedTuple):
    """Three accesses, or four where two objects are involved."""

    pattern: str
    before: Step
    """By the task that was forced out."""
    between: Step
    """By another one, meanwhile."""
    after: Step
    """By the first again."""
    other: Step | None = None
    """With `HALF_DONE`: the other task's access of what *after* changes."""
    changes: int = 1
    """How many times others have changed the object meanwhile."""

    @property
    def steps(self) -> tuple[Step, ...]:
        found = [self.before, self.between, self.after]
        return tuple(sorted(found + ([self.other] if self.other else []), key=lambda s: s.at))


class Gap(NamedTuple):
    """A task's accesses around others' steps."""

    before: list[Step]
    """Nearest first."""
    between: list[Step]
    """All that others access meanwhile."""
    after: list[Step]
    forced: bool
    """Whether it could have gone on."""


def find_conflict(trace: Trace, hint: str = "") -> Conflict | None:
    """The conflict that explains best what went wrong; *hint*: the error's message."""
    best, lowest = None, 1e9
    for gap in gaps_of(trace):
        for conflict in _conflicts(gap):
            badness = _badness(conflict, gap, hint)
            if badness < lowest:
                best, lowest = conflict, badness
    return best


def gaps_of(trace: Trace) -> Iterator[Gap]:
    """Every gap of every task that has accesses on both sides."""
    accesses = [step for step in trace if step.kind in VALUES]
    indexes = [step.at for step in accesses]
    by_task: defaultdict[str, list[Step]] = defaultdict(list)
    for step in accesses:
        by_task[step.task].append(step)
    for mine in by_task.values():
        for place in range(1, len(mine)):
            first, last = mine[place - 1], mine[place]
            start, end = bisect_left(indexes, first.at) + 1, bisect_left(indexes, last.at)
            if start < end:
                yield Gap(
                    mine[max(0, place - REACH) : place][::-1],
                    accesses[start:end],
                    mine[place : place + REACH],
                    _is_forced(trace, first, last),
                )


def _is_forced(trace: Trace, first: Step, last: Step) -> bool:
    """Whether the task of *first* was forced out between the two."""
    for index in range(first.at + 1, last.at + 1):
        step = trace[index]
        if step.switch in (PREEMPTION, INTERRUPT) and step.left == first.task:
            return True
    return False


def _conflicts(gap: Gap) -> Iterator[Conflict]:
    before, after = _nearest(gap.before), _nearest(gap.after)
    between: defaultdict[str, list[Step]] = defaultdict(list)
    for step in gap.between:
        between[step.object].append(step)
    for name, others in between.items():
        a, c = before.get(name), after.get(name)
        writes = [step for step in others if step.changes]
        if a is not None and c is not None:
            pattern, b = _pattern(a, writes, others, c)
            if pattern:
                yield Conflict(pattern, a, b, c, changes=len(writes))
    yield from _half_done(before, between, after)


def _pattern(a: Step, writes: list[Step], others: list[Step], c: Step) -> tuple[str, Step]:
    """What *a*, others' accesses of the same object, and *c* are; empty if that is in order."""
    if writes:
        b = writes[-1]
        if c.kind in WRITES:
            return (LOST_UPDATE, b) if _has_read(a) else ("", b)
        if c.kind is op.UPDATE and c.changes:
            return (STALE, b) if a.kind in READS else ("", b)
        return (CHANGED, b) if a.kind in READS or a.kind is op.UPDATE else (OVERWRITTEN, b)
    if a.changes and c.changes:
        return HALFWAY, others[0]
    return "", others[0]


def _has_read(step: Step) -> bool:
    return step.kind in READS or step.kind is op.UPDATE


def _half_done(
    before: dict[str, Step], between: dict[str, list[Step]], after: dict[str, Step]
) -> Iterator[Conflict]:
    """The first task changes two objects, and the other one sees one change but not the other."""
    seen = [name for name in between if name in before and before[name].changes]
    early = [name for name in between if name in after and after[name].changes]
    for name in seen:
        for missed in early:
            if missed != name:
                yield Conflict(
                    HALF_DONE, before[name], between[name][0], after[missed], between[missed][0]
                )


def _nearest(steps: list[Step]) -> dict[str, Step]:
    """The first access of each object."""
    found: dict[str, Step] = {}
    for step in steps:
        found.setdefault(step.object, step)
    return found


def _badness(conflict: Conflict, gap: Gap, hint: str) -> float:
    """The less, the better an explanation it is."""
    a, b, c = conflict.before, conflict.between, conflict.after
    badness = 10.0 * _RANK.index(conflict.pattern)
    badness += 0.1 * (gap.before[0].at - a.at + c.at - gap.after[0].at)
    if not gap.forced:
        badness += 25
    if conflict.pattern == CHANGED and a.site == c.site:
        badness += 30  # it looks again and again: a loop that waits, or tries once more
    if conflict.pattern == HALFWAY and b.kind is op.UPDATE:
        badness += 20
    if re.search(rf"(?<!\w){re.escape(a.object)}(?!\w)", hint):
        badness -= 15
    return badness
