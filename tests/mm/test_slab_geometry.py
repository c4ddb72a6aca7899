"""How objects lie in slabs: against a live kernel's caches, and against the rules written naively."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.slab_flags import (
    SLAB_HWCACHE_ALIGN,
    SLAB_NO_MERGE,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.slab_geometry import calculate_geometry

from .helpers import on_cpu

DATA = Path(__file__).parent.parent / "data" / "slab-linux-6.18-2cpus.tsv"


class Row(NamedTuple):
    """One cache of the live kernel."""

    name: str
    object_size: int
    align: int
    hwcache_align: int
    reclaim_account: int
    destroy_by_rcu: int
    slab_size: int
    objs_per_slab: int
    order: int
    min_partial: int
    cpu_partial: int

    def pointer_outside(self) -> bool:
        """Whether the distance of objects shows that the free pointer lies after them."""
        words = -(-self.object_size // 8) * 8
        return -(-words // self.align) * self.align != self.slab_size


def rows() -> list[Row]:
    """The live kernel's caches."""
    lines = [line for line in DATA.read_text().splitlines() if not line.startswith("#")]
    assert lines[0].split("\t") == list(Row._fields)
    return [
        Row(name, *map(int, numbers)) for name, *numbers in (line.split("\t") for line in lines[1:])
    ]


@pytest.fixture(scope="module")
def m() -> Iterator[Machine]:
    """As many CPUs as the live kernel had."""
    with Machine(cpus=2, memory="8M") as machine:
        yield machine


def nothing(_address: int) -> None:
    """A constructor."""


def like(m: Machine, row: Row) -> KmemCache:
    """A cache made as that of the live kernel was."""
    flags = SLAB_NO_MERGE
    flags |= SLAB_HWCACHE_ALIGN if row.hwcache_align else 0
    flags |= SLAB_RECLAIM_ACCOUNT if row.reclaim_account else 0
    flags |= SLAB_TYPESAFE_BY_RCU if row.destroy_by_rcu else 0
    ctor = nothing if row.pointer_outside() and not row.destroy_by_rcu else None
    # What hwcache_align makes of the alignment is part of the test.
    align = 0 if row.hwcache_align else row.align
    name = f"live{row.name}"
    return on_cpu(m, m.kmem_cache_create, name, row.object_size, align, flags, ctor)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_as_the_live_kernel(m: Machine, row: Row) -> None:
    """Size, alignment, objects, order and both limits of every cache of the live kernel."""
    s = like(m, row)
    got = (s.object_size, s.align, s.size, s.objs_per_slab, s.order, s.min_partial, s.cpu_partial)
    assert got == (
        row.object_size,
        row.align,
        row.slab_size,
        row.objs_per_slab,
        row.order,
        row.min_partial,
        row.cpu_partial,
    )
    on_cpu(m, s.destroy)


def test_there_is_something_of_everything() -> None:
    """The data has caches of every kind, so that comparing them says something."""
    data = rows()
    assert len(data) >= 75
    assert any(row.pointer_outside() and not row.destroy_by_rcu for row in data)
    assert any(row.destroy_by_rcu for row in data)
    assert {row.order for row in data} == {0, 1, 2, 3, 4}
    assert {row.cpu_partial for row in data} == {6, 24, 52, 120}


@pytest.mark.parametrize(
    ("name", "order", "objects"),
    [
        ("kmalloc-8", 0, 512),
        ("kmalloc-64", 0, 64),
        ("kmalloc-96", 0, 42),
        ("kmalloc-192", 0, 21),
        ("kmalloc-256", 0, 16),
        ("kmalloc-512", 1, 16),
        ("kmalloc-1k", 2, 16),
        ("kmalloc-2k", 3, 16),
        ("kmalloc-4k", 3, 8),
        ("kmalloc-8k", 3, 4),
    ],
)
def test_kmalloc_caches_on_two_cpus(m: Machine, name: str, order: int, objects: int) -> None:
    """The size classes, as /proc/slabinfo shows them on two CPUs."""
    s = m.slab.find(name)
    assert (s.order, s.objs_per_slab) == (order, objects)


@pytest.mark.parametrize(
    ("size", "has_ctor", "order", "objects"),
    [(5824, False, 3, 5), (616, True, 1, 13), (192, False, 0, 21)],
)
def test_well_known_caches(size: int, has_ctor: bool, order: int, objects: int) -> None:
    """task_struct, inode_cache and dentry on two CPUs."""
    geometry = calculate_geometry(size, 0, 0, has_ctor, 2)
    assert geometry is not None
    assert (geometry.order, geometry.objects) == (order, objects)


