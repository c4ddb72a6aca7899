"""Page tables against a dictionary, and memory behind them byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

import pytest

from concmem.errors import BadArgument, BadPageTable
from concmem.mm.memory import Memory
from concmem.mm.page_table import PageTable
from concmem.runtime.free import FreeRuntime

PAGE = 4096
START = 0xFFFF_C900_0000_0000
EDGES = [
    START,
    START + 511 * PAGE,  # the end of a table
    START + (512 * 512 - 2) * PAGE,  # of two levels
    START + (512**3 - 3) * PAGE,  # of three
    START + (32 << 40) - 8 * PAGE,
]


@pytest.fixture
def rt() -> Iterator[FreeRuntime]:
    runtime = FreeRuntime(1)
    yield runtime
    runtime.shutdown()


@pytest.fixture
def table(rt: FreeRuntime) -> PageTable:
    return PageTable(rt)


@pytest.fixture
def memory(table: PageTable) -> Iterator[Memory]:
    memory = Memory(64 * PAGE)
    memory.page_table = table
    yield memory
    memory.close()


@pytest.mark.parametrize("address", EDGES)
def test_map_walk_unmap_flush(table: PageTable, address: int) -> None:
    """Mapped pages are found, their neighbours are not; unmapped ones neither."""
    table.map(address, [7, 3, 9, 3, 0])
    assert [table.walk(address + i * PAGE + 5) for i in range(-1, 6)] == [None, 7, 3, 9, 3, 0, None]
    table.unmap(address + PAGE, 2 * PAGE)
    assert [table.walk(address + i * PAGE) for i in range(5)] == [7, None, None, 3, 0]
    assert list(table.entries(address, address + 5 * PAGE)) == [
        (address, 7),
        (address + PAGE, ~3),
        (address + 2 * PAGE, ~9),
        (address + 3 * PAGE, 3),
        (address + 4 * PAGE, 0),
    ]
    table.flush_tlb_kernel_range(address + PAGE, address + 2 * PAGE)
    table.map(address + PAGE, [11])
    with pytest.raises(BadPageTable, match=r"mapped again before the TLBs were flushed.*0x9"):
        table.map(address + 2 * PAGE, [12])
    table.flush_tlb_kernel_range(0, 1 << 64)
    table.map(address + 2 * PAGE, [12])
    assert [table.walk(address + i * PAGE) for i in range(5)] == [7, 11, 12, 3, 0]
    assert table.nr_flushes == 2


def test_nothing_changes_when_a_page_is_in_use(table: PageTable) -> None:
    """A mapping that meets another one in the next table is refused as a whole."""
    address = START + 510 * PAGE
    table.map(address + 3 * PAGE, [5])
    with pytest.raises(BadPageTable, match="is mapped already, to pfn 0x5"):
        table.map(address, [1, 2, 3, 4])
    assert list(table.entries(START, START + 600 * PAGE)) == [(address + 3 * PAGE, 5)]


def test_unmapping_nothing_is_nothing(table: PageTable) -> None:
    """A range without entries, and without tables, has nothing to flush."""
    table.unmap(START, 1 << 40)
    assert table._unflushed == []
    assert table.nr_tables == 0


def test_random_ranges(table: PageTable) -> None:
    """Random maps, unmaps and flushes end as in a dictionary of pages."""
    rng = Random(3)
    base = START + 500 * PAGE
    model: dict[int, int] = {}
    for _ in range(2000):
        first, nr = rng.randrange(40), rng.randrange(1, 8)
        pages = range(first, first + nr)
        address = base + first * PAGE
        choice = rng.random()
        if choice < 0.5:
            pfns = [rng.randrange(1000) for _ in pages]
            if any(page in model for page in pages):
                with pytest.raises(BadPageTable):
                    table.map(address, pfns)
            else:
                table.map(address, pfns)
                model |= dict(zip(pages, pfns, strict=True))
        elif choice < 0.8:
            table.unmap(address, nr * PAGE)
            model |= {page: ~model[page] for page in pages if model.get(page, -1) >= 0}
        else:
            table.flush_tlb_kernel_range(address, address + nr * PAGE)
            for page in pages:
                if model.get(page, 0) < 0:
                    del model[page]
        expected = [(base + page * PAGE, model[page]) for page in sorted(model)]
        assert list(table.entries(base, base + 50 * PAGE)) == expected


def test_memory_goes_across_page_borders(table: PageTable, memory: Memory) -> None:
    """Bytes written at virtual addresses are in the right physical pages, and read back."""
    table.map(START, [5, 2, 9])
    data = bytes(Random(1).randbytes(2 * PAGE))
    memory.write(START + 100, data)
    assert memory.read(START + 100, len(data)) == data
    direct = 0xFFFF_8880_0000_0000
    assert memory.read(direct + 5 * PAGE + 100, PAGE - 100) == data[: PAGE - 100]
    assert memory.read(direct + 2 * PAGE, PAGE) == data[PAGE - 100 : 2 * PAGE - 100]
    assert memory.read(direct + 9 * PAGE, 100) == data[2 * PAGE - 100 :]
    memory.write_u64(START + PAGE - 3, 0x0123_4567_89AB_CDEF)
    assert memory.read_u64(START + PAGE - 3) == 0x0123_4567_89AB_CDEF
    memory.fill(START + PAGE - 10, 20, 0xAA)
    assert memory.read(START + PAGE - 11, 22)[1:-1] == b"\xaa" * 20


@pytest.mark.parametrize(
    ("offset", "nr_bytes"), [(-1, 1), (-1, 2), (2 * PAGE, 1), (2 * PAGE - 1, 2), (5 * PAGE, 8)]
)
def test_memory_that_is_not_mapped(
    table: PageTable, memory: Memory, offset: int, nr_bytes: int
) -> None:
    """An access that is not mapped as a whole is refused, and writes nothing."""
    table.map(START + PAGE, [5, 2])
    address = START + PAGE + offset
    match = "^address: .*(is not mapped|outside of memory)"
    with pytest.raises(BadArgument, match=match):
        memory.read(address, nr_bytes)
    with pytest.raises(BadArgument, match=match):
        memory.write(address, b"x" * nr_bytes)
    with pytest.raises(BadArgument, match=match):
        memory.fill(address, nr_bytes, 1)
    assert not any(memory.read(START + PAGE, 2 * PAGE))


@pytest.mark.parametrize("address", [0, PAGE, START - 1, START + (32 << 40), 1 << 64, -1])
def test_addresses_of_no_range(memory: Memory, address: int) -> None:
    """What is neither direct map nor vmalloc range is outside of memory."""
    with pytest.raises(BadArgument, match=r"^address: .* is outside of memory"):
        memory.read(address, 1)
    with pytest.raises(BadArgument, match=r"^address: .* is outside of memory"):
        memory.write(address, b"1")


def test_negative_size(table: PageTable, memory: Memory) -> None:
    """Less than no bytes are refused, also where something is mapped."""
    table.map(START, [5])
    with pytest.raises(BadArgument, match=r"^nr_bytes: "):
        memory.read(START, -1)
    with pytest.raises(BadArgument, match=r"^nr_bytes: "):
        memory.fill(START, -1)


def test_tables_are_made_once(rt: FreeRuntime) -> None:
    """CPUs that map neighbouring pages at the same time share the tables and lose no entry."""
    runtime = FreeRuntime(4)
    try:
        table = PageTable(runtime)

        def body(cpu: int) -> None:
            for page in range(cpu, 4096, 4):
                table.map(START + page * PAGE, [page])

        runtime.run([partial(body, cpu) for cpu in range(4)])
        assert [pfn for _, pfn in table.entries(START, START + 4096 * PAGE)] == list(range(4096))
        assert table.nr_tables == 8
    finally:
        runtime.shutdown()
