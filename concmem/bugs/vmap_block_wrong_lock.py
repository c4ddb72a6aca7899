"""
8c61291fd850 ``mm: fix incorrect vbq reference in purge_fragmented_block`` (2024).

Since fc1e0d980037 a flush goes through all blocks, also those that sit on the list of another CPU's queue. Such
a block was taken off its list under the lock of the queue of whoever flushed.

    CPU 0 (flushes)                         CPU 1 (the block's)
    purge_fragmented_block(vb1):
    takes the lock of CPU 0's queue
    list_del: next->prev = prev
                                            takes the lock of CPU 1's queue
                                            list_add_tail(vb2): behind head->prev, just changed
    list_del: prev->next = next             ... vb2 is linked backwards only

Symptom: no later block is found on the list, vmalloc space runs out. Fix: the block keeps the number of the
CPU whose queue it is on, and that queue's lock is taken.
"""

from __future__ import annotations

from concmem.bugs.bug import Bug, Classes
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.vmap_block import VmapBlock, VmapBlockQueue, VmapBlocks


class _WrongQueue(VmapBlocks):
    """Takes the queue of whoever asks."""

    def _queue_of(self, vb: VmapBlock) -> VmapBlockQueue:
        return self.vmap_block_queue.this()


def _workload(rt: ControlledRuntime, classes: Classes) -> Program:
    """CPU 0 purges a block that CPU 1 has made and left nearly full, while that makes another."""
    m = Machine(memory="4M", vmalloc_size="8M", runtime=rt, classes=classes)  # 128 pages in a block

    def prepare() -> None:
        page = m.alloc_pages(0)
        assert page is not None
        pages.extend([page] * 64)
        mapped = [(m.vm_map_ram(pages[:nr]), nr) for nr in (64, 32, 16)]
        for address, nr in mapped:
            assert address is not None
            m.vm_unmap_ram(address, nr)

    pages: list[Page] = []
    m.run([None, prepare])

    def map_and_unmap() -> None:
        address = m.vm_map_ram(pages)
        assert address is not None
        m.vm_unmap_ram(address, len(pages))

    return Program([m.vm_unmap_aliases, map_and_unmap], verify=m.verify)


BUG = Bug(
    name="vmap-block-wrong-lock",
    number="B33",
    title="a block leaves another CPU's list under the lock of one's own",
    fixed_by="8c61291fd850 mm: fix incorrect vbq reference in purge_fragmented_block (2024)",
    subsystem="vmalloc",
    kind="list corruption",
    depth=2,
    cpus=2,
    replaces={VmapBlocks: _WrongQueue},
    expect=frozenset({"ListCorruption", "DataRace", "VmapError"}),
    workload=_workload,
    witness="v1:0.0",
    executions={"pb": 5, "pct": 40},  # pct: seeds 0 to 3 need 3 at the median
)