@pytest.mark.parametrize(
    ("cpus", "objects"), [(1, 8), (2, 12), (4, 16), (8, 20), (16, 24), (64, 32)]
)
def test_more_cpus_want_more_objects(cpus: int, objects: int) -> None:
    """A slab of 1-byte waste-free objects holds what the number of CPUs asks for, rounded up to pages."""
    size = 1024
    geometry = calculate_geometry(size, 0, 0, False, cpus)
    assert geometry is not None
    pages = 1
    while pages * 4096 < objects * size and pages < 8:
        pages *= 2
    assert geometry.objects == pages * 4


# -- the rules once more, naively


def fls(number: int) -> int:
    """The highest bit set, counted from 1."""
    bits = 0
    while number:
        bits += 1
        number //= 2
    return bits


def naive_order(size: int, cpus: int) -> int:
    """The order of a slab, step by step."""
    wanted = 4 * (fls(cpus) + 1)
    while wanted > 1 and wanted * size > 32768:
        wanted -= 1
    lowest = 0
    while (4096 << lowest) < wanted * size:
        lowest += 1
    for share in (16, 8, 4, 2):
        for order in range(lowest, 4):
            pages = 4096 * 2**order
            if pages % size * share <= pages:
                return order
    order = 0
    while 4096 * 2**order < size:
        order += 1
    return order


@settings(max_examples=400, deadline=None)
@given(
    size=st.one_of(st.integers(1, 9000), st.integers(1, 4 << 20)),
    cpus=st.integers(1, 256),
    has_ctor=st.booleans(),
    flags=st.sampled_from([0, SLAB_HWCACHE_ALIGN, SLAB_TYPESAFE_BY_RCU]),
    align_bits=st.integers(0, 13),
)
def test_the_rules_by_themselves(
    size: int, cpus: int, has_ctor: bool, flags: int, align_bits: int
) -> None:
    """Everything that can be said about a layout holds, for any size and any number of CPUs."""
    wanted_align = 1 << align_bits if align_bits else 0
    geometry = calculate_geometry(size, wanted_align, flags, has_ctor, cpus)
    align = max(8, wanted_align)
    if flags & SLAB_HWCACHE_ALIGN:
        line = 64
        while size * 2 <= line:
            line //= 2
        align = max(align, line)
    outside = has_ctor or bool(flags & SLAB_TYPESAFE_BY_RCU)
    words = -(-size // 8) * 8
    full = -(-(words + 8 * outside) // align) * align
    if full > 4 << 20:
        assert geometry is None
        return
    assert geometry is not None
    g = geometry
    assert (g.align, g.inuse, g.size) == (align, words, full)
    # The free pointer is a word of its own, or one in the middle of the object.
    assert g.offset % 8 == 0
    assert g.offset + 8 <= g.size
    if outside:
        assert g.offset == words
    else:
        assert size // 2 - 8 < g.offset <= size // 2
    assert g.order == naive_order(full, cpus)
    assert g.objects == 4096 * 2**g.order // full >= 1
    assert g.objects <= 32767
    fitting = [order for order in range(11) if 4096 << order >= full]
    assert g.min_order == fitting[0] <= g.order
    assert g.min_objects == (4096 << g.min_order) // full >= 1
    # Colours: what is left over, in steps that keep cache lines and alignment.
    assert g.colour_off == max(64, align)
    left = (4096 << g.order) - g.objects * full
    assert g.colour * g.colour_off <= left < (g.colour + 1) * g.colour_off
    assert g.min_partial == min(10, max(5, (fls(full) - 1) // 2))
    limits = [120] * (full < 256) + [52] * (256 <= full < 1024) + [24] * (1024 <= full < 4096)
    assert [g.cpu_partial] == (limits or [6])
    assert (g.cpu_partial_slabs - 1) * g.objects < 2 * g.cpu_partial
    assert g.cpu_partial_slabs * g.objects >= 2 * g.cpu_partial


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4096), st.integers(1, 256))
def test_half_a_slab_is_never_wasted(size: int, cpus: int) -> None:
    """Small objects never leave more than a sixteenth of a slab unused, unless nothing else fits."""
    geometry = calculate_geometry(size, 0, 0, False, cpus)
    assert geometry is not None
    pages = 4096 << geometry.order
    waste = pages - geometry.objects * geometry.size
    better = [
        order
        for order in range(geometry.order, 4)
        if (4096 << order) % geometry.size * 16 <= 4096 << order
    ]
    assert waste * 16 <= pages or not better
    assert waste * 2 <= pages
