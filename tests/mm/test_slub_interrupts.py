"""
Every position of one interrupt, and of one operation of another CPU, in one operation.

The operation runs on CPU 0 under a runtime that stops at every scheduling point. At the k-th of them, for
every k, an interrupt comes that allocates, frees or flushes; or another CPU does so. Afterwards no
object may be lost, or handed out twice, or anybody's who has not got it. This is exhaustive for one
interruption, and the planted bugs at the end show that it finds what it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

import pytest

from concmem.bugs import find_bug
from concmem.bugs.bug import Classes
from concmem.errors import ConcmemError
from concmem.machine import Machine
from concmem.mm.debug.validate_slab import validate_slabs
from concmem.mm.gfp import GFP_ATOMIC
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.page import Page
from concmem.mm.slub_alloc import SlubAlloc
from concmem.mm.slub_bulk import SlubBulk
from concmem.runtime import api
from concmem.runtime.cpu import Cpu
from concmem.runtime.jitter import _JitterPair
from concmem.runtime.variables import FreeThisCpuPair

from .helpers import on_cpu
from .slab_helpers import Kth, PointRuntime

NR_OBJECTS = 4
"""Objects in a slab of 8 KiB objects."""


class World:
    """One cache, and the objects that the test holds, in the order in which it got them."""

    def __init__(self, m: Machine, s: KmemCache) -> None:
        self.m = m
        self.s = s
        self.held: list[int] = []

    def alloc(self) -> None:
        address = self.s.alloc(GFP_ATOMIC)
        assert address is not None
        self.got([address])

    def got(self, addresses: list[int]) -> None:
        assert not set(addresses) & set(self.held), "handed out twice"
        self.held += addresses

    def free(self, which: int = 0) -> None:
        if self.held:
            self.s.free(self.held.pop(which))

    def alloc_bulk(self, nr: int) -> None:
        self.got(self.s.alloc_bulk(nr, GFP_ATOMIC))

    def free_bulk(self, nr: int) -> None:
        addresses, self.held = self.held[:nr], self.held[nr:]
        self.s.free_bulk(addresses)

    def flush(self) -> None:
        self.m.slab.cpu_slabs.flush_cpu_slab(self.s)

    def on_other_cpu(self, fn: Callable[[], None]) -> None:
        """On CPU 1, which is idle; CPU 0 takes nothing meanwhile, whatever it holds."""
        on_cpu(self.m, fn, cpu=1)

    def check(self) -> None:
        """The structures agree with each other and with what the test holds."""
        validate_slabs([self.s], self.m.mem_map, self.m.memory, [])
        owned = {a for slab in set(self.m.mem_map.slabs.values()) for a in slab.owners}
        assert owned == set(self.held)

    def end(self) -> None:
        """Everything can be freed, and then nothing is left."""
        self.s.free_bulk(self.held)
        self.s.destroy()
        assert not self.m.mem_map.slabs


Step = Callable[[World], None]


# -- what there is before: CPU 0 has ...


def nothing(w: World) -> None:
    """... never used the cache."""


def some_free(w: World) -> None:
    """... a slab with free objects."""
    w.alloc_bulk(NR_OBJECTS - 2)


def all_used(w: World) -> None:
    """... a slab without a free object."""
    w.alloc_bulk(NR_OBJECTS)


def freed_by_others(w: World) -> None:
    """... a slab to which only another CPU has freed."""
    w.alloc_bulk(NR_OBJECTS)
    w.on_other_cpu(lambda: w.free(1))


def cpu_partial(w: World) -> None:
    """... a slab without a free object, and two on its CPU partial list; another slab is full."""
    w.alloc_bulk(4 * NR_OBJECTS)
    for which in (2 * NR_OBJECTS, NR_OBJECTS):
        w.free(which)


def cpu_partial_full(w: World) -> None:
    """... three slabs on its CPU partial list, which is as many as it may; another slab is full."""
    w.alloc_bulk(5 * NR_OBJECTS)
    for which in (3 * NR_OBJECTS, 2 * NR_OBJECTS, NR_OBJECTS):
        w.free(which)


def node_partial(w: World) -> None:
    """... nothing, the node has partial slabs: three, one with a single object in use."""
    w.alloc_bulk(3 * NR_OBJECTS)
    w.flush()
    for which in (2 * NR_OBJECTS, NR_OBJECTS, 0, 0, 0):
        w.free(which)
    w.flush()


def node_free(w: World) -> None:
    """... nothing, the node has empty slabs and a full one."""
    w.alloc_bulk(3 * NR_OBJECTS)
    for _ in range(2 * NR_OBJECTS):
        w.free()
    w.flush()


STATES = (
    nothing,
    some_free,
    all_used,
    freed_by_others,
    cpu_partial,
    cpu_partial_full,
    node_partial,
    node_free,
)


# -- what CPU 0 does


def alloc(w: World) -> None:
    w.alloc()


def free_oldest(w: World) -> None:
    w.free(0)


def free_newest(w: World) -> None:
    w.free(-1)


def alloc_bulk(w: World) -> None:
    w.alloc_bulk(NR_OBJECTS + 1)


def free_bulk(w: World) -> None:
    w.free_bulk(NR_OBJECTS + 1)


def flush(w: World) -> None:
    w.flush()


OPERATIONS = (alloc, free_oldest, free_newest, alloc_bulk, free_bulk, flush)


# -- what comes in between


def alloc_alloc_free(w: World) -> None:
    """The first object is on top again, what follows it is not what it was."""
    address = w.s.alloc(GFP_ATOMIC)
    assert address is not None
    w.alloc()
    w.s.free(address)


def flush_in_between(w: World) -> None:
    w.flush()


def much(w: World) -> None:
    w.alloc_bulk(NR_OBJECTS + 1)
    w.free(-1)
    w.free(-NR_OBJECTS)


def free_two(w: World) -> None:
    w.free(0)
    w.free(-1)


INTERRUPTS = (alloc_alloc_free, flush_in_between, much, free_two)
LARGE = (flush_in_between, much)
OTHER_CPU = (much, free_two)


class Found(NamedTuple):
    """How the enumeration ended."""

    positions: int
    failure: str
    """Empty, or what the first one was, and where."""


def enumerate_positions(
    m: Machine, size: int, state: Step, operation: Step, interruption: Step, elsewhere: bool
) -> Found:
    """On CPU 0: run *operation* with *interruption* at its k-th point, for every k."""
    rt = m.runtime
    assert isinstance(rt, PointRuntime)
    k = 0
    while True:
        w = World(m, m.kmem_cache_create(f"test{k}", size))
        errors: list[BaseException] = []

        def attempt(fn: Step, w: World = w, errors: list[BaseException] = errors) -> None:
            try:
                fn(w)
            except (ConcmemError, AssertionError, AttributeError, IndexError) as error:
                errors.append(error)

        def interrupt(cpu: Cpu, w: World = w, attempt: Callable[[Step], None] = attempt) -> None:
            if elsewhere:
                w.on_other_cpu(lambda: attempt(interruption))
            else:
                cpu.run_handler(lambda: attempt(interruption))

        attempt(state)
        if errors:
            return Found(k, f"before: {errors[0]!r}")
        kth = Kth(k, interrupt, may_wait if elsewhere else may_interrupt)
        rt.at_point = kth
        attempt(operation)
        rt.at_point = None
        if not errors:
            attempt(World.check)
        if not errors:
            attempt(World.end)
        if errors:
            return Found(k, f"at point {k}: {errors[0]!r}")
        if not kth.done:
            return Found(k, "")
        k += 1


def may_interrupt(cpu: Cpu) -> bool:
    return cpu.irqs_enabled


def may_wait(cpu: Cpu) -> bool:
    """CPU 0 may be anywhere, but not where it keeps the other one out."""
    return not cpu.spinlocks_held


@contextmanager
def booted(
    classes: Classes | None = None,
    runtime: type[PointRuntime] = PointRuntime,
    **options: Any,
) -> Iterator[Machine]:
    """Two CPUs, so that there is another one to free."""
    with Machine(memory="16M", runtime=runtime(2), classes=classes, **options) as m:
        yield m


def explore(
    m: Machine,
    state: Step,
    operation: Step,
    interruption: Step,
    elsewhere: bool = False,
    size: int = 8192,
) -> Found:
    """As `enumerate_positions`, from a thread that is no CPU."""
    return on_cpu(
        m, lambda: enumerate_positions(m, size, state, operation, interruption, elsewhere)
    )


@pytest.mark.parametrize("interruption", INTERRUPTS)
@pytest.mark.parametrize("state", STATES)
def test_one_interrupt_anywhere(state: Step, interruption: Step) -> None:
    """Whatever an interrupt does at whatever point of whatever operation, nothing is lost."""
    # A bulk allocation has so many points that the two interrupts which change most must do.
    operations = [each for each in OPERATIONS if each is not alloc_bulk or interruption in LARGE]
    with booted() as m:
        for operation in operations:
            found = explore(m, state, operation, interruption)
            assert not found.failure, f"{operation.__name__}: {found.failure}"


@pytest.mark.parametrize("interruption", OTHER_CPU)
@pytest.mark.parametrize("state", STATES)
def test_another_cpu_anywhere(state: Step, interruption: Step) -> None:
    """Whatever another CPU does at whatever point of whatever operation, nothing is lost."""
    with booted() as m:
        operations = (
            (alloc, flush) if interruption is much else (alloc, free_oldest, alloc_bulk, flush)
        )
        for operation in operations:
            found = explore(m, state, operation, interruption, elsewhere=True)
            assert not found.failure, f"{operation.__name__}: {found.failure}"


class Storm:
    """At some points an interrupt comes, or another CPU does something, drawn by a seed."""

    def __init__(self, w: World, rng: Random, node: bool) -> None:
        self.w = w
        self.rng = rng
        self.node = node
        self.errors: list[BaseException] = []

    def __call__(self, cpu: Cpu) -> None:
        if self.rng.random() > 0.08 or self.errors:
            return
        if may_interrupt(cpu) and self.rng.random() < 0.6:
            cpu.run_handler(self.something)
        elif may_wait(cpu):
            self.w.on_other_cpu(self.something)

    def something(self) -> None:
        """One operation, which has to go well, and must not get anybody else's object."""
        w, rng = self.w, self.rng
        try:
            kind = rng.randrange(7)
            if kind == 0:
                w.alloc()
            elif kind == 1:
                address = w.s.alloc(GFP_ATOMIC, rng.randrange(2) if self.node else None)
                assert address is not None
                w.got([address])
            elif kind == 2:
                w.alloc_bulk(rng.randrange(1, 7))
            elif kind == 3:
                w.flush()
            elif kind == 4:
                w.free_bulk(rng.randrange(6))
            elif w.held:
                w.free(rng.randrange(len(w.held)))
        except (ConcmemError, AssertionError, AttributeError, IndexError) as error:
            self.errors.append(error)


