"""
Reported as a4efc174b382, reverted by 60a60e32cf91 (2021): the mutex of contiguous allocations was removed, so that
they would not wait for each other. The mutex and its deadlock are 7ee793a62fa8 ``cma: Remove potential deadlock
situation`` (2014).

Ranges do not overlap, but the page blocks that are isolated for them do.

    CPU 0                                   CPU 1
    isolates the block
    drains page sets
                                            isolates the block: it is already
    takes its range
    the block is CMA again
                                            takes its range, as isolated pages
                                            the block is CMA again

Symptom: allocations fail, or pages are taken from lists that they are not on, and counters are wrong. Fix: one
contiguous allocation at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.cma import CmaArea
from concmem.mm.debug.page_debug import PageDebug
from concmem.mm.zone import Zone
from concmem.runtime.api import Runtime

if TYPE_CHECKING:
    from concmem.mm.vmstat import VmEvents


class _NoMutex:
    name = "cma_mutex"

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class _Unserialised(CmaArea):
    """Does not wait for others."""

    def __init__(
        self,
        rt: Runtime,
        zone: Zone,
        base_pfn: int,
        nr_pages: int,
        events: VmEvents,
        drain_all_pages: Callable[[], None],
        debug: PageDebug | None = None,
    ) -> None:
        super().__init__(rt, zone, base_pfn, nr_pages, events, drain_all_pages, debug)
        self._mutex = _NoMutex()  # type: ignore[assignment]


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two CPUs allocate a range each, in the same page block."""
    m = Machine(memory="4M", cma="2M", runtime=rt, classes=classes)

    def allocate() -> None:
        page = m.cma_alloc(2)
        assert page is not None, "most of the area is free"
        m.cma_release(page, 2)

    return Program([allocate, allocate], m.verify)


BUG = Bug(
    name="cma-unserialised",
    number="B37",
    title="two contiguous allocations isolate the same page block",
    fixed_by='60a60e32cf91 (a revert of reported a4efc174b382); see 7ee793a62fa8 ("cma: Remove potential deadlock '
    'situation")',
    subsystem="page_alloc",
    kind="accounting",
    depth=2,
    cpus=2,
    replaces={CmaArea: _Unserialised},
    expect=frozenset({"PageCountError", "FreeListError", "AssertionError"}),
    workload=_workload,
    witness="v1:14.0",
    executions={"random": 20},  # seeds 0 to 4 need 1 at the median
)
