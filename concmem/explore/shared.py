"""Plain data that the harness should watch."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from concmem.explore.crew import current_crew
from concmem.explore.watch import all_fields, watch

C = TypeVar("C", bound=type)


def shared(cls: C) -> C:
    """
    Class decorator: objects made by a program are watched under control.

    Every field that the object has at the end of ``__init__`` is, those named in ``__guarded_by__`` with their
    guard. Anywhere else the class is what it was.
    """
    init: Any = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def watching_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is cls:
            crew = current_crew.get()
            if crew is not None:
                watch(crew, self, all_fields(self))

    cls.__init__ = watching_init  # type: ignore[misc]
    return cls
