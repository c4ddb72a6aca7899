"""Drawn schedules and programs: they shrink, they fail where something is wrong, and only there."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import Phase, example, find, given, reproduce_failure, settings
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.errors import DidNotReproduce

from concmem import explore
from concmem.errors import BadArgument
from concmem.mm.mempool import Mempool
from concmem.testing import (
    AllocatorProgram,
    Call,
    Preemption,
    check_schedule,
    preemptions,
    programs,
    schedules,
)

QUIET = settings(database=None, derandomize=True, deadline=None)


def counter(rt: explore.ControlledRuntime) -> explore.Program:
    """The update of one is lost if the other comes in between."""
    x = rt.cell(0, "x")

    def body() -> None:
        x.value = x.value + 1

    def after() -> None:
        assert x.value == 2

    return explore.Program([body, body], after)


# -- schedules


@given(schedules(most=4, steps=50, choices=3))
@settings(QUIET)
def test_schedules_are_schedules(schedule: explore.Schedule) -> None:
    """What is drawn is valid, and the same as text."""
    assert explore.Schedule.parse(str(schedule)) == schedule
    assert len(schedule.deviations) <= 4
    assert all(step < 50 and k < 3 for step, k in schedule.deviations)


def test_schedules_shrink_to_the_empty_one() -> None:
    """The simplest schedule preempts nobody; one that must preempt does so once, and early."""
    assert find(schedules(), lambda _: True, settings=QUIET) == explore.Schedule()
    late = find(schedules(), lambda s: any(step > 6 for step, _ in s.deviations), settings=QUIET)
    assert late == explore.Schedule(((7, 0),))


def test_a_drawn_schedule_finds_a_race() -> None:
    """The lost update is found, its schedule is minimal, and replays."""

    def fails(schedule: explore.Schedule) -> bool:
        try:
            check_schedule(counter, schedule)
        except AssertionError:
            return True
        return False

    schedule = find(schedules(steps=6), fails, settings=QUIET)
    assert schedule == explore.Schedule(((1, 0),))
    assert explore.replay(counter, schedule).failure is not None


def test_a_schedule_need_not_fit() -> None:
    """Deviations where there is no choice, or behind the end, do nothing."""
    check_schedule(counter, "v1:0.9,3.1,700.0")
    with pytest.raises(AssertionError) as caught:
        check_schedule(counter, "v1:1.0,700.0")
    (note,) = caught.value.__notes__[-1:]
    assert 'explore.replay(program, "v1:1.0")' in note
    assert "cpu0 is preempted" in note


# -- preemptions


@given(preemptions(most=2, points=9))
@settings(QUIET)
def test_preemptions(drawn: list[Preemption]) -> None:
    """They are few, in order, and at different points."""
    assert len(drawn) <= 2
    assert all(a.after < b.after for a, b in itertools.pairwise(drawn))
    assert all(0 <= each.after < 9 for each in drawn)


def test_preemptions_shrink_to_none() -> None:
    """The simplest operation is not preempted."""
    assert find(preemptions(), lambda _: True, settings=QUIET) == []


# -- programs


@given(programs())
@settings(QUIET, max_examples=15)
@example(AllocatorProgram([]))
@example(AllocatorProgram([Call(0, "free")]))
def test_the_allocators_are_right(program: AllocatorProgram) -> None:
    """The oracle has nothing against the allocators as they are."""
    program.check()


@pytest.mark.parametrize("name", ["kmalloc", "cache_alloc", "alloc_pages", "vmalloc"])
def test_every_call_runs(name: str) -> None:
    """Each allocation, freed by another CPU, which is preempted, and waits for it."""
    arguments = {"kmalloc": {"size": 100}, "alloc_pages": {"order": 1}, "vmalloc": {"pages": 2}}
    given = {**arguments.get(name, {}), "gfp": 0xCC0}
    calls = [
        Call(1, name, given, [Preemption(2)]),
        Call(0, name, given, [Preemption(0), Preemption(3)]),
        Call(0, "free", last=1),
    ]
    program = AllocatorProgram(calls)
    program.check()
    assert len(program.recording.operations) == 3
    assert explore.check(program, "random", executions=5).failure is None


def test_a_wrong_allocator_is_found_without_a_race() -> None:
    """The oracle notices what is wrong on one CPU already."""

    class Careless(Mempool):
        """Hands the element that it has in reserve out, and keeps it."""

        def _from_reserve(self, _gfp: int) -> Any:
            return self.elements[-1]

    def overlaps(program: AllocatorProgram) -> bool:
        failure = program.run()
        return failure is not None and "is part of mempool_alloc" in str(failure.error)

    strategy = programs(["mempool_alloc"], classes={Mempool: Careless})
    program = find(strategy, overlaps, settings=QUIET)
    assert len(program.calls) == 2
    assert not any(call.preempt for call in program.calls)
    assert {call.cpu for call in program.calls} == {0}


def test_the_printed_program_is_the_program() -> None:
    """repr gives what an @example needs."""
    program = AllocatorProgram(
        [Call(0, "kmalloc", {"size": 8, "gfp": 0xCC0}, [Preemption(1)]), Call(1, "free")],
        memory="32M",
    )
    again = eval(repr(program))
    assert repr(again) == repr(program)
    assert (again.calls, again.machine) == (program.calls, {"memory": "32M"})


def racing() -> Any:
    """A test of Hypothesis that fails under some drawn schedules; the schedules it was given."""
    seen: list[explore.Schedule] = []

    @given(schedules(steps=6))
    def test(schedule: explore.Schedule) -> None:
        seen.append(schedule)
        check_schedule(counter, schedule)

    return test, seen


def test_the_database_keeps_the_schedule() -> None:
    """What failed once is tried first the next time."""
    database = InMemoryExampleDatabase()
    kept = settings(database=database, derandomize=False, deadline=None, max_examples=500)
    test, seen = racing()
    with pytest.raises(AssertionError):
        kept(test)()
    test, seen = racing()
    with pytest.raises(AssertionError):
        settings(kept, phases=[Phase.reuse])(test)()
    assert seen[0] == explore.Schedule(((1, 0),))


def test_reproduce_failure() -> None:
    """The blob that Hypothesis prints shows the same failure."""
    test, _ = racing()
    with pytest.raises(AssertionError) as caught:
        settings(QUIET, print_blob=True, max_examples=500)(test)()
    (line,) = [note for note in caught.value.__notes__ if "reproduce_failure(" in note]
    blob = line.partition("@reproduce_failure(")[2].partition(")")[0]
    version, data = eval(blob)
    test, seen = racing()
    with pytest.raises(AssertionError):
        settings(QUIET)(reproduce_failure(version, data)(test))()
    assert seen == [explore.Schedule(((1, 0),))] * len(seen)
    with pytest.raises(DidNotReproduce):
        settings(QUIET)(reproduce_failure(version, data)(given(schedules(steps=6))(_pass)))()


def _pass(schedule: explore.Schedule) -> None:
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules(most=0),
        lambda: preemptions(points=0),
        lambda: programs(cpus=0),
        lambda: programs(["magic"]),
        lambda: programs([]),
    ],
)
def test_bad_arguments(make: Any) -> None:
    """Numbers are positive, and operations are there."""
    with pytest.raises(BadArgument):
        make()
