"""Places in code, for the reports of the lock validator: cheap to take, made into text when wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

TRACE_DEPTH: Final = 8
"""Calls kept of each trace."""

_PACKAGE: Final = str(Path(__file__).parent.parent)
_MACHINERY: Final = (f"{_PACKAGE}/runtime/", f"{_PACKAGE}/explore/")
"""Nobody wants to know that a lock was taken in its own method."""

Site = tuple[CodeType, int]
"""A place: code and instruction."""

Place = Site | str
"""A place, or words for one."""

Trace = tuple[Place, ...]
"""Calls, innermost first."""


def here() -> Site:
    """Where the caller was called from: the innermost frame outside the runtime."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_MACHINERY) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def trace() -> Trace:
    """The innermost calls outside the runtime."""
    calls: list[Place] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(calls) < TRACE_DEPTH:
        if not frame.f_code.co_filename.startswith(_MACHINERY):
            calls.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(calls) or ("?",)


def describe(site: Place) -> str:
    """``function (file:line)``; files of the package as below it."""
    if isinstance(site, str):
        return site
    code, instruction = site
    lines = (line for first, end, line in code.co_lines() if first <= instruction < end)
    file = code.co_filename
    if file.startswith(_PACKAGE):
        file = f"concmem{file[len(_PACKAGE) :]}"
    return f"{code.co_qualname} ({file}:{next(lines, None)})"
