"""A trace as a table with one column for each CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concmem.explore.failure import Failure
    from concmem.explore.trace import Trace


def render_table(trace: Trace) -> str:
    """The steps, one a line."""
    lines = []
    for step in trace:
        if step.is_note:
            continue
        indent = " " * (36 * step.cpu)
        lines.append(f"{step.number:5} {indent}{step.task} {step.kind} {step.object} {step.value}")
    return "\n".join(lines)


def render_failure(failure: Failure) -> str:
    """The whole report."""
    table = render_table(failure.trace) if failure.trace is not None else ""
    return (
        f"{table}\n{failure.kind}: {failure.error}\nreplay: concmem replay {failure.target} "
        f"'{failure.schedule}'"
    )
