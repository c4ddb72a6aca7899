"""
Reported as 8d7a8fa97abe ``mm/page_alloc: insert memory barriers to allow async update of pcp batch and high``
(2013).

A page set that is too full gives back a batch of pages. That relies on the limit being no less than the batch,
also while both are changed.

    CPU 0                                   CPU 1
    high = 6 (batch is 31)
                                            free_pages: there are 6 pages: too many
                                            gives back 31 of them
                                            count = 6 - 31
    batch = 1

Symptom: a count below zero, or a loop over empty lists. Fix: the batch first, then the limit. Linux 6.12 has that
order, and gives back no more than there is.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import PerCpuPageset


class _HighFirst(PerCpuPageset):
    """Sets the limit before the batch, and trusts the limit, as was done then."""

    __slots__ = ()

    def set_sizes(self, batch: int, high_min: int, high_max: int) -> None:
        super().set_sizes(self.batch, high_min, high_max)
        with self.lock:
            self.batch = batch

    def _nr_pcp_free(self, batch: int, high: int, free_high: bool) -> int:
        return batch

    def _free_pcppages_bulk(self, count: int, pindex: int) -> None:
        before = self.count
        super()._free_pcppages_bulk(count, pindex)
        self.count = before - count


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """One CPU frees pages, another makes the page sets smaller."""
    m = Machine(memory="16M", runtime=rt, classes=classes)
    zone = m.zones[-1]
    for pcp in zone.pageset.all():
        pcp.set_sizes(batch=31, high_min=124, high_max=124)

    def allocate() -> list[Page | None]:
        return [m.alloc_pages(0) for _ in range(20)]

    (pages, _) = m.run([allocate, None])
    assert pages is not None

    def free() -> None:
        for page in pages[:2]:
            assert page is not None
            m.free_pages(page)

    def shrink() -> None:
        zone.pageset.of(0).set_sizes(batch=1, high_min=6, high_max=6)

    return Program([free, shrink], m.verify)


BUG = Bug(
    name="pageset-high-first",
    number="B27",
    title="the limit of a page set is lowered before its batch",
    fixed_by='reported as 8d7a8fa97abe ("mm/page_alloc: insert memory barriers to allow async update of pcp batch '
    'and high")',
    subsystem="page_alloc",
    kind="accounting",
    depth=2,
    cpus=2,
    replaces={PerCpuPageset: _HighFirst},
    expect=frozenset({"PageCountError"}),
    workload=_workload,
    witness="v1:1.0,2.0,3.0,5.0",
    executions={"random": 40, "pb": 25},  # random: seeds 0 to 4 need 4 at the median
)
