"""
fc1e0d980037 ``mm/vmalloc: prevent stale TLBs in fully utilized blocks`` (2023).

A block of vm_map_ram without free space leaves the list that a flush went through, though pages in it may have
been unmapped and not flushed.

    CPU 0 (the block's)                     CPU 1
                                            vm_unmap_ram(x): unmapped, to be flushed later
    vm_map_ram: takes the last pages,
    the block leaves vbq->free
                                            vm_unmap_aliases: goes through vbq->free, no such block
                                            ... a TLB still has x; its page goes to somebody else

Symptom: a stale translation to a page that was given away. Fix: go through all blocks, in the xarray (which made
`vmap-block-wrong-lock` possible).
"""

from __future__ import annotations

from collections.abc import Iterator

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.rculist import list_for_each_entry_rcu
from concmem.mm.vmap_block import VmapBlock, VmapBlocks
from concmem.units import PAGE_SIZE


class _ListsOnly(VmapBlocks):
    """Flushes blocks that have free space."""

    def _blocks_to_flush(self) -> Iterator[VmapBlock]:
        for vbq in self.vmap_block_queue.all():
            yield from list_for_each_entry_rcu(vbq.free)


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 1 unmaps a page of CPU 0's block and has all TLBs flushed, while CPU 0 makes the block full."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)  # 128 pages in a block
    areas = m.vm_areas
    pages: list[Page] = []
    mapped: list[int] = []

    def prepare() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        pages.extend([page] * 64)
        for nr in (64, 1):
            mapped.append(m.vm_map_ram(pages[:nr]) or 0)
        for nr in (32, 16, 8, 4, 2):
            m.vm_map_ram(pages[:nr])

    m.run([prepare])

    def fill() -> None:
        m.vm_map_ram(pages[:1])

    def unmap_and_flush() -> None:
        address = mapped[1]
        m.vm_unmap_ram(address, 1)
        m.vm_unmap_aliases()
        stale = list(areas.page_table.entries(address, address + PAGE_SIZE))
        assert not stale, f"{address:#x} was unmapped, and all were flushed, but a TLB may have it"

    return Program([fill, unmap_and_flush], verify=m.verify)


BUG = Bug(
    name="full-block-not-flushed",
    number="B41",
    title="vm_unmap_aliases does not flush blocks without free space",
    fixed_by="fc1e0d980037 mm/vmalloc: prevent stale TLBs in fully utilized blocks (2023)",
    subsystem="vmalloc",
    kind="stale read",
    depth=1,
    cpus=2,
    replaces={VmapBlocks: _ListsOnly},
    expect=frozenset({"AssertionError"}),
    workload=_workload,
    witness="v1:",
    executions={"pb": 1, "random": 20},  # random: nearly every execution
)
