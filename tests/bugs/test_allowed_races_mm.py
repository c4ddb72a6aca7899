"""
Races that are meant: CPUs conflict over a variable without a lock, and no detector says a word.

Each program is searched, and the variable that it is about must have been fought over in some execution: written by
one CPU, and read or written by another one that did not hold its lock. So a variable that is declared wrongly, or
a program that does not reach it, fails.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from concmem import explore
from concmem.bugs import find_bug
from concmem.explore import ControlledRuntime, Program
from concmem.explore import operation as op
from concmem.explore.execution import Execution
from concmem.explore.schedulers.random_walk import RandomWalk
from concmem.explore.watch import Field
from concmem.machine import Machine
from concmem.mm.mman import OVERCOMMIT_ALWAYS
from concmem.mm.page import Page
from concmem.mm.process_statistics import process_statistics
from concmem.user.params import M_ARENA_MAX, M_MMAP_THRESHOLD

PAGE = 4096
READS = {op.READ}
WRITES = {op.WRITE, op.UPDATE}
MOST = 60

Make = Callable[[ControlledRuntime], Program]


class Fights(RandomWalk):
    """Remembers which variables CPUs had conflicts over."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def end(self, execution: Execution) -> None:
        super().end(execution)
        trace = execution.trace
        # By variable: CPUs that wrote, and CPUs whose access had no lock.
        writers: defaultdict[int, set[int]] = defaultdict(set)
        lockless: defaultdict[int, set[int]] = defaultdict(set)
        names: dict[int, str] = {}
        for position in range(0, len(trace), 3):
            task, kind, obj = trace[position : position + 3]
            if kind not in READS | WRITES or task is None or task.cpu is None:
                continue
            names[id(obj)] = obj.name
            if kind in WRITES:
                writers[id(obj)].add(task.cpu.number)
            if not (isinstance(obj, Field) and kind in WRITES):
                lockless[id(obj)].add(task.cpu.number)
        for key, cpus in writers.items():
            if len(cpus | lockless[key]) > 1 and lockless[key]:
                self.names.add(names[key])


def purge_blocks(rt: ControlledRuntime) -> Program:
    """CPU 1 takes a block off a list that CPU 0 is walking; both look at the blocks' numbers."""
    m = Machine(2, memory="4M", vmalloc_size="8M", runtime=rt)  # 128 pages in a block
    pages: list[Page] = []
    mapped: list[int] = []

    def prepare() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        pages.extend([page] * 64)
        mapped.extend(m.vm_map_ram(pages[:nr]) or 0 for nr in (64, 32, 16, 8))  # 8 are left
        for address, nr in [(m.vm_map_ram(pages[:nr]), nr) for nr in (64, 32, 16)]:
            assert address is not None
            m.vm_unmap_ram(address, nr)

    m.run([prepare])

    def use() -> None:
        assert m.vm_map_ram(pages)
        assert m.vm_map_ram(pages[:1])
        m.vm_unmap_ram(mapped[3], 8)

    return Program([use, m.vm_unmap_aliases], verify=m.verify)


def show_a_process(rt: ControlledRuntime) -> Program:
    """One CPU maps, touches and unmaps; another one shows the counters as they are just then."""
    m = Machine(2, memory="4M", runtime=rt)
    p = m.process()

    def use() -> None:
        address = p.mmap(PAGE)
        assert address is not None
        p.write(address, b"x")
        p.munmap(address, PAGE)

    def look() -> None:
        assert 0 <= p.mm.rss_anon <= 1
        process_statistics(p, defaultdict(int))  # type: ignore[arg-type]
        assert p.mm.total_vm >= 33

    return Program([use, look], verify=m.verify)


def change_overcommit(rt: ControlledRuntime) -> Program:
    """The mode changes while memory is promised."""
    m = Machine(2, memory="4M", runtime=rt)
    p = m.process()
    return Program(
        [lambda: p.mmap(PAGE), lambda: m.set_overcommit(OVERCOMMIT_ALWAYS)], verify=m.verify
    )


