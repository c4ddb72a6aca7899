"""
Planted bugs of vmalloc are found by real threads, too. (Under control: tests/bugs.)

Odds are measured on 2 host cores under jitter.
"""

from __future__ import annotations

from random import Random

import pytest

from concmem.bugs import find_bug
from concmem.errors import ConcmemError, VmapError
from concmem.machine import Machine
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_area import VmapArea
from concmem.mm.vmap_block import VmapBlocks
from concmem.mm.vmap_node import VmapNode
from concmem.mm.vmap_space import VmapSpace

from .helpers import PAGE, alloc, on_cpu

START = 0xFFFF_C900_0000_0000


class NoFlush(VmapSpace):
    """Makes addresses free without a flush."""

    def _flush_and_return(
        self, start: int, end: int, stolen: list[tuple[VmapNode, list[VmapArea]]], populate: bool
    ) -> None:
        for node, areas in stolen:
            self._purge_vmap_node(node, areas, populate)


class LateFlush(NoFlush):
    """Flushes after the addresses are free."""

    def _flush_and_return(
        self, start: int, end: int, stolen: list[tuple[VmapNode, list[VmapArea]]], populate: bool
    ) -> None:
        super()._flush_and_return(start, end, stolen, populate)
        self.page_table.flush_tlb_kernel_range(self.start, self.end)


ReleaseFirst = find_bug("vunmap-release-first").replaces[VmapSpace]
FreeListsOnly = find_bug("full-block-not-flushed").replaces[VmapBlocks]
ShowUnfinished = find_bug("vmlist-before-pages").replaces[Vmalloc]


def stress(m: Machine, operations: int) -> None:
    """Each CPU makes and frees small areas with stamps and purges now and then; then verify()."""

    def body(cpu: int) -> None:
        rng = Random(cpu)
        mine: list[tuple[int, bytes]] = []
        for number in range(operations):
            address = m.vmalloc(PAGE)
            assert address is not None
            stamp = bytes([cpu, number % 256])
            m.memory.write(address, stamp)
            mine.append((address, stamp))
            while len(mine) > 3 or (mine and rng.random() < 0.4):
                address, stamp = mine.pop(rng.randrange(len(mine)))
                assert m.memory.read(address, 2) == stamp, f"{address:#x} has two owners"
                m.vfree(address)
            if rng.random() < 0.3:
                m.vm_unmap_aliases()

    m.run([lambda cpu=cpu: body(cpu) for cpu in range(m.runtime.nr_cpus)])
    m.verify()


def is_found(seed: int, classes: dict[type, type]) -> bool:
    """Whether one run under jitter reports something."""
    with Machine(cpus=3, memory="16M", runtime="jitter", seed=seed, classes=classes) as m:
        try:
            stress(m, 150)
        except (ExceptionGroup, ConcmemError):
            return True
        return False


@pytest.mark.parametrize("planted", [LateFlush, ReleaseFirst])
def test_races_are_found(planted: type) -> None:
    """
    Reuse before the flush, and a clean-up after the release, show as stale or lost translations.

    Odds: with 60 operations 7 and 8 of 10 runs report; with these, 40 of 40 did, and 40 of 40
    without a GIL. If a run missed with p = 0.5, sixty misses in a row would come with p < 1e-18.
    """
    assert any(is_found(seed, {VmapSpace: planted}) for seed in range(60))


def test_correct_code_is_not_reported() -> None:
    """The same runs on the real classes report nothing."""
    assert not any(is_found(seed, {}) for seed in range(8))


def test_races_need_other_cpus() -> None:
    """On one CPU, late is early enough."""
    for planted in (LateFlush, ReleaseFirst):
        with Machine(cpus=1, memory="16M", runtime="jitter", classes={VmapSpace: planted}) as m:
            stress(m, 60)


def test_no_flush_is_found_at_once() -> None:
    """verify() sees that free addresses may still be in a TLB; no race is needed."""
    with Machine(cpus=1, memory="16M", classes={VmapSpace: NoFlush}) as m:
        on_cpu(m, m.vfree, on_cpu(m, m.vmalloc, PAGE))
        m.verify()  # lazy, so all is well
        on_cpu(m, m.vm_unmap_aliases)
        with pytest.raises(VmapError, match=f"is free, but {START:#x} is not flushed"):
            m.verify()


def test_full_blocks_that_are_not_flushed() -> None:
    """A page unmapped in a full block stays in a TLB although everything was to be flushed."""
    for blocks, expected in ((FreeListsOnly, 64), (VmapBlocks, 0)):
        with Machine(cpus=1, memory="16M", vmalloc_size="8M", classes={VmapBlocks: blocks}) as m:
            pages = [alloc(m) for _ in range(64)]
            bits = m.vm_areas.blocks.bits
            mapped = [on_cpu(m, m.vm_map_ram, pages) for _ in range(bits // 64)]
            on_cpu(m, m.vm_unmap_ram, mapped[0], 64)
            on_cpu(m, m.vm_unmap_aliases)
            stale = [
                e for _, e in m.vm_areas.page_table.entries(START, START + PAGE * bits) if e < 0
            ]
            assert len(stale) == expected


@pytest.mark.parametrize(("cls", "seen"), [(ShowUnfinished, True), (Vmalloc, False)])
def test_areas_that_are_not_complete(cls: type, seen: bool) -> None:
    """A reader of vmallocinfo that does not look at VM_UNINITIALIZED shows half an area."""
    with Machine(cpus=2, memory="16M", classes={Vmalloc: cls}) as m:
        numa = []
        allocate = m.page_alloc.alloc_pages

        def alloc_pages(*args: int) -> object:
            stats = m.statistics().vmalloc
            assert stats is not None
            numa.append(stats.areas[0].numa)
            return allocate(*args)

        m.page_alloc.alloc_pages = alloc_pages  # type: ignore[assignment]
        on_cpu(m, m.vmalloc, 3 * PAGE)
        assert numa == ([(), ((0, 1),), ((0, 2),)] if seen else [()] * 3)
