"""Page blocks that hold pages of another type: counted as they are made, one by one."""

from __future__ import annotations

from concmem import Machine
from concmem.mm.debug.mixed_blocks import mixed_pageblocks
from concmem.mm.gfp import GFP_KERNEL, MOVABLE
from concmem.mm.migratetype import CMA, RECLAIMABLE, UNMOVABLE
from concmem.mm.migratetype import MOVABLE as MOVABLE_TYPE
from concmem.units import PAGEBLOCK_ORDER


def mixed(m: Machine) -> int:
    return m.runtime.stop_machine(lambda: sum(mixed_pageblocks(m.mem_map).values()))


def test_pages_of_the_type_of_their_block_mix_nothing() -> None:
    """At boot, and with allocations of one type."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        assert mixed(m) == 0
        m.run([lambda: [m.alloc_pages(0, GFP_KERNEL | MOVABLE) for _ in range(20)]])
        assert mixed(m) == 0


def test_each_block_counts_once() -> None:
    """However many pages are strangers in it, until the last one has gone."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        first, second = m.run(
            [lambda: [m.alloc_pages(0, GFP_KERNEL) for _ in range(2)]]
        )[0] or (None, None)  # fmt: skip
        assert first is not None
        assert second is not None
        block = first.pfn >> PAGEBLOCK_ORDER
        assert second.pfn >> PAGEBLOCK_ORDER == block
        types = m.mem_map.pageblock_types
        types[block] = UNMOVABLE
        assert mixed(m) == 0
        for stranger in (MOVABLE_TYPE, RECLAIMABLE):
            types[block] = stranger
            assert mixed(m) == 1
        types[block] = CMA  # there to be lent
        assert mixed(m) == 0
        types[block] = MOVABLE_TYPE
        m.run([lambda: m.free_pages(first)])
        assert mixed(m) == 1
        m.run([lambda: m.free_pages(second)])
        assert mixed(m) == 0


def test_a_large_block_mixes_all_that_it_covers() -> None:
    """Two page blocks in one allocation."""
    with Machine(cpus=1, memory="16M", pagesets=False) as m:
        (page,) = m.run([lambda: m.alloc_pages(PAGEBLOCK_ORDER + 1, GFP_KERNEL)])
        assert page is not None
        first = page.pfn >> PAGEBLOCK_ORDER
        m.mem_map.pageblock_types[first : first + 2] = bytes([MOVABLE_TYPE, MOVABLE_TYPE])
        assert mixed(m) == 2
