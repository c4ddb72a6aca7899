"""
``/proc/vmallocinfo``: one line for each area of the vmalloc range.

Areas in use come share by share (``struct vmap_node``), each by address, then those that were freed and
wait for a TLB flush. A size includes the guard page.

The kernel hashes addresses (``%pK``); here they are plain. The caller is a Python function with the
offset in its byte code. ``vpages`` never appears: arrays of pages are not in the model's memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics, VmAreaStatistics

FLAGS: Final = ("ioremap", "sparse", "vmalloc", "vmap", "user", "dma-coherent", "vpages")
"""In the kernel's order."""


def render(stats: MachineStatistics) -> str:
    """The text of the file."""
    areas = stats.vmalloc.areas if stats.vmalloc is not None else ()
    return "".join(f"{_line(area)}\n" for area in areas)


def _line(area: VmAreaStatistics) -> str:
    size = area.end - area.start
    line = f"0x{area.start:016x}-0x{area.end:016x} {size:7d}"
    if area.kind == "unpurged":
        return f"{line} unpurged vm_area"
    if area.kind == "vm_map_ram":
        return f"{line} vm_map_ram"
    if area.caller:
        line += f" {area.caller}"
    if area.nr_pages:
        line += f" pages={area.nr_pages}"
    if area.phys_addr:
        line += f" phys=0x{area.phys_addr:016x}"
    shown = {area.kind, *area.flags}
    line += "".join(f" {flag}" for flag in FLAGS if flag in shown)
    return line + "".join(f" N{node}={nr}" for node, nr in area.numa)
