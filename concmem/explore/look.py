"""
Looking at an execution from outside: names of objects, values, places in the source, what tasks wait for.

None of it is a step. Whoever calls it sees to that: no task is the current one meanwhile.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from concmem.explore import operation as op
from concmem.explore.execution import Execution
from concmem.explore.steps import Pending, Site
from concmem.explore.stuck import describe

if TYPE_CHECKING:
    from concmem.explore.task import Task

_PACKAGE: Final = str(Path(__file__).resolve().parent.parent)
_MECHANISM: Final = (f"{_PACKAGE}/explore/", f"{_PACKAGE}/runtime/")
"""Files whose frames are no source of an operation."""

_BOTTOM: Final = (Execution._run_body.__code__, Execution.run_handler.__code__)
"""Where the program's own frames begin."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
"""In a ``repr``: other in each run."""

_BRIEF: Final = 40
"""Characters of a value, at most."""


class _Brief(reprlib.Repr):
    """Short, and without addresses: taken out first, since their length is other in each run, too."""

    def repr_instance(self, x: Any, level: int) -> str:
        """Of whatever is no number, string or container; also of what cannot say what it is."""
        text = _ADDRESS.sub("", super().repr_instance(x, level))
        if len(text) <= _BRIEF:
            return text
        head = (_BRIEF - 3) // 2
        return f"{text[:head]}...{text[head + 3 - _BRIEF :]}"


_brief: Final = _Brief()
_brief.maxstring = _BRIEF
_brief.maxother = sys.maxsize  # cut above


class Labels:
    """Names of objects; a second object of the same name gets another one."""

    def __init__(self) -> None:
        self._labels: dict[int, tuple[Any, str]] = {}
        self._uses: Counter[str] = Counter()

    def __call__(self, obj: Any) -> str:
        if obj is None:
            return ""
        found = self._labels.get(id(obj))
        if found is None:
            name = op.name_of(obj)
            self._uses[name] += 1
            label = name if self._uses[name] == 1 else f"{name}#{self._uses[name]}"
            found = self._labels[id(obj)] = obj, label  # keeps it, and so its id
        return found[1]


def pending_of(ex: Execution, done: Task | None, labels: Labels) -> list[Pending]:
    """What everybody but *done* is in the middle of."""
    frames = sys._current_frames()
    found = []
    for task in (task for cpu in ex.cpus for task in (cpu.main, cpu.irq)):
        cpu = task.cpu
        if task is done or task.kind is None or (task.is_irq and not cpu.in_interrupt):
            continue
        frame = frames.get(cpu.thread.ident)
        site = Site() if frame is None or task.suspended else caller(frame)[0]
        blocked = task.blocked
        queue = getattr(blocked, "queue", None)
        find = getattr(blocked, "holder_to_wait_for", None)
        holder = cpu.irq if task.suspended else find() if find is not None else None
        found.append(
            Pending(
                cpu.number,
                task.name,
                task.is_irq,
                task.kind,
                labels(task.object),
                "is interrupted" if task.suspended else waits_for(blocked, labels),
                holder.name if holder is not None else "",
                labels(queue) if queue is not None else "",
                tuple(map(labels, task.held)),
                site,
            )
        )
    return found


def waits_for(blocked: Any, labels: Labels) -> str:
    """What somebody does who waits for *blocked*; empty for ``None``."""
    if blocked is None:
        return ""
    queue = getattr(blocked, "queue", None)
    if queue is not None:
        return f"sleeps on {labels(queue)}"
    if hasattr(blocked, "owner"):
        holders = [blocked.owner] if blocked.owner else getattr(blocked, "readers", [])
        names = ", ".join(task.name for task in holders)
        return f"waits for {labels(blocked)}" + (f", held by {names}" if names else "")
    return f"waits for {describe(blocked)}"


def show(value: Any) -> str:
    """A value in short: addresses in hexadecimal, nothing that is other in each run."""
    if isinstance(value, tuple):
        return "(" + ", ".join(_show_value(each) for each in value) + ")"
    return _show_value(value)


def _show_value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 32:
        return hex(value)
    return _brief.repr(value)


def handler_name(handler: Any) -> str:
    """What an interrupt does."""
    while True:
        inner = getattr(handler, "fn", None) or getattr(handler, "func", None)
        if inner is None:
            break
        handler = inner
    return _short(getattr(handler, "__qualname__", type(handler).__name__))


def _short(qualname: str) -> str:
    """``Counter.add``, ``body``: without the function that it is defined in."""
    return qualname.rsplit("<locals>.", 1)[-1]


def caller(frame: FrameType | None) -> tuple[Site, tuple[str, ...]]:
    """The innermost place that is no part of the harness, and the functions from the body to there."""
    site = Site()
    calls: list[str] = []
    while frame is not None and frame.f_code not in _BOTTOM:
        code = frame.f_code
        if not code.co_filename.startswith(_MECHANISM):
            function = _short(code.co_qualname)
            if not calls:
                site = Site(code.co_filename, frame.f_lineno, function)
            calls.append(function)
        frame = frame.f_back
    return site, tuple(reversed(calls))
