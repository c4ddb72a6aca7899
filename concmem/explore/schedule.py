"""
Schedules: what a scheduler decided, as a short text that replays for ever.

A schedule is a list of deviations from a default, whoever made it. The default is: stay on the current
CPU, else (it waits or has ended) the lowest enabled one. ``(step, k)`` says: at this step, not the default
but the *k*-th of the other enabled choices, in the order CPUs, interrupts of CPUs, kernel threads. An empty
schedule has no preemption. Shorter is simpler, and of equal length the smaller one (*shortlex*).

As a text: ``v1:3.0,21.1``. A schedule of a program that was made smaller also says what is left out, after
a ``-``: ``v1:3.0-0.2,1`` leaves out operation 2 of the body on CPU 0 and the whole body on CPU 1.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple

from concmem.errors import BadArgument, BadArgumentType

VERSION: Final = "v1"

_SHAPE: Final = re.compile(
    r"v1:((?:\d+\.\d+(?:,\d+\.\d+)*)?)(?:-(\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*))?"
)


class Dropped(NamedTuple):
    """A part of a program that is left out."""

    body: int
    operation: int = -1
    """Which operation of the body; -1: all of it."""


class Schedule(NamedTuple):
    """Decisions of one execution."""

    deviations: tuple[tuple[int, int], ...] = ()
    dropped: tuple[Dropped, ...] = ()

    def __str__(self) -> str:
        text = f"{VERSION}:" + ",".join(f"{step}.{k}" for step, k in self.deviations)
        if self.dropped:
            text += "-" + ",".join(
                f"{body}" if operation < 0 else f"{body}.{operation}"
                for body, operation in self.dropped
            )
        return text

    @property
    def key(self) -> tuple[object, ...]:
        """Sorts schedules from simple to complicated (shortlex)."""
        return len(self.deviations), self.deviations

    @classmethod
    def parse(cls, text: Schedule | str) -> Schedule:
        """
        The schedule that *text* describes.

        Raises:
            BadArgument: it is no schedule, or one of another version.
        """
        if isinstance(text, Schedule):
            return text
        if not isinstance(text, str):
            raise BadArgumentType(f"schedule: expected a text such as 'v1:3.0,21.1', got {text!r}")
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            version = text.strip().partition(":")[0]
            hint = (
                f"; its version is {version!r}, this release reads {VERSION!r}"
                if re.fullmatch(r"v\d+", version) and version != VERSION
                else ""
            )
            raise BadArgument(f"schedule: {text!r} is no schedule such as 'v1:3.0,21.1'{hint}")
        deviations = tuple(
            (int(step), int(k))
            for step, _, k in (each.partition(".") for each in match[1].split(",") if each)
        )
        if any(a[0] >= b[0] for a, b in pairwise(deviations)):
            raise BadArgument(f"schedule: the steps of {text!r} do not rise")
        dropped = tuple(
            Dropped(int(body), int(operation) if operation else -1)
            for body, _, operation in (
                each.partition(".") for each in (match[2] or "").split(",") if each
            )
        )
        return cls(deviations, dropped)
