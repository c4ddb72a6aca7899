"""Sections whose lock is not needed as long as another one is held: is it, each time?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from concmem.explore.crew import current_crew

from .dropping import Section, sections

BOOT = "boot"
"""Instead of a lock: nobody else runs yet."""


def holders(outer: str) -> Callable[[Section, Any], Any]:
    """What notices a section that is entered without *outer*, a lock's name."""

    def check(section: Section, lock: Any) -> Any:
        crew = current_crew.get()
        me = crew.execution.current if crew is not None else None
        if me is not None:
            names = [held.name for held in me.held if held.owner is me]  # not shared
            assert outer in names or _taken_by_the_same_statement(section, outer), (
                f"{section.name}: {outer} is not held, but {names}"
            )
        return lock

    return check


@cache
def _taken_by_the_same_statement(section: Section, outer: str) -> bool:
    """Whether the ``with`` of *section* takes *outer*, too: then what it protects is used under both."""
    return any(
        other.module == section.module
        and other.line == section.line
        and other.lock.startswith(f"self._{outer}")
        for other in sections()
        if other != section
    )
