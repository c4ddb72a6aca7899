"""
Watched objects under control: an access of a field without its guard is a point, and every access is noted.

A list, dict or the like counts as written whenever the field is read: what is done to it cannot be seen. With
lockless lookups only changes count, and they are seen: see `containers`.

`guarded.watched_class` does the same for jitter. Here the class is made once for each crew, not for each
execution, and finds the running execution through the crew; the object of an operation is the field.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from concmem.explore import operation as op
from concmem.explore.containers import watched_container
from concmem.runtime.api import THIS_CPU, are_reads_seen, split_guard
from concmem.runtime.guarded import guard_finder, guards_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from concmem.explore.crew import Crew
    from concmem.explore.task import Task

T = TypeVar("T")

_NOTHING: Any = object()


_PLAIN: Final = {
    (False, False): op.LOAD,
    (False, True): op.GUARDED_LOAD,
    (True, False): op.STORE,
    (True, True): op.GUARDED_STORE,
}
"""How an access is noted, by: is it a write, is the guard held."""

_MARKED: Final = {**_PLAIN, (False, False): op.READ, (True, True): op.WRITE}
"""The same for fields that may be read without their guard."""


_CHANGES: Final = ("append", "add", "insert", "popitem", "add_tail")
"""Methods that tell a container that can be changed."""


class Field:
    """One field of one watched object, as the object of an operation."""

    __slots__ = ("changeable", "field", "guard", "lockless", "obj", "read")

    def __init__(self, obj: Any, field: str, guard: str, read: Callable[[Any], Any]) -> None:
        self.obj = obj
        self.field = field
        self.guard = guard
        """What is to protect it; empty: nothing was declared."""
        self.read = read
        lock, lockless = split_guard(guard)
        self.lockless = lockless
        """Whether readers may do without the guard: all accesses but unguarded stores are marked."""
        self.changeable = (
            not lockless
            and lock != THIS_CPU
            and any(hasattr(self.now, method) for method in _CHANGES)
        )
        """Whether who reads the field may change what it refers to, and so counts as who writes it."""

    @property
    def name(self) -> str:
        return f"{type(self.obj).__name__}.{self.field}"

    @property
    def now(self) -> Any:
        try:
            return self.read(self.obj)
        except AttributeError:
            return None


def watch(crew: Crew, obj: T, fields: dict[str, str] | None = None) -> T:
    """Watch *obj*: its guarded fields, or *fields* (with guards, which may be empty)."""
    cls = type(obj)
    if getattr(cls, "__watched_by__", None) is crew:
        return obj
    key = (cls, tuple(fields) if fields is not None else None)
    watched = crew.watched.get(key)
    if watched is None:
        guards = guards_of(cls) if fields is None else fields
        watched = crew.watched[key] = _watched_class(crew, cls, guards)
    obj.__class__ = watched
    for field in getattr(watched, "__looked_up__", ()):
        # Again, through the property: so that what it refers to is watched.
        value = getattr(obj, field, None)
        if type(value) in (list, dict):
            setattr(obj, field, value)
    return obj


def all_fields(obj: object) -> dict[str, str]:
    """Every attribute that *obj* has now, with its guard if it has one."""
    guards = guards_of(type(obj))
    names = list(getattr(obj, "__dict__", ()))
    for base in type(obj).__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return {
        name: guards.get(name, "")
        for name in names
        if not name.startswith("__") and not hasattr(getattr(obj, name, None), "locked")
    }


def _watched_class(crew: Crew, cls: type, guards: dict[str, str]) -> type:
    members: dict[str, Any] = {
        field: _watched_field(crew, cls, field, guard) for field, guard in guards.items()
    }
    members["__slots__"] = ()
    members["__module__"] = cls.__module__
    members["__qualname__"] = cls.__qualname__
    members["__watched_by__"] = crew
    members["__looked_up__"] = [
        field for field, guard in guards.items() if not are_reads_seen(guard)
    ]
    return type(cls.__name__, (cls,), members)


def _no_guard(_me: Task, _obj: Any, _is_write: bool) -> bool:
    return False


def _this_cpu(me: Task, _obj: Any, _is_write: bool) -> bool:
    return not me.cpu.irqs_enabled  # nothing else of this CPU, and others have no business there


def _guard_test(guard: str) -> Callable[[Task, Any, bool], bool]:
    lock, _ = split_guard(guard)
    if not lock:
        return _no_guard
    if lock == THIS_CPU:
        return _this_cpu
    find = guard_finder(lock)

    def holds(me: Task, obj: Any, is_write: bool) -> bool:
        guard = find(obj)
        return guard is not None and (guard.owner is me or (not is_write and guard in me.held))

    return holds


def _watched_field(crew: Crew, cls: type, field: str, guard: str) -> property:
    # The slot descriptor, or what an attribute in __dict__ is by default, or nothing.
    slot = getattr(cls, field, _NOTHING)
    is_slot = hasattr(slot, "__set__")
    is_guarded = _guard_test(guard)
    kinds = _MARKED if split_guard(guard)[1] else _PLAIN
    reads_seen = are_reads_seen(guard)

    def plain_read(obj: Any) -> Any:
        if is_slot:
            return slot.__get__(obj)
        value = obj.__dict__.get(field, slot)
        if value is _NOTHING:
            raise AttributeError(f"{cls.__name__} has no {field!r}")
        return value

    def seen(me: Task, obj: Any, is_write: bool) -> None:
        ex = crew.execution
        key = (id(obj), field)
        operand = ex.fields.get(key)
        if operand is None:
            operand = ex.fields[key] = Field(obj, field, guard, plain_read)
        # Fields that may be read without the guard are marked accesses all, so that a semaphore that was
        # downgraded is enough to write them: nobody else who has it does.
        guarded = is_guarded(me, obj, is_write and kinds is _PLAIN)
        if operand.changeable and not is_write:
            # Who shares a semaphore only looks; anybody else may do what they want.
            is_write = not guarded or is_guarded(me, obj, True)
        kind = kinds[is_write, guarded]
        if kind in op.NOTES:
            ex.trace += (me, kind, operand)
        else:
            me.kind = kind
            me.object = operand
            ex.point(me)

    def changed(obj: Any) -> None:
        me = crew.execution.current
        if me is not None:
            seen(me, obj, True)

    def read(obj: Any) -> Any:
        me = crew.execution.current
        if me is not None and reads_seen:
            seen(me, obj, False)
        if is_slot:
            return slot.__get__(obj)
        value = obj.__dict__.get(field, slot)
        if value is _NOTHING:
            raise AttributeError(f"{cls.__name__} has no {field!r}")
        return value

    def write(obj: Any, value: Any) -> None:
        me = crew.execution.current
        if me is not None:
            seen(me, obj, True)
        if not reads_seen:
            value = watched_container(value, partial(changed, obj))
        if is_slot:
            slot.__set__(obj, value)
        else:
            obj.__dict__[field] = value

    return property(read, write)
