"""
What happened, for people: every step of an execution with values, source lines and locks.

Recording all that is slow, so it is done only when an execution is replayed to be looked at.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.explore import operation as op
from concmem.explore.execution import Execution

if TYPE_CHECKING:
    from concmem.explore.task import Task

_MECHANISM: Final = ("concmem/explore/", "concmem/runtime/")
"""Files whose frames are no source of an operation."""

_SHOWS_VALUE: Final = frozenset((op.READ, op.LOAD, op.GUARDED_LOAD))
_CHANGES_VALUE: Final = frozenset((op.WRITE, op.UPDATE, op.STORE, op.GUARDED_STORE))


class Step(NamedTuple):
    """One line of a trace."""

    number: int
    """Which step; notes have that of the step before."""
    cpu: int
    """The CPU, or from ``nr_cpus`` up a kernel thread."""
    task: str
    """Its name; interrupts have another than the body."""
    kind: str
    """The operation, see `operation`."""
    object: str
    """What it is done to."""
    value: str
    """What was read, or ``old -> new``; empty where there is no value."""
    where: str
    """``file.py:12 function``."""
    held: tuple[str, ...]
    """Locks held before it."""
    switch: str
    """``""``, or how the task came here: ``preemption``, ``interrupt``, or ``switch`` (nobody was forced out)."""
    is_note: bool
    """No step of the scheduler's."""


class Trace(list[Step]):
    """The steps of one execution."""

    def __str__(self) -> str:
        from concmem.explore.table import render_table

        return render_table(self)


class _Recorder(list[Any]):
    """The trace of an execution, which sees everything that is added to it."""

    def __init__(self, ex: Execution) -> None:
        super().__init__()
        self._ex = ex
        self.steps = Trace()
        self._last: Task | None = None
        self._pending: tuple[int, Any, str] | None = None
        """A change whose result is not known yet: index in `steps`, the object, its old value."""

    def __iadd__(self, entry: Any) -> _Recorder:  # type: ignore[misc]
        super().__iadd__(entry)
        task, kind, obj = entry
        if task is None:
            return self
        # Showing a value may look at watched fields, which is no step.
        current, self._ex.current = self._ex.current, None
        try:
            self._record(task, kind, obj)
        finally:
            self._ex.current = current
        return self

    def _record(self, task: Task, kind: str, obj: Any) -> None:
        self.settle()
        is_note = kind in op.NOTES
        value = _show(obj) if kind in _SHOWS_VALUE or kind in _CHANGES_VALUE else ""
        if kind in _CHANGES_VALUE:
            self._pending = len(self.steps), obj, value
        self.steps.append(
            Step(
                self._ex.step,
                task.cpu.number,
                task.name,
                kind,
                op.name_of(obj) if obj is not None else "",
                value,
                _caller(),
                tuple(lock.name for lock in task.held),
                self._switch(task),
                is_note,
            )
        )

    def settle(self) -> None:
        """What changed last has its new value by now."""
        if self._pending is not None:
            index, obj, old = self._pending
            self._pending = None
            self.steps[index] = self.steps[index]._replace(value=f"{old} -> {_show(obj)}")

    def _switch(self, task: Task) -> str:
        last, self._last = self._last, task
        if last is None or last is task:
            return ""
        if task.is_irq and task.cpu is last.cpu:
            return "interrupt"
        if last.is_irq and task.cpu is last.cpu:
            return ""
        return "preemption" if last.enabled else "switch"


class TracedExecution(Execution):
    """An execution that is looked at: `steps` tells all."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trace = _Recorder(self)

    @property
    def steps(self) -> Trace:
        recorder: Any = self.trace
        recorder.settle()
        steps: Trace = recorder.steps
        return steps

    def forget_boot(self) -> None:
        """What came before the bodies is not of interest."""
        recorder: Any = self.trace
        recorder.settle()
        recorder.steps.clear()


def _show(obj: Any) -> str:
    try:
        value = obj.now
    except Exception:
        return "?"
    if isinstance(value, tuple):
        return "(" + ", ".join(_show_value(each) for each in value) + ")"
    return _show_value(value)


def _show_value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 32:
        return hex(value)
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _caller() -> str:
    """The innermost frame that is no part of the harness."""
    frame = sys._getframe(3)
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if not any(part in name for part in _MECHANISM):
            return f"{name.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
