"""
66eca1021a42 ``mm/page_alloc: fix pcp->count race between drain_pages_zone() vs __rmqueue_pcplist()`` (2024).

The number of pages in a page set is not the length of its lists while somebody fills it. READ_ONCE() does not help.

    CPU 0                                   CPU 1
                                            allocates: pcp->lock, the list is empty
                                            gets a batch from the buddy system
    sets the limits to 0
    drain: count is 0, there is nothing
                                            count += 3; unlocks

Symptom: pages in a page set that is switched off; memory that is to be taken offline never gets free. Fix: count is
read under pcp->lock.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.per_cpu_pageset import PerCpuPageset


class _TrustsCount(PerCpuPageset):
    """Looks whether there is anything before it takes the lock; limits are set without it, as in Linux."""

    __slots__ = ()

    def set_sizes(self, batch: int, high_min: int, high_max: int) -> None:
        self.batch, self.high_min, self.high_max = batch, high_min, high_max

    def drain(self) -> bool:
        return not self.count or super().drain()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU switches page sets off and empties them, while another allocates."""
    m = Machine(memory="2M", runtime=rt, classes=classes)
    pagesets = m.zones[-1].pageset.all()
    for pcp in pagesets:
        pcp.set_sizes(batch=3, high_min=12, high_max=12)

    def disable() -> None:
        rt.cond_resched()
        for pcp in pagesets:
            pcp.set_sizes(batch=1, high_min=0, high_max=0)
        m.kernel.drain.drain_all_pages(force=True)

    def allocate() -> None:
        assert m.alloc_pages(0) is not None

    def empty() -> None:
        assert not any(pages for pcp in pagesets for pages in pcp.lists), (
            "a set that is off has pages"
        )

    return Program([disable, allocate], empty, verify=m.verify)


BUG = Bug(
    name="drain-trusts-count",
    number="B21",
    title="a drain skips a page set that is being filled",
    fixed_by='66eca1021a42 ("mm/page_alloc: fix pcp->count race between drain_pages_zone() vs __rmqueue_pcplist()")',
    subsystem="page_alloc",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={PerCpuPageset: _TrustsCount},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:0.0,1.0,6.0",
    executions={"random": 50, "pct": 60},  # random: seeds 0 to 2 need 3 at the median, pct: 4
    note="A CPU is drained by its own interrupt here, not from outside: it comes between the lists and the count.",
)
