"""Single keys from a terminal, without Enter and without waiting."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from types import TracebackType
from typing import Any, Self


class Keys:
    """
    What was typed on standard input, if that is a terminal and output goes to one; else nothing ever.

    A context manager: while it is entered, the terminal does not wait for Enter and shows nothing.
    Ctrl-C is an interrupt as always.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Self:
        if (
            sys.stdin is not None
            and sys.stdin.isatty()
            and sys.stdout.isatty()
            and _in_foreground()
        ):
            self._fd = sys.stdin.fileno()
            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._fd = None

    def read(self) -> str:
        """The keys typed since the last call; empty when there were none."""
        if self._fd is None or not select.select([self._fd], [], [], 0)[0]:
            return ""
        return os.read(self._fd, 64).decode(errors="replace")


def _in_foreground() -> bool:
    """Whether the terminal is ours: the system stops a background process that touches it."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal, so nobody else's job either
