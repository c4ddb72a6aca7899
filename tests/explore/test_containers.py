"""Fields with lockless lookups: only their changes are accesses, those of what they refer to included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from concmem import explore
from concmem.explore import ControlledRuntime, Program
from concmem.explore.containers import watched_container
from concmem.runtime.api import lockless_lookups


class Tables:
    """Lists in a dictionary, a list, a number, and a number whose lock comes and goes."""

    __guarded_by__: ClassVar = {
        **dict.fromkeys(("tables", "entries", "nr"), lockless_lookups("lock")),
        "users": lockless_lookups("owner.lock"),
    }

    def __init__(self, rt: ControlledRuntime) -> None:
        self.lock = rt.spinlock("lock")
        self.tables: dict[int, list[int]] = {0: [0, 0]}
        self.entries = [0, 0]
        self.nr = 0
        self.owner: Tables | None = None
        self.users = 0
        rt.watch(self)


def grow(t: Tables) -> None:
    t.tables[1] = [1]


def change(t: Tables) -> None:
    t.tables[0][1] = 1


def change_new(t: Tables) -> None:
    t.tables.setdefault(2, []).append(1)


def drop(t: Tables) -> None:
    t.tables.pop(3, None)


def set_entry(t: Tables) -> None:
    t.entries[0] = 1


def count(t: Tables) -> None:
    t.nr += 1


def use(t: Tables) -> None:
    t.users += 1


CHANGES = (grow, change, change_new, drop, set_entry, count, use)


def outcome(change: Callable[[Tables], None], *, locked: bool) -> explore.Outcome:
    """Of three CPUs: one changes something with the lock, one with or without, one only looks."""

    def program(rt: ControlledRuntime) -> Program:
        t = Tables(rt)
        t.owner = t

        def right() -> None:
            with t.lock:
                change(t)

        def reader() -> None:
            found: Any = t.tables.get(0), t.tables[0][1], t.entries[0], t.nr, t.users, len(t.tables)
            assert found

        return Program([right, right if locked else lambda: change(t), reader])

    return explore.check(program, "random", 30, shrink=False)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_the_lock_is_a_race(change: Callable[[Tables], None]) -> None:
    """Whatever is changed."""
    failure = outcome(change, locked=False).failure
    assert failure is not None
    assert failure.kind == "data-race"


@pytest.mark.parametrize("change", CHANGES)
def test_who_looks_needs_no_lock(change: Callable[[Tables], None]) -> None:
    """Neither for the field, nor for what is in it."""
    assert outcome(change, locked=True).failure is None


def test_nobody_has_the_lock_that_is_not_there() -> None:
    """While the path to the guard ends in ``None``, no access is guarded."""

    def program(rt: ControlledRuntime) -> Program:
        t = Tables(rt)

        def body() -> None:
            with t.lock:
                use(t)

        return Program([body, lambda: use(t)])

    failure = explore.check(program, "random", 30, shrink=False).failure
    assert failure is not None
    assert failure.kind == "data-race"


def test_containers_are_what_they_were() -> None:
    """They do what lists and dictionaries do, and announce every change once."""
    changes: list[int] = []
    made = watched_container({1: [1, 2]}, lambda: changes.append(1))
    assert made == {1: [1, 2]}
    made[2] = [3]
    made[2] += [4]
    made[1].sort(reverse=True)
    del made[1][0]
    made.update({3: 0})
    assert made.setdefault(3, 1) == 0
    assert made.pop(3) == 0
    assert made == {1: [1], 2: [3, 4]}
    assert len(changes) == 7  # += is a change of the list, and of the dictionary
    assert (type(made.copy()), type(made[2][:])) == (dict, list)
    made |= {4: []}
    made.setdefault(5, []).append(made[4].append(1))
    assert len(changes) == 11
    assert watched_container((1,), changes.clear) == (1,)


def test_who_wakes_has_the_lock() -> None:
    """A wake-up without the queue's lock may be lost, so it is an error at once."""

    def program(rt: ControlledRuntime) -> Program:
        queue = rt.waitqueue(rt.spinlock("lock"), "queue")
        return Program([queue.wake_up])

    failure = explore.check(program, "random", 1, shrink=False).failure
    assert failure is not None
    assert "wakes without holding lock" in str(failure)
