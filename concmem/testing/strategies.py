"""Hypothesis strategies: schedules, preemptions, and programs of allocator calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from hypothesis import strategies as st

from concmem.errors import BadArgument
from concmem.explore import Schedule
from concmem.mm import gfp
from concmem.testing.allocators import CALLS, AllocatorProgram, Call
from concmem.testing.recording import Preemption

SIZES = (8, 64, 96, 192, 1024, 4096, 9000)
"""Of kmalloc: caches of powers of two and of others, and one that has none."""

FEW = 8
"""Points of an operation that takes a fast path."""

IN_BETWEEN = 3
"""Operations that come in between when one is preempted, at most."""

FLAGS = (gfp.GFP_KERNEL, gfp.GFP_ATOMIC, gfp.GFP_KERNEL | gfp.ZERO)


def schedules(most: int = 3, steps: int = 100, choices: int = 2) -> st.SearchStrategy[Schedule]:
    """
    Schedules, for `check_schedule`. They shrink to the empty one, in which nobody is preempted.

    Args:
        most: deviations that a schedule has at most.
        steps: they are among the first so many steps of an execution.
        choices: how many others there are to go on: other CPUs, and interrupts.
    """
    _check(most=most, steps=steps, choices=choices)
    deviation = st.tuples(st.integers(0, steps - 1), st.integers(0, choices - 1))
    several = st.lists(deviation, max_size=most, unique_by=lambda each: each[0])
    return several.map(lambda deviations: Schedule(tuple(sorted(deviations))))


def preemptions(
    most: int = 2, points: int = 25, choices: int = 2
) -> st.SearchStrategy[list[Preemption]]:
    """
    The preemptions of one operation: a list that shrinks to the empty one.

    Args:
        most: how many it has at most.
        points: they are among the first so many points of the operation.
        choices: how many others there are to go on.
    """
    return _preemptions(0, most, points, choices)


def _preemptions(
    least: int, most: int, points: int, choices: int
) -> st.SearchStrategy[list[Preemption]]:
    _check(points=points, choices=choices)
    if most == 0:
        return st.just([])
    # Fast paths have few points, so one of the first is as likely as one of all.
    after = st.integers(0, min(FEW, points) - 1) | st.integers(0, points - 1)
    one = st.builds(
        Preemption,
        after=after,
        operations=st.integers(1, IN_BETWEEN),
        to=st.integers(0, choices - 1),
    )
    unique: Any = lambda each: each.after  # noqa: E731
    return st.lists(one, min_size=least, max_size=most, unique_by=unique).map(sorted)


@cache  # state machines ask for it at each operation that is drawn
def placed(
    cpus: int, most: int, points: int, choices: int
) -> st.SearchStrategy[tuple[int, list[Preemption]]]:
    """
    The CPU of an operation and its preemptions, of which there are at most *most*.

    An operation without preemptions is a single choice of Hypothesis's, which leaves out at most five choices in
    one go when it shrinks: as two, most operations would be too long to be left out.
    """
    several = [_preemptions(count, count, points, choices) for count in range(most + 1)]

    def with_preemptions(number: int) -> st.SearchStrategy[tuple[int, list[Preemption]]]:
        # One less is one preemption less: Hypothesis leaves out what a number counts along with lowering it.
        cpu, count = divmod(number, most + 1)
        return st.tuples(st.just(cpu), several[count])

    return st.integers(0, cpus * (most + 1) - 1).flatmap(with_preemptions)


def _call(
    place: tuple[int, list[Preemption]], name: str, arguments: dict[str, Any], last: int = 0
) -> Call:
    cpu, preempt = place
    return Call(cpu, name, arguments, preempt, last)


def programs(
    operations: Sequence[str] = tuple(CALLS),
    *,
    cpus: int = 2,
    most: int = 10,
    sizes: Sequence[int] = SIZES,
    flags: Sequence[int] = FLAGS,
    points: int = 25,
    **machine: Any,
) -> st.SearchStrategy[AllocatorProgram]:
    """
    Programs of allocator calls on a machine of their own: ``program.check()`` runs one.

    Args:
        operations: names of allocations, of `CALLS`; what frees comes with them.
        cpus: how many CPUs; shrinking uses as few as it can.
        most: calls that a program has at most.
        sizes: bytes, for kmalloc.
        flags: GFP flags of allocations.
        points: a call is preempted at one of its first so many points.
        machine: more arguments of `concmem.Machine`, such as ``classes={KmemCache: Mine}``.
    """
    _check(cpus=cpus, most=most, points=points)
    unknown = set(operations) - set(CALLS)
    if unknown or not operations:
        raise BadArgument(f"operations: unknown {sorted(unknown)}, there are {sorted(CALLS)}")
    arguments: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "kmalloc": {"size": st.sampled_from(sizes)},
        "alloc_pages": {"order": st.integers(0, 3)},
        "vmalloc": {"pages": st.integers(1, 4)},
    }
    place = placed(cpus, 1, points, max(1, cpus - 1))
    allocations = [
        st.builds(
            _call,
            name=st.just(name),
            arguments=st.fixed_dictionaries(
                {**arguments.get(name, {}), "gfp": st.sampled_from(flags)}
            ),
            place=place,
        )
        for name in operations
    ]
    # Counted backwards, so that it stays the same when earlier calls are left out.
    free = st.builds(
        _call, name=st.just("free"), arguments=st.just({}), last=st.integers(0, 3), place=place
    )
    calls = st.lists(st.one_of(st.one_of(allocations), free), max_size=most)
    return calls.map(lambda calls: AllocatorProgram(calls, cpus=cpus, **machine))


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise BadArgument(f"{name}: must be at least 1, got {value}")
