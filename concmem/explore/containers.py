"""
Dictionaries and lists that say so when they are changed: what watched fields with lockless lookups refer to.

Only their changes are accesses. Who looks something up does so in one step, and needs nothing to be told apart from
what comes right before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

Changed = Callable[[], None]
"""Called before each change."""


class WatchedList(list[Any]):
    """A list."""

    __slots__ = ("changed",)

    changed: Changed


class WatchedDict(dict[Any, Any]):
    """A dictionary. Lists that are put into it are watched, too."""

    __slots__ = ("changed",)

    changed: Changed

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changed()
        super().__setitem__(key, watched_container(value, self.changed))

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        self.update(other)
        return self


_CHANGES: Final = {
    WatchedList: "__setitem__ __delitem__ __iadd__ append extend insert pop remove clear sort reverse",
    WatchedDict: "__delitem__ pop popitem clear",
}


def _announcing(method: Any) -> Any:
    @wraps(method)
    def change(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.changed()
        return method(self, *args, **kwargs)

    return change


for _cls, _names in _CHANGES.items():
    for _name in _names.split():
        setattr(_cls, _name, _announcing(getattr(_cls, _name)))


def watched_container(value: Any, changed: Changed) -> Any:
    """*value*, or what takes its place if it is a plain list or dictionary."""
    made: Any
    if type(value) is list:
        made = WatchedList(value)
    elif type(value) is dict:
        made = WatchedDict({key: watched_container(each, changed) for key, each in value.items()})
    else:
        return value
    made.changed = changed
    return made
