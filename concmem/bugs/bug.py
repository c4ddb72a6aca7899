"""What is known about one documented bug, and how to plant it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

from concmem.errors import BadArgument
from concmem.explore import ControlledRuntime, Program

Classes: TypeAlias = Mapping[type, type]
"""Replacements, as ``Machine(classes=...)`` takes them: ``{KmemCache: Buggy}``; empty: the correct model."""

Workload: TypeAlias = Callable[[ControlledRuntime, Classes], Program]
"""The program that can show a bug: the same one for the buggy and for the correct model."""

KINDS: Final = (
    "aba",
    "accounting",
    "data race",
    "deadlock",
    "double free",
    "leak",
    "list corruption",
    "livelock",
    "lock order",
    "lost update",
    "lost wake-up",
    "stale read",
    "use after free",
)


@dataclass(frozen=True)
class Bug:
    """
    One documented bug.

    The docstring of its module says how it comes about: the interleaving in columns, the symptom, the fix.
    """

    name: str
    """As on the command line, such as ``fastpath-ignores-tid``."""
    number: str
    """Of the entry in the catalogue (docs/reference/bugs.md), such as ``B01``."""
    title: str
    """In one line, what is wrong."""
    fixed_by: str
    """The commit of the fix and its subject, as cited in the catalogue."""
    subsystem: str
    """``slub``, ``slab_common``, ``page_alloc``, ``mempool``, ``vmalloc``, ``kmemleak``, ``mmap``, ``malloc``..."""
    kind: str
    """One of `KINDS`."""
    depth: int
    """Bug depth: how many ordering constraints between steps of different CPUs it takes."""
    cpus: int
    """CPUs of the workload."""
    replaces: Classes
    """Production classes, and the subclasses that have the bug."""
    expect: frozenset[str]
    """Kinds of failure, or names of error classes, of which one is what the harness reports."""
    workload: Workload
    witness: str
    """A minimal schedule under which it fails."""
    executions: Mapping[str, int]
    """
    By scheduler, within how many executions it is found; the odds are in a comment beside it. The first
    is the scheduler that hunts for it unless told otherwise.
    """
    options: Mapping[str, Any] = field(default_factory=dict)
    """What else :func:`concmem.explore.check` is to be told, such as ``early_timeouts``."""
    note: str = ""
    """What the model cannot show of it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadArgument(f"kind: unknown {self.kind!r}, there are {', '.join(KINDS)}")
        if not self.executions:
            raise BadArgument(f"executions: {self.name} must be found by some scheduler")

    @property
    def scheduler(self) -> str:
        """Who hunts for it, unless told otherwise."""
        return next(iter(self.executions))

    @property
    def program(self) -> Callable[[ControlledRuntime], Program]:
        """The workload on the model with the bug, for :func:`concmem.explore.check`."""
        return partial(self.workload, classes=self.replaces)  # type: ignore[call-arg]

    @property
    def correct(self) -> Callable[[ControlledRuntime], Program]:
        """The workload on the model as it is."""
        return partial(self.workload, classes={})  # type: ignore[call-arg]

    def is_shown_by(self, kind: str, error: BaseException) -> bool:
        """Whether a failure of that *kind*, with that *error*, is what the bug leads to."""
        names = {kind} | {cls.__name__ for cls in type(error).__mro__}
        return not names.isdisjoint(self.expect)
