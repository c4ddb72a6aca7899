"""
f3c01d2f3ade ``mm: vmalloc: avoid racy handling of debugobjects in vunmap`` (2018).

The addresses were given back first and cleaned up afterwards: what was looked for in them (objects of
debugobjects there, page table entries here) was another owner's by then.

    CPU 0 (vfree)                           CPU 1
    remove_vm_area: lets go of the range
                                            purges, vmalloc gets the same range, maps its pages
    cleans the range up                     ... what CPU 1 has put there

Symptom: the new owner's objects, or translations, are gone, or are found where nothing should be. Fix: clean up
first, let go of the range last.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.vmap_area import VmapArea
from concmem.mm.vmap_space import VmapSpace
from concmem.units import PAGE_SIZE


class _ReleaseFirst(VmapSpace):
    """Lets go of the addresses, and then unmaps them."""

    def free_unmap_vmap_area(self, va: VmapArea) -> None:
        self.free_vmap_area_noflush(va)
        self.page_table.unmap(va.va_start, va.size)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 frees an area of CPU 1's, which purges and allocates one of the same size."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)
    made = m.run([None, lambda: m.vmalloc(PAGE_SIZE)])

    def allocate() -> None:
        m.vm_unmap_aliases()
        address = m.vmalloc(PAGE_SIZE)
        assert address is not None
        made.append(address)

    def check() -> None:
        assert m.vm_areas.vmalloc_to_page(made[-1] or 0) is not None, (
            "an area that is in use is not mapped"
        )

    return Program([lambda: m.vfree(made[1]), allocate], check, verify=m.verify)


BUG = Bug(
    name="vunmap-release-first",
    number="B35",
    title="vfree lets go of the addresses before it has cleaned them up",
    fixed_by="f3c01d2f3ade mm: vmalloc: avoid racy handling of debugobjects in vunmap (2018)",
    subsystem="vmalloc",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={VmapSpace: _ReleaseFirst},
    expect=frozenset({"BadPageTable", "VmapError", "AssertionError"}),
    workload=_workload,
    witness="v1:7.0",
    executions={"pb": 20, "pct": 400},  # pct: seeds 0 to 3 need 38 at the median
)
