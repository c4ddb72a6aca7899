"""
Watched objects: every access of a guarded field is seen.

``__guarded_by__`` of a class names, for each shared field, the lock that protects it (a dotted path
from the object) or ``THIS_CPU``. It documents, and here it also works: :func:`watched_class` makes a
subclass in which those fields are properties that report the access first. An object is watched by
changing its ``__class__`` to that subclass, so unwatched objects pay nothing.

Why: a bug that drops a lock makes the code *shorter*. Without a point between the load and the
store of an unlocked ``nr_free += 1``, an interpreter almost never switches there, and the bug hides.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeVar

from concmem.errors import BadArgument
from concmem.runtime.api import THIS_CPU, are_reads_seen, split_guard

T = TypeVar("T")

_NOTHING: Any = object()

OnAccess = Callable[[Any, str, bool], None]
"""Called before each access with the guard (a lock, or None for THIS_CPU), the field, is-a-write."""


def guards_of(cls: type) -> dict[str, str]:
    """The guard of every guarded field, those of base classes included."""
    guards: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        guards.update(base.__dict__.get("__guarded_by__", {}))
    return guards


def check_guards(obj: object) -> None:
    """
    Check that every guard of *obj* leads to something that can be locked.

    Raises:
        BadArgument: ``__guarded_by__`` names something else; the message says which field.
    """
    for field, declared in guards_of(type(obj)).items():
        guard, _ = split_guard(declared)
        if guard == THIS_CPU:
            continue
        lock: Any = obj
        for name in guard.split("."):
            lock = getattr(lock, name, _NOTHING)
            if lock is None:
                break  # what has the lock comes and goes
        if lock is not None and not hasattr(lock, "locked"):
            raise BadArgument(
                f"{type(obj).__name__}.__guarded_by__: {field!r} is guarded by {guard!r}, "
                "which is no lock of the object"
            )


def guard_finder(path: str) -> Callable[[Any], Any]:
    """What finds the lock at *path* from an object; ``None`` while nothing there has one."""
    if "." not in path:
        return attrgetter(path)
    find = attrgetter(path)

    def find_if_any(obj: Any) -> Any:
        try:
            return find(obj)
        except AttributeError:
            return None

    return find_if_any


def watched_class(cls: type[T], on_access: OnAccess) -> type[T]:
    """
    A subclass of *cls* that reports accesses of its guarded fields to *on_access*.

    It has the same name and the same layout, so an object of *cls* can be changed into it.
    """
    members: dict[str, Any] = {
        field: _watched_field(cls, field, guard, on_access)
        for field, guard in guards_of(cls).items()
        if are_reads_seen(guard)
    }
    members["__slots__"] = ()
    members["__module__"] = cls.__module__
    members["__qualname__"] = cls.__qualname__
    members["__watched__"] = cls
    return type(cls.__name__, (cls,), members)


def _watched_field(cls: type, field: str, guard: str, on_access: OnAccess) -> property:
    # The slot descriptor, or what an attribute in __dict__ is by default, or nothing.
    slot = getattr(cls, field, _NOTHING)
    is_slot = hasattr(slot, "__set__")
    lock, _ = split_guard(guard)
    find_guard = None if lock == THIS_CPU else guard_finder(lock)

    def read(obj: Any) -> Any:
        on_access(find_guard and find_guard(obj), field, False)
        if is_slot:
            return slot.__get__(obj)
        value = obj.__dict__.get(field, slot)
        if value is _NOTHING:
            raise AttributeError(f"{cls.__name__} has no {field!r}")
        return value

    def write(obj: Any, value: Any) -> None:
        on_access(find_guard and find_guard(obj), field, True)
        if is_slot:
            slot.__set__(obj, value)
        else:
            obj.__dict__[field] = value

    return property(read, write)
