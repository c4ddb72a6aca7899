"""vm_map_ram: blocks that are handed out once, and used again only when dirty as a whole and flushed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from concmem.errors import BadArgument, BadArgumentType, BadFree, DoubleFree
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.vmap_block import VmapBlock, vmap_bbmap_bits

from .helpers import PAGE, alloc, on_cpu

START = 0xFFFF_C900_0000_0000
BITS = 128
"""Pages of a block in a range of 8 MiB with two CPUs: 2048 / 2 / 16, but at least 128."""

BLOCK = BITS * PAGE


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(cpus=2, memory="16M", vmalloc_size="8M") as machine:
        yield machine
        machine.verify()


@pytest.fixture
def pages(m: Machine) -> list[Page]:
    return [alloc(m) for _ in range(100)]


def map_ram(m: Machine, pages: list[Page], cpu: int = 0) -> int:
    address = on_cpu(m, m.vm_map_ram, pages, cpu=cpu)
    assert address is not None
    return address


def unmap_ram(m: Machine, address: int, count: int, cpu: int = 0) -> None:
    on_cpu(m, m.vm_unmap_ram, address, count, cpu=cpu)


def block_of(m: Machine, address: int) -> VmapBlock:
    vb = m.vm_areas.blocks.find_vmap_block(address)
    assert vb is not None
    return vb


def listed(m: Machine, cpu: int) -> list[int]:
    """Addresses of the blocks that a CPU allocates from."""
    return [vb.va.va_start for vb in m.vm_areas.blocks.vmap_block_queue.of(cpu).free]


@pytest.mark.parametrize(
    ("pages", "cpus", "bits"),
    [
        (1 << 33, 4, 1024),
        (1 << 33, 256, 1024),
        (1 << 18, 16, 1024),
        (1 << 18, 17, 512),
        (1 << 17, 16, 512),
        (3 << 17, 64, 256),
        (256, 1, 128),
    ],
)
def test_size_of_a_block(pages: int, cpus: int, bits: int) -> None:
    """1024 pages, less where addresses are scarce, at least 128, and a power of two."""
    assert vmap_bbmap_bits(pages, cpus) == bits


def test_small_requests_share_a_block(m: Machine, pages: list[Page]) -> None:
    """Requests follow each other, each rounded up to a power of two, without guard pages."""
    addresses = [map_ram(m, pages[:nr]) for nr in (1, 3, 5, 1, 64)]
    # 1, then 3 as 4, 5 as 8, 1, 64: a bump allocator does not align.
    assert [address - START for address in addresses] == [0, PAGE, 5 * PAGE, 13 * PAGE, 14 * PAGE]
    vb = block_of(m, START)
    assert (vb.free.value, vb.dirty.value, vb.used_map.bit_count()) == (BITS - 78, 0, 78)
    for i in range(5):
        m.memory.write(addresses[2] + i * PAGE, bytes([i + 1]))
    assert [m.memory.read(m.page_address(page), 1)[0] for page in pages[:5]] == [1, 2, 3, 4, 5]
    with pytest.raises(BadArgument, match="is not mapped"):
        m.memory.read(addresses[1] + 3 * PAGE, 1)  # only three of the four
    m.verify()


def test_a_cpu_uses_its_own_blocks(m: Machine, pages: list[Page]) -> None:
    """Each CPU has a block; an address may be unmapped on any CPU."""
    first, second = map_ram(m, pages[:1], cpu=0), map_ram(m, pages[:1], cpu=1)
    assert {first, second} == {START, START + BLOCK}
    assert listed(m, 0) == [first]
    assert listed(m, 1) == [second]
    unmap_ram(m, first, 1, cpu=1)
    unmap_ram(m, second, 1, cpu=0)
    m.verify()


def test_unmapped_pages_are_not_reused(m: Machine, pages: list[Page]) -> None:
    """However often a page is mapped and unmapped, each time it is at another address."""
    seen = set()
    for _ in range(BITS):
        address = map_ram(m, pages[:1])
        seen.add(address)
        unmap_ram(m, address, 1)
        m.verify()
    assert seen == {START + i * PAGE for i in range(BITS)}


def test_a_full_block_leaves_the_list(m: Machine, pages: list[Page]) -> None:
    """Nothing left to hand out: the next request makes a new block, the old one stays mapped."""
    addresses = [map_ram(m, pages[:64]) for _ in range(2)]
    assert listed(m, 0) == []
    assert block_of(m, START).free.value == 0
    other = map_ram(m, pages[:1])
    assert listed(m, 0) == [other] == [START + BLOCK]
    for address in addresses:
        unmap_ram(m, address, 64)
    # Fully dirty: freed, but not reused before a flush.
    assert m.vm_areas.blocks.find_vmap_block(START) is None
    assert m.vm_areas.space.vmap_lazy_nr.value == BITS
    assert map_ram(m, pages[:64]) == START + BLOCK + PAGE
    on_cpu(m, m.vm_unmap_aliases)
    assert m.vm_areas.space.vmap_lazy_nr.value == 0
    m.verify()
    assert map_ram(m, pages[:64]) == START  # no room for 64 in the second block


def test_a_block_too_full_for_one_request(m: Machine, pages: list[Page]) -> None:
    """A request that does not fit makes a block; smaller ones still go into the old one."""
    map_ram(m, pages[:64])
    map_ram(m, pages[:32])
    big = map_ram(m, pages[:64])
    assert big == START + BLOCK
    assert map_ram(m, pages[:32]) == START + 96 * PAGE
    assert listed(m, 0) == [START + BLOCK]


def test_flush_covers_full_blocks(m: Machine, pages: list[Page]) -> None:
    """
    After vm_unmap_aliases no TLB has anything that was unmapped before.

    Also in a full block, which is on no list, and still has another mapping.
    """
    first, second = map_ram(m, pages[:64]), map_ram(m, pages[:64])
    third = map_ram(m, pages[:10])
    unmap_ram(m, first, 64)
    unmap_ram(m, third, 10)

    def stale() -> list[int]:
        entries = m.vm_areas.page_table.entries(START, START + (8 << 20))
        return [address for address, entry in entries if entry < 0]

    assert len(stale()) == 74
    on_cpu(m, m.vm_unmap_aliases)
    assert stale() == []
    flushes = m.vm_areas.page_table.nr_flushes
    on_cpu(m, m.vm_unmap_aliases)  # nothing new: no flush
    assert m.vm_areas.page_table.nr_flushes == flushes
    unmap_ram(m, second, 64)
    m.verify()


def test_fragmented_blocks_are_purged(m: Machine, pages: list[Page]) -> None:
    """A block of dirty and few free pages is given up; a mostly free one only when all are short."""
    for nr in (64, 32, 16):
        unmap_ram(m, map_ram(m, pages[:nr]), nr)  # 16 of 128 free: less than a quarter
    kept = map_ram(m, pages[:1], cpu=1)
    unmap_ram(m, kept, 1)
    on_cpu(m, m.vm_unmap_aliases)
    assert m.vm_areas.blocks.find_vmap_block(START) is None
    assert listed(m, 0) == []
    assert listed(m, 1) == [kept]
    on_cpu(m, m.vm_areas.space.reclaim_and_purge_vmap_areas)
    assert listed(m, 1) == []
    space = m.vm_areas.space
    assert [(va.va_start, va.va_end) for va in space.free] == [(space.start, space.end)]


def test_blocks_make_room_for_others(pages: list[Page]) -> None:
    """When addresses are short, blocks without mappings are given up."""
    with Machine(cpus=1, memory="16M", vmalloc_size="1M") as m:
        page = alloc(m)
        unmap_ram(m, map_ram(m, [page]), 1)
        assert on_cpu(m, m.vmalloc, 200 * PAGE) is not None
        assert on_cpu(m, m.vm_map_ram, [page]) is None
        assert "vmalloc_node_range for size 524288 failed" in m.log.read()
        m.verify()


def test_large_requests(m: Machine, pages: list[Page]) -> None:
    """More than 64 pages get an area of their own, without a guard page."""
    address = map_ram(m, pages[:65])
    assert address == START
    assert map_ram(m, pages[:70]) == START + 65 * PAGE
    m.memory.write(address + 64 * PAGE, b"last")
    assert m.memory.read(m.page_address(pages[64]), 4) == b"last"
    m.verify()
    refuses(m, BadFree, address, 66)
    refuses(m, BadFree, address, 64)
    refuses(m, BadFree, address + PAGE, 65)
    unmap_ram(m, address, 65)
    refuses(m, DoubleFree, address, 65)


def refuses(m: Machine, error: type[Exception], address: Any, count: Any) -> None:
    before = m.statistics().vmalloc
    with pytest.raises(error):
        on_cpu(m, m.vm_unmap_ram, address, count)
    assert m.statistics().vmalloc == before
    m.verify()


def test_bad_unmap(m: Machine, pages: list[Page]) -> None:
    """Twice, from the middle, with another count, of another kind, or no address."""
    address = map_ram(m, pages[:6])
    other = map_ram(m, pages[:2])
    area = on_cpu(m, m.vmalloc, 3 * PAGE)
    for count in (5, 7, 8, 100):
        refuses(m, BadFree, address, count)
    refuses(m, BadFree, address + PAGE, 5)
    refuses(m, BadFree, address + 1, 6)
    refuses(m, DoubleFree, other + 10 * PAGE, 1)
    refuses(m, BadFree, area, 3)
    refuses(m, BadFree, area, 100)
    refuses(m, BadFree, 0, 1)
    refuses(m, BadFree, 1 << 70, 1)
    for wrong in (None, 1.0, "x", True):
        refuses(m, BadArgumentType, wrong, 1)
        refuses(m, BadArgumentType, address, wrong)
    refuses(m, BadArgument, address, 0)
    refuses(m, BadArgument, address, -1)
    unmap_ram(m, address, 6)
    refuses(m, DoubleFree, address, 6)
