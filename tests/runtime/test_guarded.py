"""Watched objects report every access of their guarded fields, and behave as before otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from concmem.runtime.api import THIS_CPU
from concmem.runtime.guarded import guards_of, watched_class

Access = tuple[object, str, bool]


class Lock:
    """Something to be a guard."""


class Slotted:
    """A class with slots."""

    __slots__ = ("inner", "lock", "nr", "other")
    __guarded_by__: ClassVar = {"nr": "lock"}

    def __init__(self) -> None:
        self.lock = Lock()
        self.nr = 1
        self.other = 2


class Derived(Slotted):
    """A class with a dict, whose guards add to those of its base."""

    __guarded_by__: ClassVar = {"mine": THIS_CPU, "deep": "inner.lock"}

    def __init__(self) -> None:
        super().__init__()
        self.inner = Slotted()
        self.mine = self.deep = 0


@dataclass
class WithDefault:
    """A class whose fields have defaults, which are attributes of the class."""

    lock: Lock
    nr_free: int = 7
    __guarded_by__: ClassVar = {"nr_free": "lock"}


def watch(obj: Any) -> list[Access]:
    """Watch *obj*; the list that accesses go to."""
    seen: list[Access] = []
    obj.__class__ = watched_class(
        type(obj), lambda guard, field, is_write: seen.append((guard, field, is_write))
    )
    return seen


def test_guards_of_bases_are_included() -> None:
    """A subclass has the guards of its bases too, and may change them."""
    assert guards_of(Derived) == {"nr": "lock", "mine": THIS_CPU, "deep": "inner.lock"}

    class Other(Derived):
        __guarded_by__: ClassVar = {"nr": THIS_CPU}

    assert guards_of(Other)["nr"] == THIS_CPU
    assert guards_of(Lock) == {}


def test_accesses_are_reported_before_they_happen() -> None:
    """A read-modify-write is two reports: a read and a write, with the guard and the field."""
    obj = Slotted()
    seen = watch(obj)
    obj.nr += 1
    assert seen == [(obj.lock, "nr", False), (obj.lock, "nr", True)]
    assert obj.nr == 2
    assert obj.other == 2
    assert len(seen) == 3


def test_guards_by_path_and_by_cpu() -> None:
    """A guard may be an attribute of an attribute; THIS_CPU is reported as None."""
    obj = Derived()
    seen = watch(obj)
    obj.mine = obj.deep
    assert seen == [(obj.inner.lock, "deep", False), (None, "mine", True)]


def test_fields_with_defaults() -> None:
    """A field that was never set has the default of its class, watched or not."""
    obj = WithDefault(Lock())
    del obj.nr_free
    seen = watch(obj)
    assert obj.nr_free == 7
    obj.nr_free -= 1
    assert obj.nr_free == 6
    assert [is_write for _, _, is_write in seen] == [False, False, True, False]


def test_missing_field() -> None:
    """A field that was never set, and has no default, is missing as before."""
    obj = Derived()
    del obj.mine
    watch(obj)
    with pytest.raises(AttributeError, match="Derived has no 'mine'"):
        _ = obj.mine
    assert not hasattr(obj, "mine")


def test_watched_class_looks_like_the_class() -> None:
    """The subclass has the name, the module and the layout of the class."""
    obj = Slotted()
    watch(obj)
    assert isinstance(obj, Slotted)
    assert type(obj) is not Slotted
    assert (type(obj).__qualname__, type(obj).__module__) == ("Slotted", __name__)
    assert not hasattr(obj, "__dict__")
