"""Page blocks that go offline: nobody gets them, until they are back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.migratetype import MOVABLE
from concmem.units import PAGEBLOCK_NR_PAGES

from .helpers import alloc, free, on_cpu


@pytest.fixture(params=["free", "jitter"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(cpus=2, memory="64M", runtime=request.param, seed=3) as machine:
        yield machine


def nr_free(m: Machine) -> int:
    return sum(zone.nr_free_pages_exact() for zone in m.zones)


@pytest.mark.parametrize("start_block", [2, 3, 30])  # half of a larger block, and one never used
@pytest.mark.parametrize("nr_blocks", [1, 2])
def test_there_and_back(m: Machine, start_block: int, nr_blocks: int) -> None:
    """The free pages are less by the range, then as before."""
    on_cpu(m, m.drain_all_pages)
    before = nr_free(m)
    types = bytes(m.mem_map.pageblock_types)
    start, nr = start_block * PAGEBLOCK_NR_PAGES, nr_blocks * PAGEBLOCK_NR_PAGES
    assert on_cpu(m, m.offline_pages, start, nr)
    m.verify()
    assert nr_free(m) == before - nr
    assert bytes(m.mem_map.pageblock_types) == types
    assert not on_cpu(m, m.offline_pages, start, PAGEBLOCK_NR_PAGES)
    on_cpu(m, m.online_pages, start, nr)
    m.verify()
    assert nr_free(m) == before


def test_nobody_gets_a_page_that_is_offline(m: Machine) -> None:
    """Not even who takes everything."""
    start = 4 * PAGEBLOCK_NR_PAGES
    assert on_cpu(m, m.offline_pages, start, PAGEBLOCK_NR_PAGES)
    pages = []
    while (page := on_cpu(m, m.alloc_pages, 9, 0x2000)) is not None:
        pages.append(page)
    assert pages
    assert start not in {page.pfn for page in pages}
    for page in pages:
        free(m, page, 9)
    m.verify()


def test_a_page_that_is_allocated_keeps_its_block_online(m: Machine) -> None:
    """Until it is freed; where it is cached then does not matter."""
    page = alloc(m)
    others = []
    while page.pfn < PAGEBLOCK_NR_PAGES:  # the first block has the page that x86 keeps
        others.append(page)
        page = alloc(m)
    start = page.pfn & -PAGEBLOCK_NR_PAGES
    before = m.mem_map.pageblock_type(start)
    assert not on_cpu(m, m.offline_pages, start, PAGEBLOCK_NR_PAGES)
    m.verify()
    assert m.mem_map.pageblock_type(start) == before
    for other in (*others, page):
        free(m, other)
    assert on_cpu(m, m.offline_pages, start, PAGEBLOCK_NR_PAGES)
    m.verify()


def test_bad_ranges(m: Machine) -> None:
    nr = PAGEBLOCK_NR_PAGES
    for start, count in (
        (nr + 1, nr),
        (nr, nr - 1),
        (nr, 0),
        (0, nr),
        (-nr, nr),
        (31 * nr, 2 * nr),
    ):
        with pytest.raises(BadArgument, match=r"^(start_)?pfn: "):
            on_cpu(m, m.offline_pages, start, count)
    with pytest.raises(BadArgument, match="is not offline"):
        on_cpu(m, m.online_pages, nr, nr)
    assert m.mem_map.pageblock_types[1] == MOVABLE
    m.verify()