@pytest.mark.parametrize("size", [8192, 20_000, 2500])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("hardened", [False, True])
def test_storms(size: int, nodes: int, hardened: bool) -> None:
    """Interrupts and operations of another CPU at any points of many operations, by several seeds."""
    with booted(nodes=nodes, freelist_hardened=hardened, freelist_random=hardened) as m:
        rt = m.runtime
        assert isinstance(rt, PointRuntime)

        def body() -> None:
            for seed in range(SEEDS):
                w = World(m, m.kmem_cache_create(f"storm{seed}", size))
                storm = Storm(w, Random(f"{seed}/{size}/{nodes}"), nodes > 1)
                rt.at_point = storm
                for _ in range(20):
                    storm.something()
                rt.at_point = None
                assert not storm.errors, f"seed {seed}: {storm.errors[0]!r}"
                w.check()
                w.end()

        on_cpu(m, body)


SEEDS = 8


# -- planted bugs

_BULK_KEEPS_TID = find_bug("bulk-keeps-tid").replaces[SlubBulk]
_CPU_PARTIAL_UNLOCKED = find_bug("cpu-partial-unlocked").replaces[KmemCacheCpu]
_NO_RECHECK = find_bug("cpu-slab-not-rechecked").replaces[SlubAlloc]


class _StrictPair(FreeThisCpuPair):
    """Refuses every change that leaves the second word, the tid, as it is."""

    __slots__ = ("_first",)

    @property  # type: ignore[override]
    def first(self) -> int:
        return self._first

    @first.setter
    def first(self, value: int) -> None:
        assert not hasattr(self, "_first"), "the free list is stored without a new tid"
        self._first = value

    def try_cmpxchg(
        self, old_first: int, old_second: int, new_first: int, new_second: int, /
    ) -> bool:
        if (self.first, self.second) != (old_first, old_second):
            return False
        self.set(new_first, new_second)
        return True

    def set(self, first: int, second: int, /) -> None:
        assert second > self.second or not self.second, "the tid goes back"
        self._first = first
        self.second = second


