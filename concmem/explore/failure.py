"""Failures: what is wrong, how to see it again, and whether two of them are the same."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from concmem import errors
from concmem.explore.schedule import Schedule

if TYPE_CHECKING:
    from concmem.explore.stuck import Finding
    from concmem.explore.trace import Trace

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

    ``str(failure)`` is the whole report: the interleaving with one column for each CPU, what was wrong, and
    the schedule to replay.
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
    trace: Trace | None = None
    """Every step, see `Trace`; prints as a table."""
    original_schedule: str = ""
    """The schedule as it was found, before shrinking."""
    executions: int = 0
    """Which execution of the search it was, from 1."""
    target: str = ""
    """What to write after ``concmem replay``, if that is known."""
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

    def __str__(self) -> str:
        from concmem.explore.table import render_failure

        return render_failure(self)


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
