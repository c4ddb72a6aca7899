"""
Documented bugs, planted one at a time: one module each.

    from concmem import explore
    from concmem.bugs import find_bug

    bug = find_bug("fastpath-ignores-tid")
    print(explore.check(bug.program, **bug.options))  # found
    print(explore.check(bug.correct, **bug.options))  # not there

A bug is a subclass of a production class that overrides one small method. Nothing below this package
knows of it.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from concmem.bugs.bug import Bug
from concmem.errors import BadArgument

__all__ = ["Bug", "all_bugs", "find_bug"]


@cache
def all_bugs() -> tuple[Bug, ...]:
    """The whole catalogue, by number."""
    found = []
    for module in pkgutil.iter_modules(__path__):
        bug = getattr(import_module(f"{__name__}.{module.name}"), "BUG", None)
        if isinstance(bug, Bug):
            found.append(bug)
    return tuple(sorted(found, key=lambda bug: (bug.number[0], int(bug.number[1:]), bug.name)))


def find_bug(name: str) -> Bug:
    """
    The bug of that name or number.

    Raises:
        BadArgument: there is none.
    """
    for bug in all_bugs():
        if name.lower() in (bug.name, bug.number.lower()):
            return bug
    raise BadArgument(f"bug: there is no {name!r}; concmem bugs lists them")