class _StrictRuntime(PointRuntime):
    def this_cpu_pair(self, first: int, second: int, name: str) -> api.Pair:
        return _JitterPair(_StrictPair(first, second, name), self.hesitate)  # type: ignore[arg-type]


class _NoRetry(SlubAlloc):
    """Installs a slab although an interrupt has installed one."""

    def _install(self, s: KmemCache, c: KmemCacheCpu, slab: Page) -> int:
        freelist = self._cpu_slabs.freeze_slab(s, slab)
        with c.lock:
            return self._load(s, c, slab, freelist)


class _PopsWithoutLooking(SlubAlloc):
    """Takes the first of the CPU partial list without asking again whether there is one."""

    def _pop_cpu_partial(self, s: KmemCache, c: KmemCacheCpu, node: int | None) -> Page | None:
        slab = c.partial
        assert slab is not None
        with c.lock:
            c.partial = slab.next  # type: ignore[assignment]
            slab.next = None
            slab.private = 0
        return slab


def test_a_fast_path_that_ignores_the_tid_is_found() -> None:
    """The free list looks the same again, but the second object on it is another's by now."""
    with booted(classes=find_bug("fastpath-ignores-tid").replaces) as m:
        assert explore(m, some_free, alloc, alloc_alloc_free).failure


def test_the_tid_changes_with_the_free_list() -> None:
    """No path stores the free list and leaves the tid, or lets it go back."""
    with booted(runtime=_StrictRuntime) as m:
        for state in (some_free, all_used, cpu_partial_full, node_partial):
            for operation in OPERATIONS:
                assert not explore(m, state, operation, flush_in_between).failure


