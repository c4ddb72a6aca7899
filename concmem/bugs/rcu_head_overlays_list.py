"""
Reported as de5604231ce4 ``mm: percpu-vmap fix RCU list walking`` (2010).

A block's list entry and its rcu_head were one field. CPUs walk the list without its lock; but handing the block to
RCU, to be freed when they are done with it, overwrote where they go next.

    CPU 0 (looks for free space)            CPU 1 (purges vb)
    is at vb, goes by its list entry next
                                            takes vb off the list
                                            call_rcu(vb): overwrites the entry
    follows what is there

Symptom: a walk that leaves the list. Fix: two fields, and list operations that are made for readers under RCU.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.vmap_block import VmapBlock, VmapBlocks


class _Overlay(VmapBlocks):
    """Freeing a block overwrites its ``next``."""

    def _free_vmap_block(self, vb: VmapBlock) -> None:
        super()._free_vmap_block(vb)
        with vb.list_lock:
            vb.next = None  # what the rcu_head has there


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 1 purges a block of CPU 0's that is nearly full, while that looks for space."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)  # 128 pages in a block
    pages: list[Page] = []

    def prepare() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        pages.extend([page] * 64)
        mapped = [(m.vm_map_ram(pages[:nr]), nr) for nr in (64, 32, 16)]
        m.vm_map_ram(pages)  # another block, which has a mapping
        for address, nr in mapped:
            assert address is not None
            m.vm_unmap_ram(address, nr)

    m.run([prepare])

    def map_pages() -> None:
        assert m.vm_map_ram(pages)

    return Program([map_pages, m.vm_unmap_aliases], verify=m.verify)


BUG = Bug(
    name="rcu-head-overlays-list",
    number="B44",
    title="freeing a block overwrites the list entry that readers follow",
    fixed_by="reported as de5604231ce4 mm: percpu-vmap fix RCU list walking (2010)",
    subsystem="vmalloc",
    kind="use after free",
    depth=2,
    cpus=2,
    replaces={VmapBlocks: _Overlay},
    expect=frozenset({"ListCorruption"}),
    workload=_workload,
    witness="v1:65.0",
    executions={"pb": 100},
)
