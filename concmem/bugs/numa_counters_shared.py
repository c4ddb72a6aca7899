"""
5c5f0468d172 ``mm/vmalloc: fix data race in show_numa_info()`` (2025).

All readers of /proc/vmallocinfo counted an area's pages by node in one array, which hung at the file.

    CPU 0 (reads the file)                  CPU 1 (reads the file)
    counters = 0, 0
    counts the pages of an area: 1, 0
                                            counters = 0, 0, for an area of another vmap node
    prints 0 pages

Symptom: counts that are wrong, or of another area. Fix: an array for each reader.
"""

from __future__ import annotations

from typing import cast

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.vmalloc import Vmalloc
from concmem.runtime.api import Cell
from concmem.units import PAGE_SIZE


class _Counters:
    """An array of which each access can be seen."""

    def __init__(self, cells: list[Cell[int]]) -> None:
        self._cells = cells

    def __getitem__(self, node: int) -> int:
        return self._cells[node].value

    def __setitem__(self, node: int, value: int) -> None:
        self._cells[node].value = value


class _Shared(Vmalloc):
    """Has one array of counters (``m->private``)."""

    _counters: _Counters | None = None

    def _numa_counters(self) -> list[int]:
        if self._counters is None:
            cells = [self.rt.cell(0, "m->private") for _ in range(self.nr_nodes)]
            self._counters = _Counters(cells)
        for node in range(self.nr_nodes):
            self._counters[node] = 0
        return cast("list[int]", self._counters)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """Two readers, while there are two areas, which are in different vmap nodes."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)

    def prepare() -> None:
        first, between = m.vmalloc(PAGE_SIZE), m.vmalloc(15 * PAGE_SIZE)
        assert first
        assert between
        assert m.vmalloc(PAGE_SIZE)
        m.vfree(between)
        m.vm_unmap_aliases()

    m.run([prepare])

    def read() -> None:
        shown = [area.numa for area in m.vm_areas.area_statistics()]
        assert shown == [((0, 1),)] * 2, f"two areas of a page each are shown as {shown}"

    return Program([read, read])


BUG = Bug(
    name="numa-counters-shared",
    number="B42",
    title="readers of vmallocinfo count in one array",
    fixed_by="5c5f0468d172 mm/vmalloc: fix data race in show_numa_info() (2025)",
    subsystem="vmalloc",
    kind="data race",
    depth=2,
    cpus=2,
    replaces={Vmalloc: _Shared},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:12.0",
    executions={"pb": 15, "random": 60},  # random: seeds 0 to 3 need 3 at the median
)
