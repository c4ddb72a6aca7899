"""What an outcome means, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.explore.check import Outcome


def summarize(outcome: Outcome) -> str:
    """A few lines: what was found, or what was covered."""
    rate = outcome.executions / outcome.seconds if outcome.seconds else 0.0
    ran = (
        f"{outcome.executions:,} executions of {outcome.coverage.steps_min} to "
        f"{outcome.coverage.steps_max} steps in {outcome.seconds:.2f} s ({rate:,.0f}/s), "
        f"scheduler {outcome.scheduler}, seed {outcome.seed}"
    )
    if outcome.failure is not None:
        return f"{outcome.failure}\n\nFound by {ran}."
    lines = [f"Nothing found: {ran}."]
    lines.append(f"Different schedules: {outcome.coverage.schedules:,}.")
    if outcome.exhausted:
        lines.append("Exhausted: there is no other schedule.")
    elif outcome.bound is not None:
        lines.append(f"Every schedule with at most {outcome.bound} {outcome.bounds} was covered.")
    if outcome.probability is not None:
        lines.append(
            f"A bug of the scheduler's depth would have been found with p >= {outcome.probability:.3g}."
        )
    if not outcome.exhausted:
        lines.append(f"Not exhausted: ended by {outcome.ended_by}.")
    return "\n".join(lines)