def test_a_bulk_allocation_that_leaves_the_tid_is_found() -> None:
    """
    A free list that bulk allocation has changed under the old tid.

    All that puts an object on a free list has a new tid, so no interrupt makes use of it; the rule
    itself is checked.
    """
    with booted(runtime=_StrictRuntime, classes={SlubBulk: _BULK_KEEPS_TID}) as m:
        assert "without a new tid" in explore(m, some_free, alloc_bulk, flush_in_between).failure


@pytest.mark.parametrize(
    ("cls", "bug", "state", "operation", "interruption"),
    [
        (KmemCacheCpu, _CPU_PARTIAL_UNLOCKED, cpu_partial, free_oldest, flush_in_between),
        (KmemCacheCpu, _CPU_PARTIAL_UNLOCKED, cpu_partial, free_oldest, much),
        (SlubAlloc, _NO_RECHECK, some_free, alloc_bulk, flush_in_between),
        (SlubAlloc, _NO_RECHECK, all_used, alloc, flush_in_between),
        (SlubAlloc, _NoRetry, all_used, alloc, much),
        (SlubAlloc, _NoRetry, node_partial, alloc, alloc_alloc_free),
        (SlubAlloc, _PopsWithoutLooking, cpu_partial, alloc, flush_in_between),
    ],
)
def test_what_forgets_interrupts_is_found(
    cls: type, bug: type, state: Step, operation: Step, interruption: Step
) -> None:
    """A step that relies on what it saw before an interrupt could come."""
    with booted() as m:
        assert not explore(m, state, operation, interruption).failure
    with booted(classes={cls: bug}) as m:
        assert explore(m, state, operation, interruption).failure
