"""The models that come with the package."""

from __future__ import annotations

from typing import Any

import pytest

from concmem.errors import BadArgument, DoubleFree
from concmem.explore import models
from concmem.explore.calls import PENDING, Call, Raised
from concmem.explore.history import linearizable


def sequence(*steps: tuple[Any, ...]) -> list[Call]:
    """Calls one after the other: (op, args..., result)."""
    return [
        Call(0, op, tuple(args), result, 2 * number, 2 * number + 1)
        for number, (op, *args, result) in enumerate(steps)
    ]


RIGHT: list[tuple[Any, list[tuple[Any, ...]]]] = [
    (models.Register, [("read", None), ("write", 5, None), ("read", 5), ("cas", 5, 6, True)]),
    (models.Register, [("cas", 1, 2, False), ("read", None)]),
    (lambda: models.Register(7), [("cas", 7, 8, True), ("cas", 7, 9, False), ("read", 8)]),
    (models.Counter, [("read", 0), ("add", None), ("add_return", 4, 5), ("read", 5)]),
    (models.Queue, [("get", None), ("put", 1, None), ("put", 2, None), ("get", 1), ("get", 2)]),
    (lambda: models.Queue(4), [("get", 4), ("get", None)]),
    (models.Stack, [("pop", None), ("push", 1, None), ("push", 2, None), ("pop", 2), ("pop", 1)]),
    (
        models.Set,
        [("add", 1, True), ("add", 1, False), ("contains", 1, True), ("remove", 2, False)],
    ),
    (models.Set, [("add", 1, True), ("remove", 1, True), ("contains", 1, False)]),
]


@pytest.mark.parametrize(("model", "steps"), RIGHT)
def test_a_sequence_and_its_results(model: Any, steps: list[tuple[Any, ...]]) -> None:
    """It is accepted; and with any one result changed, it is not."""
    assert linearizable(sequence(*steps), model)
    for number, step in enumerate(steps):
        wrong = not step[-1] if isinstance(step[-1], bool) else "wrong"
        changed = [*steps[:number], (*step[:-1], wrong), *steps[number + 1 :]]
        assert not linearizable(sequence(*changed), model)


def test_other_names() -> None:
    """A subclass gives methods the names that one's own class has."""

    class Fifo(models.Queue):
        enqueue, dequeue = models.Queue.put, models.Queue.get

    assert linearizable(sequence(("enqueue", 1, None), ("dequeue", 1)), Fifo)


ALLOCATED: list[tuple[bool, Any, list[tuple[Any, ...]]]] = [
    (True, models.Allocator, [("kmalloc", 64, 0x1000), ("kmalloc", 64, 0x1040)]),
    (False, models.Allocator, [("kmalloc", 64, 0x1000), ("kmalloc", 64, 0x103F)]),
    (False, models.Allocator, [("kmalloc", 64, 0x1040), ("kmalloc", 65, 0x1000)]),
    (True, models.Allocator, [("alloc", 0x10), ("free", 0x10, None), ("alloc", 0x10)]),
    (False, models.Allocator, [("alloc", 0x10), ("free", 0x10, None), ("free", 0x10, None)]),
    (False, models.Allocator, [("kmalloc", 64, 0x1000), ("kfree", 0x1001, None)]),
    (True, models.Allocator, [("alloc", None), ("free", None, None)]),
    (True, models.Allocator, [("alloc", Raised(MemoryError)), ("alloc", 1)]),
    (True, models.Allocator, [("free", 0x10, Raised(DoubleFree))]),
    (False, models.Allocator, [("alloc", 0x10), ("free", 0x10, Raised(DoubleFree))]),
    (False, lambda: models.Allocator(16), [("alloc", 0x10), ("alloc", 0x18)]),
    (True, lambda: models.Allocator(alloc={"take"}), [("take", 1), ("free", 1, None)]),
]


@pytest.mark.parametrize(("right", "model", "steps"), ALLOCATED)
def test_the_allocator(right: bool, model: Any, steps: list[tuple[Any, ...]]) -> None:
    """Addresses handed out are disjoint until freed; whichever they are."""
    assert bool(linearizable(sequence(*steps), model)) == right


def test_the_allocator_with_concurrent_calls() -> None:
    """An address may come back before the call that freed it has; not before that has begun."""
    alloc = Call(0, "alloc", (), 8, 0, 1)
    free = Call(0, "free", (8,), None, 2, 5)
    again = Call(1, "alloc", (), 8, 3, 4)
    assert linearizable([alloc, free, again], models.Allocator)
    assert not linearizable([alloc, free._replace(start=5, end=6), again], models.Allocator)
    assert linearizable([alloc, free._replace(result=PENDING, end=None), again], models.Allocator)


def test_the_allocator_refuses_what_it_does_not_know() -> None:
    """A name that neither allocates nor frees."""
    with pytest.raises(BadArgument, match=r"^op: .*alloc, free, kfree.*; got 'realloc'"):
        linearizable(sequence(("realloc", 1, 2)), models.Allocator)
