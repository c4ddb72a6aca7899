"""validate_vmalloc finds what was planted, says which rule and where, and only looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concmem.errors import VmapError
from concmem.machine import Machine
from concmem.mm.debug.validate_vmalloc import validate_vmalloc
from concmem.mm.page import Page
from concmem.mm.vmap_area import VmapArea, VmapTree

from .helpers import PAGE, alloc, on_cpu

START = 0xFFFF_C900_0000_0000


class Sample:
    """A machine with one of everything: areas, holes, a block, lazy and pooled areas."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.space = m.vm_areas.space
        self.table = m.vm_areas.page_table
        self.pages: list[Page] = [alloc(m) for _ in range(70)]
        areas = [on_cpu(m, m.vmalloc, nr * PAGE) or 0 for nr in (1, 2, 300, 3, 4, 5)]
        for address in areas[:3]:
            on_cpu(m, m.vfree, address)
        on_cpu(m, m.vm_unmap_aliases)  # the first two go to a pool, the third to the free tree
        on_cpu(m, m.vfree, areas[3])
        self.lazy = areas[3]
        self.area, self.other = areas[4:]
        self.vmap = on_cpu(m, m.vmap, self.pages[:3]) or 0
        self.large = on_cpu(m, m.vm_map_ram, self.pages) or 0
        self.ram = on_cpu(m, m.vm_map_ram, self.pages[:3]) or 0
        gone = on_cpu(m, m.vm_map_ram, self.pages[:4]) or 0
        on_cpu(m, m.vm_unmap_ram, gone, 4)
        block = m.vm_areas.blocks.find_vmap_block(self.ram)
        assert block is not None
        self.block = block

    def va(self, address: int) -> VmapArea:
        va = self.space.find_vmap_area(address)
        assert va is not None
        return va

    def vm(self, address: int) -> Any:
        return self.va(address).vm

    def busy(self, address: int) -> VmapTree:
        return self.space.addr_to_node(address).busy

    def entry(self, address: int, value: int | None) -> None:
        """Change an entry of the page tables behind their back."""
        table = self.table._table(address >> 12 & (1 << 36) - 1, create=True)
        assert table is not None
        table[address >> 12 & 511] = value

    def lazy_area(self) -> VmapArea:
        return next(va for node in self.space.nodes for va in node.lazy)


@pytest.fixture
def s() -> Iterator[Sample]:
    with Machine(cpus=2, memory="16M", vmalloc_size="64M") as m:
        sample = Sample(m)
        m.verify()
        yield sample


def shrink(va: VmapArea) -> None:
    va.va_end -= PAGE


def swap_tables(s: Sample) -> None:
    """The block under another block's number."""
    for cpu in (0, 1):
        blocks = s.m.vm_areas.blocks.vmap_block_queue.of(cpu).vmap_blocks
        if s.block in blocks.values():
            (number,) = blocks
            blocks[number + 2] = blocks.pop(number)


def split(s: Sample) -> None:
    """One free area as two."""
    low, high = START + (60 << 20), START + (61 << 20)
    s.space.free.clip(list(s.space.free)[-1], low, high)
    s.space.free.insert(VmapArea(low, high))


def free_page(s: Sample, page: Page) -> None:
    on_cpu(s.m, s.m.free_pages, page)


