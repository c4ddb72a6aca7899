"""Failures: what is wrong, how to see it again, and whether two of them are the same."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from concmem import errors
from concmem.explore.schedule import Schedule

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from concmem.explore.steps import Step, Trace
    from concmem.explore.stuck import Finding

_CLASSES: Final[dict[str, type[Exception]]] = {
    "deadlock": errors.Deadlock,
    "lost-wakeup": errors.LostWakeup,
    "lock-leak": errors.LockLeaked,
    "livelock": errors.Livelock,
    "step-limit": errors.Livelock,
    "data-race": errors.DataRace,
}


@dataclass
class Failure:
    """
    What a check has found.

    ``str(failure)`` is the whole report: the interleaving with one column for each CPU, what went wrong in one
    sentence, the error, and the line to replay it. `to_html` and `to_trace_events` are other views of it, and
    `save` writes any of them.
    """

    kind: str
    """``assertion``, ``exception``, ``deadlock``, ``lost-wakeup``, ``lock-leak``, ``livelock``, ``step-limit``,
    ``data-race``, ``lockdep``, ``hang``."""
    error: BaseException
    """What was raised, or what the detector says."""
    schedule: str
    """To be given to :func:`concmem.explore.replay`; minimal if it was shrunk."""
    cpu: str
    """The task that failed; empty for a check after the end."""
    step: int
    """After how many steps."""
    place: str
    """Where it was raised, or what it is about: two failures of the same kind and place are the same."""
    trace: Trace | None = field(default=None, repr=False)
    """Every step, see `Trace`; prints as a table."""
    original_schedule: str = ""
    """The schedule as it was found, before shrinking."""
    executions: int = 0
    """Which execution of the search it was, from 1."""
    target: str = ""
    """What to write after ``concmem replay``, if that is known."""
    command: str = ""
    """What to write before the schedule to see it again, if that is another command."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of :func:`concmem.explore.replay` that were not the usual ones."""
    notes: list[str] = field(default_factory=list)
    """What else is to be said."""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal for failures that are the same one."""
        return self.kind, type(self.error).__name__, self.place

    @property
    def preemptions(self) -> int:
        """Deviations of the schedule from running each CPU as long as it can."""
        return len(Schedule.parse(self.schedule).deviations)

    @property
    def race(self) -> tuple[Step, Step] | None:
        """The two accesses of a data race, in the order in which they came."""
        return self.trace.race if self.trace is not None else None

    @property
    def explanation(self) -> str:
        """What went wrong, in one sentence; empty where the trace does not tell."""
        from concmem.explore.render.explain import explain

        return explain(self).text

    @property
    def replay_line(self) -> str:
        """What to type to see it again: a command if the target is known, else Python."""
        if self.command:
            return f"{self.command} '{self.schedule}'"
        if self.target:
            return f"concmem replay {self.target} '{self.schedule}'"
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f'explore.replay(program, "{self.schedule}"{options})'

    def to_text(self, width: int | None = None, colour: bool = False) -> str:
        """
        The whole report.

        Args:
            width: in columns; ``None``: as wide as the terminal, or 100 where there is none.
            colour: with escape sequences of terminals.
        """
        from concmem.explore.render.table import Look, render_failure, terminal_width

        return render_failure(self, look=Look(width or terminal_width(), colour))

    def to_html(self) -> str:
        """A page that needs nothing else: lanes with a slider, values, locks, and source lines."""
        from concmem.explore.render.page import render_page

        return render_page(self)

    def to_trace_events(self) -> dict[str, Any]:
        """
        The Chrome trace-event format, for Perfetto and ``chrome://tracing``.

        A microsecond is a step.
        """
        from concmem.explore.render.trace_events import trace_events

        return trace_events(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """
        Write it to *path*; the suffix says how: ``.txt``, ``.html``, or ``.json`` for trace events.

        Raises:
            BadArgument: another suffix.
        """
        path = Path(path)
        views: dict[str, Callable[[], str]] = {
            ".txt": lambda: self.to_text(100) + "\n",
            ".html": self.to_html,
            ".json": lambda: json.dumps(self.to_trace_events()),
        }
        view = views.get(path.suffix.lower())
        if view is None:
            raise errors.BadArgument(
                f"path: expected a name that ends in {', '.join(views)}, got {str(path)!r}"
            )
        path.write_text(view(), encoding="utf-8")

    def __str__(self) -> str:
        return self.to_text()


def failure_of(finding: Finding, schedule: Schedule) -> Failure:
    """*finding* as a failure."""
    error = finding.error
    if isinstance(error, str):
        error = _CLASSES.get(finding.kind, errors.KernelBug)(error)
        place = _subject(finding)
    else:
        place = _place(error)
    return Failure(
        kind=finding.kind,
        error=error,
        schedule=str(schedule),
        cpu=finding.task.name if finding.task is not None else "",
        step=finding.step,
        place=place,
    )


def _place(error: BaseException) -> str:
    """The innermost line of *error*'s traceback that is no part of the harness."""
    subject = getattr(error, "failure_place", None)
    if subject is not None:
        return str(subject)
    if isinstance(error, BaseExceptionGroup):
        return " + ".join(_place(each) for each in error.exceptions)
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        name = frame.filename.replace("\\", "/")
        if "concmem/explore/" not in name:
            place = f"{name.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}"
    return place


def _subject(finding: Finding) -> str:
    """What a detector's finding is about, without who and when."""
    subject: Any = finding.subject
    return str(subject) if subject else ""
