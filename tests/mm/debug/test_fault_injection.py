"""Allocations that fail although there is memory: which, how many, and that a seed repeats them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.debug.fault_attr import FaultAttr
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NOFAIL, NOWARN

from ..helpers import on_cpu
from .helpers import debug_cache

QUIET = GFP_ATOMIC | NOWARN
"""What may fail by default (`ignore_gfp_wait`), without a line in the log."""


def outcome(m: Machine, nr: int, alloc: Callable[[], object], cpu: int = 0) -> list[bool]:
    """Which of *nr* allocations fail."""
    return on_cpu(m, lambda: [alloc() is None for _ in range(nr)], cpu=cpu)


def slab(m: Machine, gfp: int = QUIET) -> Callable[[], object]:
    return lambda: m.kmalloc(64, gfp)


def pages(m: Machine, order: int = 1, gfp: int = QUIET) -> Callable[[], object]:
    return lambda: m.alloc_pages(order, gfp)


def both(value: bool | str = True) -> Machine:
    return Machine(cpus=2, memory="32M", failslab=value, fail_page_alloc=value)


def attrs(m: Machine) -> list[tuple[FaultAttr, Callable[[], object]]]:
    """Both, and what they are to fail."""
    return [(m.fail.failslab, slab(m)), (m.fail.fail_page_alloc, pages(m))]


def test_nothing_fails_until_it_is_set() -> None:
    """Booted with it, probability 0."""
    with both() as m:
        for attr, alloc in attrs(m):
            assert not any(outcome(m, 5, alloc))
            assert attr.injected == 0


def test_times() -> None:
    """So many fail and then none, on all CPUs together; -1 is for ever."""
    with both("1,100,0,3") as m:
        for attr, alloc in attrs(m):
            assert outcome(m, 2, alloc) == [True, True]
            assert outcome(m, 3, alloc, cpu=1) == [True, False, False]
            assert (attr.injected, attr.times) == (3, 0)
            attr.times = -1
            assert all(outcome(m, 20, alloc))
            assert m.events.sum()[f"{attr.name}_injected"] == attr.injected == 23


def test_interval() -> None:
    """Each third call."""
    with both("3,100,0,-1") as m:
        for _, alloc in attrs(m):
            assert outcome(m, 9, alloc) == [False, False, True] * 3


def test_space() -> None:
    """Bytes of objects, pages of blocks, that are given before anything fails."""
    with both() as m:
        m.fail.failslab.setup("1,100,200,-1")  # three objects of 64 bytes leave 8: less than one
        assert outcome(m, 6, slab(m)) == [False] * 3 + [True] * 3
        m.fail.fail_page_alloc.setup("1,100,5,-1")
        assert outcome(m, 4, pages(m)) == [False] * 2 + [True] * 2


def test_probability_repeats_with_the_seed() -> None:
    """About as many as it says; the same with the same seed, others with another; each CPU its own."""

    def run(seed: int) -> list[list[bool]]:
        with Machine(cpus=2, memory="32M", seed=seed, failslab="1,30,0,-1") as m:
            return [outcome(m, 300, slab(m), cpu) for cpu in (0, 1)]

    first = run(1)
    assert first == run(1)
    assert first != run(2)
    assert first[0] != first[1]
    # Binomial: of 300 with 0.3, fewer than 50 or more than 130 are 5 standard deviations off.
    assert all(50 <= sum(each) <= 130 for each in first)


def test_stack_filter() -> None:
    """Only calls that come through a function, or only others."""
    with both("1,100,0,-1") as m:

        def wanted() -> object:
            return m.kmalloc(64, QUIET)

        def other() -> object:
            return m.kmalloc(64, QUIET)

        attr = m.fail.failslab
        attr.require = "wanted"
        assert outcome(m, 2, wanted) == [True, True]
        assert outcome(m, 2, other) == [False, False]
        attr.require, attr.reject = None, "wanted"
        assert outcome(m, 2, wanted) == [False, False]
        assert outcome(m, 2, other) == [True, True]


def test_task_filter() -> None:
    """Only what runs on some CPUs."""
    with both("1,100,0,-1") as m:
        for attr, alloc in attrs(m):
            attr.task_filter = {1}
            assert outcome(m, 1, alloc, cpu=0) == [False]
            assert outcome(m, 1, alloc, cpu=1) == [True]


def test_what_may_sleep_and_what_must_not_fail() -> None:
    """``ignore-gfp-wait`` is on as in Linux; ``__GFP_NOFAIL`` never fails."""
    with both("1,100,0,-1") as m:
        for attr, make in ((m.fail.failslab, slab), (m.fail.fail_page_alloc, pages)):
            kernel = make(m, gfp=GFP_KERNEL | NOWARN)  # type: ignore[operator]
            assert outcome(m, 1, kernel) == [False]
            attr.ignore_gfp_wait = False  # type: ignore[attr-defined]
            assert outcome(m, 1, kernel) == [True]
            assert outcome(m, 1, make(m, gfp=GFP_KERNEL | NOFAIL)) == [False]  # type: ignore[operator]


def test_min_order() -> None:
    """Single pages do not fail unless that is wanted."""
    with both("1,100,0,-1") as m:
        assert outcome(m, 1, pages(m, order=0)) == [False]
        m.fail.fail_page_alloc.min_order = 0
        assert outcome(m, 1, pages(m, order=0)) == [True]


def test_cache_filter() -> None:
    """Only caches with the letter A, or the flag."""
    with debug_cache("A") as (m, c):
        assert c.layout is None  # it makes no debug cache
    with Machine(cpus=1, memory="32M", slab_debug="A,thing", failslab="1,100,0,-1") as m:
        m.fail.failslab.cache_filter = True
        thing, other = m.kmem_cache_create("thing", 40), m.kmem_cache_create("other", 40)
        assert outcome(m, 1, lambda: other.alloc(QUIET)) == [False]
        assert outcome(m, 1, lambda: thing.alloc(QUIET)) == [True]


def test_bulk_fails_as_a_whole() -> None:
    """By one decision, and nothing is lost."""
    with Machine(cpus=1, memory="32M", failslab="1,100,0,1") as m:
        c = m.kmem_cache_create("thing", 40)
        assert on_cpu(m, c.alloc_bulk, 10, QUIET) == []
        addresses = on_cpu(m, c.alloc_bulk, 10, QUIET)
        assert len(addresses) == 10
        on_cpu(m, c.free_bulk, addresses)
        m.verify()


def test_log() -> None:
    """The kernel's lines, and the stack; fewer if that is wanted, none with ``__GFP_NOWARN``."""
    with both("1,100,0,3") as m:
        outcome(m, 1, slab(m, GFP_ATOMIC))
        text = m.log.read()
        assert "FAULT_INJECTION: forcing a failure.\n" in text
        assert "name failslab, interval 1, probability 100, space 0, times 3\n" in text
        assert text.count("Call Trace:") == 1
        m.fail.failslab.verbose = 1
        outcome(m, 1, slab(m, GFP_ATOMIC))
        assert m.log.read().count("Call Trace:") == 1
        outcome(m, 1, slab(m))
        assert m.log.read().count("forcing a failure") == 2


