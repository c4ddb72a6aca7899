"""
Page blocks that hold pages of another migratetype than theirs.

What a kernel with CONFIG_PAGE_OWNER shows in ``/proc/pagetypeinfo`` as "Number of mixed blocks". Here only
blocks of the types that are to be kept apart count: the high-atomic reserve and CMA are there to be lent.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from concmem.mm.migratetype import PCPTYPES
from concmem.units import PAGEBLOCK_NR_PAGES, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from concmem.mm.mem_map import MemMap
    from concmem.mm.zone import Zone


def mixed_pageblocks(mem_map: MemMap) -> Mapping[Zone, int]:
    """
    How many of each zone's page blocks are mixed; a zone without any is not in it.

    The caller has parked all CPUs.
    """
    mixed: dict[int, Zone] = {}
    types = mem_map.pageblock_types
    for page in mem_map.pages.values():
        if not page.is_allocated():
            continue
        first = page.pfn >> PAGEBLOCK_ORDER
        nr_blocks = max(1, (1 << max(0, page.order)) // PAGEBLOCK_NR_PAGES)
        for block in range(first, first + nr_blocks):
            if page.migratetype != types[block] < PCPTYPES:
                mixed[block] = page.zone
    return Counter(mixed.values())
