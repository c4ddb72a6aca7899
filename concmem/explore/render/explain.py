"""What went wrong, in one sentence, with the steps that show it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.explore.render import words
from concmem.explore.render.conflict import (
    CHANGED,
    HALF_DONE,
    HALFWAY,
    LOST_UPDATE,
    OVERWRITTEN,
    STALE,
    Conflict,
    find_conflict,
)
from concmem.explore.render.explain_stuck import Explanation as Explanation
from concmem.explore.render.explain_stuck import (
    explain_deadlock,
    explain_leak,
    explain_livelock,
    explain_lost_wakeup,
    explain_step_limit,
)
from concmem.explore.steps import PREEMPTION, READS, VALUES, WRITES, Site, Step, Trace

if TYPE_CHECKING:
    from concmem.explore.failure import Failure

NOTHING: Final = Explanation("", ())


class Place(NamedTuple):
    """Where an error was raised."""

    site: Site
    text: str
    """The line there."""


def explain(failure: Failure) -> Explanation:
    """Why *failure* happened; an empty text where the trace does not tell."""
    trace = failure.trace
    if trace is None or not trace:
        return NOTHING
    special: dict[str, Callable[[Failure, Trace], Explanation]] = {
        "deadlock": explain_deadlock,
        "lost-wakeup": explain_lost_wakeup,
        "lock-leak": explain_leak,
        "livelock": explain_livelock,
        "step-limit": explain_step_limit,
        "data-race": _explain_race,
        "hang": _explain_hang,
        "lockdep": lambda _failure, _trace: NOTHING,  # its report says all
    }
    return special.get(failure.kind, _explain_error)(failure, trace)


def place_of(failure: Failure) -> Place | None:
    """Where the program raised what it raised."""
    found = None
    for frame in traceback.extract_tb(failure.error.__traceback__):
        name = frame.filename.replace("\\", "/")
        if "concmem/explore/" not in name:
            found = Place(Site(frame.filename, frame.lineno or 0, frame.name), frame.line or "")
    return found


# -- assertions and exceptions


def _explain_error(failure: Failure, trace: Trace) -> Explanation:
    conflict = find_conflict(trace, str(failure.error))
    if conflict is not None:
        return Explanation(_told(conflict), tuple(step.at for step in conflict.steps))
    half = _seen_half_done(failure, trace)
    if half is not None:
        return half
    return _explain_order(failure, trace)


def _told(conflict: Conflict) -> str:
    """The conflict as a sentence."""
    a, b, c = conflict.before, conflict.between, conflict.after
    mine, other, obj = words.task(a.task), words.task(b.task), words.clean(a.object)
    story = f"{mine} {words.did(a)}, {other} {words.did(b)}, then {mine} {words.did(c)}"
    if conflict.other is not None:
        seen = sorted((b, conflict.other), key=lambda step: step.at)
        return (
            f"{other} {words.did(seen[0])} and {words.did(seen[1])} between two changes that belong "
            f"together: {mine} {words.did(a)} before, and {words.did(c)} after that."
        )
    ends = {
        LOST_UPDATE: f"{story} from what it had read: {_lost(conflict)} of {other}"
        f" {'is' if conflict.changes == 1 else 'are'} lost.",
        STALE: f"{story}: what it had read was no longer true.",
        CHANGED: f"{story}: what it had read first was no longer true.",
        OVERWRITTEN: f"{story}: not what it had written.",
        HALFWAY: f"{story}: {other} saw a value of {obj} that was not meant to be seen.",
    }
    assert conflict.pattern != HALF_DONE
    return ends[conflict.pattern]


def _lost(conflict: Conflict) -> str:
    n = conflict.changes
    return "the update" if n == 1 else f"the {n} updates"


def _seen_half_done(failure: Failure, trace: Trace) -> Explanation | None:
    """Somebody failed on what another one, that was forced out, had begun and not ended."""
    for index in range(len(trace) - 1, 0, -1):
        step = trace[index]
        if step.switch != PREEMPTION:
            continue
        victim = step.left
        pending = next((each for each in trace.pending if each.task == victim), None)
        if pending is None:
            continue
        written = {s.object: s for s in trace[:index] if s.task == victim and s.changes}
        for later in trace[index:]:
            wrote = written.get(later.object)
            if wrote is not None and later.task != victim and later.kind in VALUES:
                # What the victim has not come to, the other one may have seen as it was.
                early = [
                    s for s in trace[index:] if s.object == pending.object and s.kind in VALUES
                ]
                seen = [later, *(s for s in early if s.task == later.task and s is not later)][:2]
                return Explanation(
                    f"{words.task(victim)} {words.did(wrote)} and was preempted before it could "
                    f"{words.about_to(pending.kind, pending.object)}; meanwhile "
                    f"{words.task(later.task)} {words.listed([words.did(s) for s in seen])}"
                    f"{_fails(failure, later)}.",
                    (wrote.at, *(s.at for s in seen)),
                )
    return None


def _fails(failure: Failure, step: Step) -> str:
    return ", and failed" if failure.cpu == step.task else ""


def _explain_order(failure: Failure, trace: Trace) -> Explanation:
    """No gap shows it: what who failed has read last of what another one had written."""
    if trace.preemptions:
        start = ""
    elif len({step.cpu for step in trace}) > 1:
        start = "No CPU was preempted: that they ran one after the other is enough. "
    else:
        start = "Nobody else ran: this is no race. "
    if not failure.cpu:
        return Explanation(start.strip(), ())
    writers: dict[str, Step] = {}
    found: tuple[Step, Step] | None = None
    for step in trace:
        if step.kind in READS or (step.kind in VALUES and step.kind not in WRITES):
            wrote = writers.get(step.object)
            if wrote is not None and wrote.task != step.task and step.task == failure.cpu:
                found = wrote, step
        if step.changes:
            writers[step.object] = step
    if found is not None:
        wrote, read = found
        return Explanation(
            f"{start}{words.task(wrote.task)} {words.did(wrote)}, then {words.task(read.task)} "
            f"{words.did(read)}{_fails(failure, read)}.",
            (wrote.at, read.at),
        )
    return Explanation(start.strip(), ())


# -- data races and hangs


def _explain_race(failure: Failure, trace: Trace) -> Explanation:
    if trace.race is None:
        return NOTHING
    first, second = trace.race
    guard = f" It is declared to be guarded by {words.clean(trace.guard)}." if trace.guard else ""
    return Explanation(
        f"{_access(first)}, and {_access(second)}: nothing that the two did orders these accesses, so "
        f"they may come in any order, or at once.{guard}",
        (first.at, second.at),
    )


def _access(step: Step) -> str:
    locks = words.listed([words.clean(lock) for lock in step.held])
    where = words.at_site(step.site)
    return f"{words.task(step.task)} {words.did(step)}{where}, holding {locks or 'no lock'}"


def _explain_hang(failure: Failure, trace: Trace) -> Explanation:
    last = next((step for step in reversed(trace) if step.task == failure.cpu), trace[-1])
    return Explanation(
        f"{words.task(last.task)} {words.did(last)} and has not come to another scheduling point since.",
        (last.at,),
    )
