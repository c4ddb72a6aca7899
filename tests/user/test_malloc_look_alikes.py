"""Sizes and addresses that only look right, and mappings over malloc's own pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from concmem.errors import BadArgument, BadArgumentType, ConcmemError
from concmem.machine import Machine
from concmem.mm.mman import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.units import PAGE_SIZE


@pytest.fixture
def m() -> Iterator[Machine]:
    """One CPU."""
    with Machine(cpus=1, memory="32M") as machine:
        yield machine


def on(m: Machine, fn: Any, *args: Any) -> Any:
    return m.submit(0, fn, *args).result(30)


@pytest.mark.parametrize("size", [-1, -1040, -1041, -2073, -2074])
def test_negative_sizes(m: Machine, size: int) -> None:
    """Also when chunks of any size are in the tcache."""
    p = m.process()
    chunks = [on(m, p.malloc, request) for request in range(0, 1033, 8)]
    for chunk in chunks:
        on(m, p.free, chunk)
    with pytest.raises(BadArgument, match=r"^size: "):
        on(m, p.malloc, size)
    m.verify()


@pytest.mark.parametrize("size", [True, 24.0, "24", None])
def test_sizes_of_other_types(m: Machine, size: Any) -> None:
    """Whatever the tcache has."""
    p = m.process()
    on(m, p.free, on(m, p.malloc, 24))
    with pytest.raises(BadArgumentType, match=r"^size: "):
        on(m, p.malloc, size)
    m.verify()


def test_an_address_that_is_a_float(m: Machine) -> None:
    """It equals one, but is none."""
    p = m.process()
    chunk = on(m, p.malloc, 24)
    assert float(chunk) == chunk
    with pytest.raises(ConcmemError):
        on(m, p.free, float(chunk))
    on(m, p.free, chunk)
    assert on(m, p.malloc, 24) == chunk
    m.verify()


def test_a_mapping_over_the_heap(m: Machine) -> None:
    """MAP_FIXED takes the page away: malloc reads what is there now, never the old page."""
    p, victim = m.process(), m.process()
    chunk = on(m, p.malloc, 24)
    on(m, p.free, chunk)
    page = chunk // PAGE_SIZE * PAGE_SIZE
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
    assert on(m, p.mmap, PAGE_SIZE, PROT_READ | PROT_WRITE, flags, page) == page
    other = on(m, victim.mmap, 64 * PAGE_SIZE)
    for offset in range(0, 64 * PAGE_SIZE, PAGE_SIZE):
        on(m, victim.write, other + offset, b"victim!!" * (PAGE_SIZE // 8))
    try:
        on(m, p.malloc, 24)
    except ConcmemError:
        pass  # the program has destroyed its heap
    for offset in range(0, 64 * PAGE_SIZE, PAGE_SIZE):
        assert on(m, victim.read, other + offset, PAGE_SIZE) == b"victim!!" * (PAGE_SIZE // 8)
