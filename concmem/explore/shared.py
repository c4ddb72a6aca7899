"""Plain data that the harness should watch."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from concmem.explore.runner import current_runtime
from concmem.explore.watch import all_fields, watch

C = TypeVar("C", bound=type)


def shared(cls: C) -> C:
    """
    Class decorator: objects made while a program is built are watched under control.

    Every field that the object has at the end of ``__init__`` is, those named in ``__guarded_by__`` with their
    guard. Anywhere else the class is what it was.
    """
    init: Any = cls.__init__  # type: ignore[misc]

    @functools.wraps(init)
    def watching_init(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is cls:
            rt = current_runtime.get()
            if rt is not None:
                watch(rt.crew, self, all_fields(self))

    cls.__init__ = watching_init  # type: ignore[misc]
    return cls
