"""What an outcome means, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concmem.explore.render import words
from concmem.explore.render.table import Look, render_failure, terminal_width
from concmem.explore.schedule import Schedule

if TYPE_CHECKING:
    from concmem.explore.check import Outcome
    from concmem.explore.failure import Failure


def summarize(outcome: Outcome, look: Look | None = None) -> str:
    """What was found, or what it means that nothing was."""
    look = look or Look(terminal_width())
    if outcome.failure is not None:
        return render_failure(outcome.failure, _how_found(outcome, outcome.failure), look)
    verdict = f"Nothing found: {_ran(outcome)}."
    lines = [verdict, _nothing_seen(outcome), _meaning(outcome), _not_covered(outcome)]
    return "\n".join(look.wrap(line, "  ") for line in lines if line)


def _ran(outcome: Outcome) -> str:
    """How much was executed."""
    if outcome.scheduler == "replay":
        return f"one replayed execution, {words.count(outcome.steps, 'step')}"
    coverage = outcome.coverage
    low, high = coverage.steps_min, coverage.steps_max
    steps = f"{low:,} to {high:,} steps" if low != high else words.count(high, "step")
    rate = f", {outcome.executions / outcome.seconds:,.0f} a second" if outcome.seconds else ""
    return (
        f"{words.count(outcome.executions, 'execution')} of {steps} in {outcome.seconds:.2f} s{rate}, "
        f"scheduler {outcome.scheduler}, seed {outcome.seed}"
    )


# -- a pass


def _nothing_seen(outcome: Outcome) -> str:
    """A warning where there was nothing to choose."""
    if outcome.steps or not outcome.executions:
        return ""
    return (
        "No CPU came to a scheduling point, so there was one schedule only. What CPUs share must be made by the "
        "runtime (cells, atomics, locks, queues) or watched (explore.shared, rt.watch) to be seen."
    )


def _meaning(outcome: Outcome) -> str:
    """What of the program is known now."""
    if outcome.scheduler == "replay":
        return "The program passes under this schedule; that says nothing about others."
    if outcome.exhausted:
        return _exhausted(outcome)
    ended = _ended(outcome)
    different = words.count(outcome.coverage.schedules, "different schedule")
    if outcome.coverage.leaves_out:
        return (
            f"Not exhausted, {ended}: {different}. {_left_out(outcome)}. There is no bound for what that may "
            "have missed."
        )
    if outcome.bound is not None:
        return (
            f"Every schedule with at most {_bound(outcome)} was covered. Not exhausted, {ended}: of those "
            f"with more there were only some, or none; {different} in all."
        )
    if outcome.scheduler in ("dfs", "dpor"):
        return (
            f"Not exhausted, {ended}: {different}, all of them much alike, since those that differ late "
            "come first. A random scheduler sees more of a program that is too large for this one."
        )
    if outcome.probability is not None:
        return f"Not exhausted, {ended}: {different}. {_odds(outcome)}"
    if outcome.scheduler == "rr":
        return "This scheduler has one schedule only, with a switch at every step."
    return (
        f"Not exhausted, {ended}: {different} of an unknown number, drawn at random. There is no bound "
        "for what that may have missed."
    )


def _exhausted(outcome: Outcome) -> str:
    if outcome.scheduler == "dpor":
        broken_off = f" ({outcome.abandoned:,} of them broken off)" if outcome.abandoned else ""
        return f"Exhausted: no schedule fails. Every one does the same as one of those that were run{broken_off}."
    if outcome.bound is not None:
        return f"Exhausted: every schedule was run, and none fails. None has more than {_bound(outcome)}."
    return "Exhausted: every schedule was run, and none fails."


def _left_out(outcome: Outcome) -> str:
    """What no scheduler was asked about."""
    coverage = outcome.coverage
    if coverage.unchosen:
        steps = words.count(coverage.unchosen, "step")
        return f"{steps} came without a choice, to where CPUs can be parked and looked at"
    sleeps = words.count(coverage.unoffered, "sleep")
    return f"{sleeps} could time out early, and were not woken spuriously instead"


def _bound(outcome: Outcome) -> str:
    """The bound with what it counts."""
    assert outcome.bound is not None
    return words.count(outcome.bound, outcome.bounds.removesuffix("s"))


def _ended(outcome: Outcome) -> str:
    """Why it did not go on."""
    return {
        "executions": "since the number of executions was limited",
        "seconds": "since the time was limited",
        "interrupt": "since it was interrupted",
        "scheduler": (
            "though all that could be chosen was"
            if outcome.coverage.leaves_out
            else "since the scheduler's bound was limited"
        ),
    }.get(outcome.ended_by, f"ended by {outcome.ended_by}")


def _odds(outcome: Outcome) -> str:
    """The scheduler's guarantee, as odds."""
    assert outcome.probability is not None
    found, missed = outcome.probability, 1.0 - outcome.probability
    depth = "the scheduler's depth" if outcome.depth is None else f"depth {outcome.depth}"
    if found < 0.5:
        odds = f"1 in {1 / found:,.0f}" if found > 1e-9 else "1 in 1,000,000,000"
        return (
            f"A bug of {depth} would have been found with odds of at least {odds}: to rely on that, "
            "run more executions."
        )
    odds = f"1 in {1 / missed:,.0f}" if missed > 1e-9 else "1 in 1,000,000,000"
    return f"A bug of {depth} would have been missed with odds of at most {odds}."


def _not_covered(outcome: Outcome) -> str:
    """What no schedule would have shown."""
    if outcome.scheduler == "replay":
        return ""
    missing = ["memory orders weaker than sequential consistency"]
    if not outcome.options.get("early_timeouts"):
        missing.append("time-outs that come early")
    if not outcome.options.get("spurious_wakeups"):
        missing.append("spurious wake-ups")
    detectors = outcome.options.get("detectors")
    if detectors is not None:
        names = {"races": "data races", "lockdep": "orders of locks that could deadlock"}
        missing += [name for detector, name in names.items() if detector not in detectors]
    return f"Not looked for: {words.listed(missing)}."


# -- a failure


def _how_found(outcome: Outcome, failure: Failure) -> str:
    """Which execution it was, and how much simpler it was made."""
    if outcome.scheduler == "replay":
        return ""
    where = f"Found by execution {failure.executions:,} of scheduler {outcome.scheduler}"
    return f"{where}, seed {outcome.seed}, after {outcome.seconds:.2f} s; {_shrunk(failure)}."


def _shrunk(failure: Failure) -> str:
    before = Schedule.parse(failure.original_schedule or failure.schedule)
    after = Schedule.parse(failure.schedule)
    n, m = len(before.deviations), len(after.deviations)
    text = (
        ("it needs no preemption" if not m else f"its schedule has {words.count(m, 'deviation')}")
        if before.deviations == after.deviations
        else f"shrunk from {words.count(n, 'deviation')} to {m}"
    )
    trace: Any = failure.trace
    if trace and m:
        text += f" ({words.count(trace.preemptions, 'preemption')})"
    left_out = len(set(after.dropped) - set(before.dropped))
    if left_out:
        text += f", and {words.count(left_out, 'part')} of the program left out"
    return text