def test_a_failed_slab_allocation_is_the_users() -> None:
    """When pages fail, objects of a new slab do, too; the machine stays whole."""
    with both() as m:
        attr = m.fail.fail_page_alloc
        attr.min_order = 0
        attr.setup("1,100,0,-1")
        c = m.kmem_cache_create("fresh", 64, flags=0x0100_0000)
        assert outcome(m, 3, lambda: c.alloc(QUIET)) == [True] * 3
        attr.times = 0
        assert outcome(m, 3, lambda: c.alloc(QUIET)) == [False] * 3
        m.verify()


@pytest.mark.parametrize("name", ["failslab", "fail_page_alloc"])
@pytest.mark.parametrize(
    "value", ["", "1", "1,2,3", "a,b,c,d", "1,101,0,1", "1,1,-1,1", "1,1,1,-2", 7]
)
def test_bad_values_name_the_argument(name: str, value: Any) -> None:
    with pytest.raises(BadArgument, match=f"^{name}: "):
        Machine(cpus=1, memory="32M", **{name: value})


def test_bad_attributes() -> None:
    """Each says its name; and what was not booted says how to."""
    with Machine(cpus=1, memory="32M", failslab=True) as m:
        for name, value in (
            ("interval", -1), ("probability", 101), ("verbose", 3), ("times", -2), ("space", "1"),
            ("probability", True), ("ignore_gfp_wait", 1), ("task_filter", 3), ("require", 3), ("reject", b"f"),
        ):  # fmt: skip
            with pytest.raises(BadArgument, match=f"^{name}: "):
                setattr(m.fail.failslab, name, value)
        with pytest.raises(BadArgument, match=r"^fail_page_alloc: .*fail_page_alloc=True"):
            assert m.fail.fail_page_alloc