CORRUPTIONS: dict[str, tuple[Callable[[Sample], Any], str]] = {
    # tiling
    "lost": (lambda s: s.busy(s.area).remove(s.va(s.area)), "is in no area: between .* and .*"),
    "lost at the end": (
        lambda s: s.space.free.remove(list(s.space.free)[-1]),
        "is in no area: beh",
    ),
    "twice": (
        lambda s: s.space.nodes[0].lazy.append(VmapArea(s.area, s.area + PAGE)),
        "is in two areas: between .*",
    ),
    "short": (lambda s: shrink(s.va(s.area)), "is in no area"),
    "wrong node": (
        lambda s: s.space.nodes[1].busy.insert(VmapArea(START - 16 * PAGE * 2, START - PAGE)),
        "is busy in node 1, which it does not fall to",
    ),
    "wrong pool": (
        lambda s: s.space.nodes[0].pool.setdefault(9, []).append(s.space.nodes[0].pool[2].pop()),
        "is in node 0's pool of 9 pages",
    ),
    # trees
    "count": (
        lambda s: setattr(s.space.free, "_nr", 9),
        "free tree: 9 areas counted, but [0-9]+ in it",
    ),
    "largest": (
        lambda s: setattr(s.space.free.root, "subtree_max_size", 1),
        "free tree: .* says that 0x1 is the largest size below it",
    ),
    "height": (lambda s: setattr(s.space.free.root, "height", 7), "free tree: .* is not balanced"),
    "order": (
        lambda s: setattr(next(iter(s.space.free)), "va_end", START + (1 << 30)),
        "free tree: .*(is not behind|largest)",
    ),
    "not joined": (split, "free tree: .* is not joined"),
    # free means flushed
    "free and mapped": (
        lambda s: s.entry(START + (63 << 20), 5),
        "is free, but .* is mapped to pfn 0x5",
    ),
    "free and stale": (lambda s: s.entry(START + (63 << 20), ~5), "is free, but .* is not flushed"),
    "pooled and stale": (lambda s: s.entry(START, ~5), "is free, but .* is not flushed"),
    "lazy and mapped": (lambda s: s.entry(s.lazy, 5), "was freed, but .* is mapped"),
    # areas
    "not mapped": (lambda s: s.entry(s.area + PAGE, None), "is not mapped"),
    "stale": (lambda s: s.entry(s.area + PAGE, ~5), "is not mapped"),
    "wrong page": (
        lambda s: s.entry(s.area, s.pages[0].pfn),
        "is mapped to pfn .* instead of",
    ),
    "guard page": (
        lambda s: s.entry(s.area + 4 * PAGE, s.pages[0].pfn),
        "a guard page or unused, has pfn",
    ),
    "stale guard page": (
        lambda s: s.entry(s.area + 4 * PAGE, ~5),
        "a guard page or unused, has a stale pfn 0x5",
    ),
    "vmap guard page": (lambda s: s.entry(s.vmap + 3 * PAGE, 5), "a guard page or unused"),
    "free page of vmalloc": (
        lambda s: free_page(s, s.vm(s.area).pages[0]),
        "is mapped to pfn .*, which is free",
    ),
    "free page of vmap": (lambda s: free_page(s, s.pages[1]), "which is free"),
    "free page of ram": (lambda s: free_page(s, s.pages[69]), "which is free"),
    "large ram": (lambda s: s.entry(s.large + 69 * PAGE, None), "is not mapped"),
    "uninitialized": (
        lambda s: setattr(s.vm(s.area).flags, "value", 0x22),
        "a guard page or unused, has pfn",
    ),
    "pages": (lambda s: s.vm(s.area).pages.pop(), "nr_pages 4, but 3 pages in 0x5000 bytes"),
    "nr_pages": (lambda s: setattr(s.vm(s.area), "nr_pages", 5), "nr_pages 5, but 4 pages"),
    "address": (lambda s: setattr(s.vm(s.area), "addr", 4096), "its vm_struct says 0x1000"),
    "size": (lambda s: setattr(s.vm(s.area), "size", 4096), "its vm_struct says .*, 0x1000 bytes"),
    # blocks
    "free": (lambda s: setattr(s.block.free, "value", 7), "free 7, dirty 4 and used 4 are not"),
    "dirty": (lambda s: setattr(s.block.dirty, "value", 9), "dirty 9 and used 4 are not"),
    "used_map": (lambda s: setattr(s.block, "used_map", 0xF00), "pages are used that were never"),
    "requests": (lambda s: s.block.requests.clear(), "used_map 0xf, but the requests are 0x0"),
    "moved": (lambda s: setattr(s.block, "used_map", 0xF0), "used_map 0xf0, but the requests"),
    "off the list": (
        lambda s: s.m.vm_areas.blocks._unlist(s.block),
        "free pages and is not on the list",
    ),
    "full on the list": (
        lambda s: setattr(s.block.free, "value", 0),
        "has 0 free pages and is on the list",
    ),
    "wrong cpu": (lambda s: setattr(s.block, "cpu", 1), "is on the list of cpu 0"),
    "torn list": (lambda s: setattr(s.block, "next", None), "vmap blocks of cpu 0: list corr"),
    "in no table": (
        lambda s: [
            s.m.vm_areas.blocks.vmap_block_queue.of(cpu).vmap_blocks.clear() for cpu in (0, 1)
        ],
        "but in no table",
    ),
    "wrong number": (swap_tables, "is not found by its address"),
    "request not mapped": (lambda s: s.entry(s.ram + PAGE, None), "page 1 is in use, but not map"),
    "mapped without request": (
        lambda s: s.entry(s.ram + 3 * PAGE, s.pages[0].pfn),
        "is mapped, but not in use",
    ),
    "stale in use": (
        lambda s: s.entry(s.ram + PAGE, ~5),
        "is stale, but not in the range to be flushed",
    ),
    "dirty range": (
        lambda s: setattr(s.block, "dirty_max", s.block.dirty_min),
        "is stale, but not in the range to be flushed",
    ),
    "free page in a block": (
        lambda s: [s.m.submit(0, s.m.vunmap, s.vmap).result(50), free_page(s, s.pages[2])],
        "which is free",
    ),
    # counters
    "vmap_lazy_nr": (
        lambda s: s.space.vmap_lazy_nr.inc(),
        "vmap_lazy_nr 5, but 4 pages are lazy",
    ),
    "nr_vmalloc_pages": (
        lambda s: s.m.vm_areas.nr_vmalloc_pages.dec(),
        "nr_vmalloc_pages 8, but areas have 9",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_found(s: Sample, name: str) -> None:
    """Each rule has a message of its own; looking changes nothing, so it says the same twice."""
    corrupt, match = CORRUPTIONS[name]
    corrupt(s)
    with pytest.raises(VmapError, match=match) as caught:
        s.m.runtime.stop_machine(lambda: validate_vmalloc(s.m.vm_areas))
    with pytest.raises(VmapError) as again:
        s.m.runtime.stop_machine(lambda: validate_vmalloc(s.m.vm_areas))
    assert str(again.value) == str(caught.value)


def test_verify_calls_it(s: Sample) -> None:
    """Machine.verify() is what users call."""
    s.m.vm_areas.nr_vmalloc_pages.inc()
    with pytest.raises(VmapError, match="nr_vmalloc_pages 10"):
        s.m.verify()


def test_block_in_no_table_and_no_list(s: Sample) -> None:
    """An area that says it is a block must be one."""
    va = s.va(s.large)
    va.flags |= 2
    with pytest.raises(VmapError, match="is of a vmap_block that is in no table"):
        s.m.verify()