def share_arenas(rt: ControlledRuntime) -> Program:
    """
    Threads begin and end while there is one arena.

    ``next_to_use`` of reused_arena is a race by glibc's own comment ("FIXME"): whoever loses it starts to
    look at another arena, no more.
    """
    m = Machine(3, memory="4M", runtime=rt)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)

    def use() -> None:
        assert p.malloc(24)
        p.thread_exit()

    m.run([use])
    return Program([use, use, use], p.validate_malloc, verify=m.verify)


def make_arenas(rt: ControlledRuntime) -> Program:
    """An arena comes into the ring while another thread walks it, as reused_arena does ("FIXME", again)."""
    m = Machine(2, memory="4M", runtime=rt)
    p = m.process()
    m.run([lambda: p.malloc(24)])
    return Program([p.mallinfo, lambda: p.malloc(24)], p.validate_malloc, verify=m.verify)


def move_the_threshold(rt: ControlledRuntime) -> Program:
    """Freeing a mapped chunk moves ``mmap_threshold`` while another thread goes by it."""
    m = Machine(2, memory="16M", runtime=rt)
    p = m.process()
    p.mallopt(M_ARENA_MAX, 1)
    mapped: list[int] = []

    def prepare() -> None:
        mapped.append(p.malloc(200 << 10) or 0)

    m.run([prepare, lambda: p.malloc(24)])
    return Program(
        [lambda: p.free(mapped[0]), lambda: p.malloc(300 << 10)], p.validate_malloc, verify=m.verify
    )


def set_the_threshold(rt: ControlledRuntime) -> Program:
    """The same variable, set by hand by two threads."""
    m = Machine(2, memory="4M", runtime=rt)
    p = m.process()
    return Program([lambda: p.mallopt(M_MMAP_THRESHOLD, 1 << 20)] * 2, verify=m.verify)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (purge_blocks, {"vb->free", "vb->dirty", "VmapBlock.next"}),
        # A reader of vmallocinfo at an area that is being made.
        (find_bug("vmlist-before-pages").correct, {"vm->flags"}),
        (show_a_process, {"MmStruct.total_vm", "MmStruct.rss_anon"}),
        (change_overcommit, {"sysctl_overcommit_memory"}),
        (share_arenas, {"next_to_use", "Arenas.free_list"}),
        (make_arenas, {"arena->next"}),
        # A push to a fastbin, while another thread empties them.
        (find_bug("fastbin-head-checked-unlocked").correct, {"av->have_fastchunks"}),
        (move_the_threshold, {"mp_.mmap_threshold"}),
        (set_the_threshold, {"mp_.mmap_threshold", "mp_.no_dyn_threshold"}),
    ],
    ids=[
        "purged-blocks",
        "vmallocinfo",
        "process-counters",
        "overcommit-mode",
        "shared-arenas",
        "ring-of-arenas",
        "fastchunks",
        "mmap-threshold",
        "mallopt",
    ],
)
def test_races_that_are_meant_are_not_reported(make: Make, names: set[str]) -> None:
    fights = Fights()
    executions = 0
    for seed in range(MOST // 20):
        outcome = explore.check(make, fights, 20, seed)
        assert outcome.failure is None, outcome.failure
        executions += outcome.executions
        if names <= fights.names:
            return
    pytest.fail(f"{names - fights.names} had no conflict in {executions} executions")


def test_an_undeclared_race_is_reported() -> None:
    """The control of the control: the same search, of a field without a lock, finds it."""

    class Counter:
        __guarded_by__ = {"value": "lock"}

        def __init__(self, rt: Any) -> None:
            self.lock = rt.spinlock("counter->lock")
            self.value = 0

    def program(rt: ControlledRuntime) -> Program:
        counter = rt.watch(Counter(rt))

        def count() -> None:
            counter.value = 1

        return Program([count, count])

    outcome = explore.check(program, Fights(), 20, 0)
    assert outcome.failure is not None
    assert outcome.failure.kind == "data-race"
