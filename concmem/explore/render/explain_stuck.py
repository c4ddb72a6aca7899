"""Why nobody goes on: deadlocks, lost wake-ups, locks that were kept, CPUs that spin."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.render import words
from concmem.explore.steps import READS, Pending, Step, Trace

if TYPE_CHECKING:
    from concmem.explore.failure import Failure

_TAKES: Final = frozenset((op.ACQUIRE, op.TRYLOCK, op.DOWN_READ, op.DOWN_WRITE, op.TAKEN))


class Explanation(NamedTuple):
    """One sentence, or a few."""

    text: str
    steps: tuple[int, ...]
    """Indexes of the entries of the trace that it speaks of."""


def explain_deadlock(failure: Failure, trace: Trace) -> Explanation:
    """The circle of those who wait for each other, or all who wait."""
    circle = _circle(trace)
    stuck = circle or [
        each for each in trace.pending if each.waits_for and not _is_idle(trace, each)
    ]
    steps: list[int] = []
    told = [_told_wait(each, trace, steps, with_holder=len(circle) < 2) for each in stuck]
    if not told:
        return Explanation("", ())
    if len(circle) > 1:
        text = f"{'; '.join(told)}: each waits for what the next one holds, in a circle."
    elif circle:
        text = f"{told[0]}: it waits for itself."
    else:
        text = f"{'; '.join(told)}: nobody is left to change that."
    return Explanation(text, tuple(steps))


def _circle(trace: Trace) -> list[Pending]:
    by_task = {each.task: each for each in trace.pending if each.waits_for}
    for start in by_task.values():
        path = [start]
        while path[-1].holder in by_task:
            following = by_task[path[-1].holder]
            if following in path:
                return path[path.index(following) :]
            path.append(following)
    return []


def _is_idle(trace: Trace, pending: Pending) -> bool:
    """Whether it is a kernel thread without work."""
    return pending.cpu >= trace.nr_cpus and bool(pending.asleep_on) and not pending.held


def _told_wait(pending: Pending, trace: Trace, steps: list[int], with_holder: bool) -> str:
    """Who waits where for what, and what it holds since when; adds those steps to *steps*."""
    holds = []
    for lock in pending.held:
        taken = _taken(trace, pending.task, lock)
        if taken is not None:
            steps.append(taken.at)
            holds.append(f"{words.clean(lock)} ({words.at(taken)})")
        else:
            holds.append(words.clean(lock))
    start = f"{words.task(pending.task)} " + (f"holds {words.listed(holds)} and " if holds else "")
    waits_for, _, held_by = words.clean(pending.waits_for).partition(", held by ")
    end = f" (held by {held_by})" if held_by and with_holder else ""
    return f"{start}{waits_for}{words.at_site(pending.site)}{end}"


def _taken(trace: Trace, task: str, lock: str) -> Step | None:
    """Where *task* took *lock* last."""
    for step in reversed(trace):
        if step.task == task and step.object == lock and step.kind in _TAKES:
            return step
    return None


def explain_lost_wakeup(failure: Failure, trace: Trace) -> Explanation:
    """Who slept, and who woke too early."""
    sleeper = _sleeper(failure, trace)
    if sleeper is None:
        return explain_deadlock(failure, trace)
    queue = sleeper.asleep_on
    slept = next((s for s in reversed(trace) if s.kind is op.WAIT and s.task == sleeper.task), None)
    if slept is None:
        return explain_deadlock(failure, trace)
    me, name = words.task(sleeper.task), words.clean(queue)
    where = words.at_site(slept.site)
    # An earlier sleep of its own ended with a wake-up: what matters has come after that.
    woken = [s for s in trace if s.kind is op.WAKE and s.object == queue]
    early = [s for s in woken if s.at < slept.at and s.task != sleeper.task]
    late = [s for s in woken if s.at > slept.at]
    if late:
        step = late[-1]
        text = (
            f"{me} {words.did(slept)}{where}; {words.task(step.task)} {words.did(step)}, but that "
            f"woke {words.clean(step.new)}, and nobody is left to wake {me}."
        )
        return Explanation(text, (slept.at, step.at))
    looked = _looked(trace, sleeper.task, slept, early[-1] if early else None)
    seen = f"{words.did(looked)} and " if looked is not None else ""
    if early:
        step = early[-1]
        whom = "when nobody slept on it" if step.new == "nobody sleeps" else f"for {step.new} only"
        text = (
            f"{me} {seen}{words.did(slept)}{where}, but {words.task(step.task)} had woken {name} too "
            f"early ({words.at(step)}), {words.clean(whom)}: the wake-up is lost."
        )
        steps = [step.at, slept.at]
    else:
        text = f"{me} {seen}{words.did(slept)}{where}, and nobody ever wakes {name}."
        steps = [slept.at]
    return Explanation(text, tuple(sorted(steps + ([looked.at] if looked is not None else []))))


def _sleeper(failure: Failure, trace: Trace) -> Pending | None:
    """Who sleeps on a queue: the one that the error names first, if there are several."""
    asleep = [each for each in trace.pending if each.asleep_on and not _is_idle(trace, each)]
    asleep = asleep or [each for each in trace.pending if each.asleep_on]
    message = str(failure.error)
    return next((each for each in asleep if message.startswith(f"{each.task} ")), None) or next(
        iter(asleep), None
    )


def _looked(trace: Trace, task: str, slept: Step, woken: Step | None) -> Step | None:
    """What the sleeper last read before its sleep that somebody else has changed since."""
    changed = {s.object for s in trace if s.changes and s.task != task}
    for step in reversed(trace[: slept.at]):
        if step.task == task and step.kind in READS and step.object in changed:
            return step if woken is None or step.at < woken.at else None
    return None


def explain_leak(failure: Failure, trace: Trace) -> Explanation:
    """Where the lock was taken that is held at the end."""
    held: dict[str, Step] = {}
    for step in trace:
        if step.task != failure.cpu:
            continue
        if step.kind in _TAKES and step.new != "busy":
            held[step.object] = step
        elif step.kind in (op.RELEASE, op.UP):
            held.pop(step.object, None)
    if not held:
        return Explanation("", ())
    told = [f"{words.did(step)}{words.at_site(step.site)}" for step in held.values()]
    text = f"{words.task(failure.cpu)} {words.listed(told)}, and ended without giving it back."
    return Explanation(text, tuple(step.at for step in held.values()))


def explain_livelock(failure: Failure, trace: Trace) -> Explanation:
    """What each CPU looks at again and again, and since when nothing has changed."""
    since = next((s.at + 1 for s in reversed(trace) if s.kind in op.CHANGING), 0)
    reads: dict[str, dict[str, Step]] = {}
    for step in trace[since:]:
        if step.kind in READS:
            reads.setdefault(step.task, {})[step.object] = step
    told = []
    for task, steps in reads.items():
        values = [f"{words.clean(s.object)} = {words.clean(s.new)}" for s in steps.values()]
        told.append(f"{words.task(task)} reads {words.listed(values)}")
    number = max(1, trace[min(since, len(trace) - 1)].number)
    again = f": {', '.join(told)}, again and again" if told else ""
    return Explanation(
        f"From step {number} on nothing changes that anybody could see{again}.",
        tuple(step.at for steps in reads.values() for step in steps.values())[-4:],
    )


def explain_step_limit(failure: Failure, trace: Trace) -> Explanation:
    """Where it spends its time."""
    last = [step for step in trace[-200:] if not step.is_note]
    places = Counter((step.task, step.where) for step in last)
    told = [f"{words.task(task)} at {where} ({n})" for (task, where), n in places.most_common(3)]
    return Explanation(f"Of the last {len(last)} steps most are by {words.listed(told)}.", ())
