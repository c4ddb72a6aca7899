"""
038a102535eb ``mm/page_alloc: prevent pcp corruption with SMP=n`` (2026).

On a kernel for one CPU a spinlock is nothing, and spin_trylock() always says that it has it. Page sets rely on
an interrupt handler *failing* to get the lock that the interrupted code holds.

    CPU 0                                   interrupt on CPU 0
    free_pages: pcp->lock is taken
    reads count (n)
                                            free_pages: trylock says yes
                                            links a page, count = n + 1
    links a page, count = n + 1

Symptom: the count of a page set is not the length of its lists, and pages get lost. Fix: interrupts off while
the lock is held, on such a kernel.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.zone import Zone
from concmem.runtime.api import Runtime


class _UpLock:
    """A spinlock of a kernel for one CPU."""

    name = "&pcp->lock"
    owner = None

    def acquire(self) -> None:
        pass

    def release(self) -> None:
        pass

    def trylock(self) -> bool:
        return True

    def locked(self) -> bool:
        return False

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Up(PerCpuPageset):
    """With such a lock."""

    __slots__ = ()

    def __init__(self, rt: Runtime, zone: Zone) -> None:
        super().__init__(rt, zone)
        self.lock = _UpLock()
        self.trylock = self.lock.trylock
        self.unlock = self.lock.release


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU frees a page, and so does its interrupt."""
    m = Machine(memory="2M", runtime=rt, classes=classes)

    def allocate() -> list[object]:
        return [m.alloc_pages(0) for _ in range(2)]

    (pages,) = m.run([allocate])
    assert pages is not None

    def free() -> None:
        m.free_pages(pages.pop())  # type: ignore[arg-type]

    def interrupt() -> None:
        m.free_pages(pages.pop())  # type: ignore[arg-type]

    return Program([free], m.verify, interrupts=[(0, interrupt)])


BUG = Bug(
    name="pcp-trylock-up",
    number="B32",
    title="an interrupt changes the page set that the interrupted code has locked",
    fixed_by='038a102535eb ("mm/page_alloc: prevent pcp corruption with SMP=n")',
    subsystem="page_alloc",
    kind="lost update",
    depth=2,
    cpus=1,
    replaces={PerCpuPageset: _Up},
    expect=frozenset({"PageCountError", "PageOwnershipError"}),
    workload=_workload,
    witness="v1:2.0",
    executions={"pb": 30, "random": 200},  # random: seeds 0 to 4 need 25 at the median
)
