"""
Stacks of calls, each kept once, by handle (``lib/stackdepot.c``).

Saving a stack that is known already is a walk over its frames and one look-up; what is said about it is
made when somebody wants to read it. Whoever saves leaves out the frames of debugging itself. Frames of the
runtime, below what a CPU runs, are found out once and not walked again.

No lock: a handle comes from one indivisible ``dict.setdefault``; of two CPUs that save the same new stack at
the same time both get the handle of the first.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

STACK_DEPTH: Final = 16
"""Frames that are kept, the innermost."""

_PACKAGE: Final = Path(__file__).parents[2]
_MM: Final = f"{_PACKAGE / 'mm'}/"
_RUNTIME: Final = (f"{_PACKAGE / 'runtime'}/", f"{_PACKAGE / 'explore'}/")

Frame = tuple[CodeType, int]
"""Code, and how far in it, in bytes of its byte code."""

_Key = tuple[object, ...]
"""A stack as (the key of what is above, id of the code, how far in it), for look-ups only."""


class Stack:
    """Calls, the innermost first."""

    __slots__ = ("frames",)

    def __init__(self, frames: tuple[Frame, ...]) -> None:
        self.frames = frames

    @property
    def lines(self) -> tuple[str, ...]:
        """
        Each call as ``function+0x1c/0x60 (file.py:12)``.

        Of the kernel's own functions only the one that was called from outside.
        """
        inside = 0
        while inside < len(self.frames) and _is_in(self.frames[inside], _MM):
            inside += 1
        return tuple(map(show_frame, self.frames[max(0, inside - 1) :]))

    @property
    def caller(self) -> str:
        """Who called the kernel, as ``%pS`` shows it."""
        for frame in self.frames:
            if not _is_in(frame, _MM):
                return symbol(frame)
        return symbol(self.frames[-1]) if self.frames else "0x0"

    def __contains__(self, function: object) -> bool:
        """Whether a function of that name, with or without its class or module, is in it."""
        return any(function in (c.co_name, c.co_qualname) for c, _ in self.frames)


class StackDepot:
    """All stacks that a machine has saved. They stay as long as it."""

    def __init__(self) -> None:
        self._handles: dict[_Key, int] = {}
        self._stacks: dict[int, Stack] = {}
        self._numbers = count(1)
        self._outside: set[int] = set()
        """Ids of code of the runtime. They stay what they are: that code is in some stack here."""
        self._kept: list[CodeType] = []

    def save(self, skip: int) -> int:
        """
        The handle, from 1, of the caller's stack (``stack_depot_save``).

        Args:
            skip: innermost frames to leave out, the caller's own being the first.
        """
        frame: FrameType | None = sys._getframe(skip + 1)
        outside = self._outside
        key: _Key = ()
        nr_left = STACK_DEPTH
        while frame is not None and nr_left:
            code = id(frame.f_code)
            if code in outside:
                break
            key = key, code, frame.f_lasti
            frame = frame.f_back
            nr_left -= 1
        # Ids of code stand for it: what is known here is kept, so nothing else has its id.
        return self._handles.get(key) or self._save_new(skip + 2)

    def _save_new(self, skip: int) -> int:
        frames = _walk(sys._getframe(skip))
        own = _nr_inside(frames)
        for code, _ in frames[own:]:
            if code.co_filename.startswith(_RUNTIME) and id(code) not in self._outside:
                self._kept.append(code)
                self._outside.add(id(code))
        frames = frames[: min(own, STACK_DEPTH)]
        handle = next(self._numbers)
        self._stacks[handle] = Stack(tuple(frames))
        key: _Key = ()
        for code, lasti in frames:
            key = key, id(code), lasti
        return self._handles.setdefault(key, handle)

    def fetch(self, handle: int) -> Stack | None:
        """The stack with that handle; ``None``: there is none, as when the number was overwritten."""
        return self._stacks.get(handle)


def save_stack(skip: int) -> Stack:
    """The caller's stack, kept nowhere; *skip* as in `StackDepot.save`."""
    frames = _walk(sys._getframe(skip + 1))
    return Stack(tuple(frames[: _nr_inside(frames)]))


def _walk(frame: FrameType | None) -> list[Frame]:
    frames = []
    while frame is not None:
        frames.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return frames


def _nr_inside(frames: list[Frame]) -> int:
    """How many are above the first of the runtime: those of what the CPU runs."""
    outside = (i for i, frame in enumerate(frames) if _is_in(frame, _RUNTIME))
    return next(outside, len(frames))


def _is_in(frame: Frame, directory: str | tuple[str, ...]) -> bool:
    return frame[0].co_filename.startswith(directory)


def symbol(frame: Frame) -> str:
    """As ``%pS``: the function, the offset in its byte code, and the length of that."""
    code, lasti = frame
    # The kernel's functions are known by what they are called, wherever they are made.
    name = code.co_name if _is_in(frame, _MM) else code.co_qualname
    return f"{name}+{lasti:#x}/{len(code.co_code):#x}"


def show_frame(frame: Frame) -> str:
    """The same, and the place in the source."""
    code, lasti = frame
    where = f"{Path(code.co_filename).name}:{_line_number(code, lasti)}"
    return f"{symbol(frame)} ({where})"


def _line_number(code: CodeType, lasti: int) -> int:
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno
