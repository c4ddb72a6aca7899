"""
f5252e009d5b ``mm: avoid null pointer access in vm_struct via /proc/vmallocinfo`` (2011).

An area could be found by readers as soon as it had addresses, before its pages were set.

    CPU 0 (vmalloc)                         CPU 1 (reads /proc/vmallocinfo)
    puts the area on the list
    allocates the first of its pages
                                            shows the area: follows pages, which is NULL or not full
    allocates the others

Symptom: an oops in show_numa_info, or half an area. Fix: on the list with VM_UNLIST (VM_UNINITIALIZED today), and
readers keep away until everything is set.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_area import VmStruct
from concmem.units import PAGE_SIZE


class _ShowsAll(Vmalloc):
    """Does not ask whether an area is complete."""

    def _is_initialized(self, vm: VmStruct) -> bool:
        return True


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """A CPU allocates an area of two pages while another shows what there is."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)
    freed = m.run([lambda: m.vmalloc(PAGE_SIZE)])
    m.run([lambda: m.vfree(freed[0])])  # the first use makes page tables

    def allocate() -> None:
        assert m.vmalloc(2 * PAGE_SIZE)

    def read() -> None:
        for area in m.vm_areas.area_statistics():
            assert area.numa in ((), ((0, 2),)), f"an area of 2 pages is shown with {area.numa}"

    return Program([allocate, read], verify=m.verify)


BUG = Bug(
    name="vmlist-before-pages",
    number="B46",
    title="readers of vmallocinfo see areas whose pages are still being allocated",
    fixed_by="f5252e009d5b mm: avoid null pointer access in vm_struct via /proc/vmallocinfo (2011)",
    subsystem="vmalloc",
    kind="stale read",
    depth=2,
    cpus=2,
    replaces={Vmalloc: _ShowsAll},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:11.0",
    executions={"pb": 20, "pct": 60},  # pct: seeds 0 to 3 need 2 at the median
    note="where Linux followed NULL, the model shows half an area",
)
