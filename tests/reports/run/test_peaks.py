"""Rows made of statistics."""

from __future__ import annotations

import pytest

from concmem import Machine
from concmem.mm.slab_flags import SLAB_NO_MERGE, SLAB_TYPESAFE_BY_RCU
from concmem.reports.run.peaks import cache_peak, process_moment, zone_moment
from concmem.units import NR_PAGE_ORDERS

from ..samples import make_pageset, make_slab, make_slab_cpu, make_slab_node, make_zone

SMAPS = """\
558e8f548000-558e8f569000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                  40 kB
Pss:                  30 kB
Private_Clean:         0 kB
Private_Dirty:        16 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
Pss:                   4 kB
Private_Clean:         1 kB
Private_Dirty:         3 kB
"""


def test_objects_in_use() -> None:
    """All but those free on lists, and those of CPU slabs that the CPU has not taken."""
    cache = make_slab(
        "a",
        64,
        nodes=(
            make_slab_node(nr_slabs=3, total_objects=192, free_objects=50, nr_partial=1, nr_free=1),
            make_slab_node(node=1, nr_slabs=1, total_objects=64),
        ),
        cpus=(
            make_slab_cpu(0, slab_node=0, slab_objects=64, slab_inuse=60, partial_slabs=2),
            make_slab_cpu(1),
        ),
        aliases=("b",),
    )
    peak = cache_peak(cache, 1.5)
    assert (peak.slabs, peak.objects, peak.in_use) == (4, 256, 256 - 50 - 4)
    assert (peak.partial, peak.empty, peak.cpu_slabs, peak.cpu_partial) == (1, 1, 1, 2)
    assert (peak.name, peak.aliases, peak.seconds) == ("a", ("b",), 1.5)


@pytest.mark.parametrize(("free", "in_use"), [(100, 0), (-5, 64)])
def test_counters_that_do_not_agree_say_nothing_impossible(free: int, in_use: int) -> None:
    """Neither fewer than none nor more than all."""
    node = make_slab_node(nr_slabs=1, total_objects=64, free_objects=free)
    assert cache_peak(make_slab("a", nodes=(node,)), 0).in_use == in_use


def test_what_keeps_caches_apart() -> None:
    """Flags, constructors, user space, boot; or nothing."""
    assert cache_peak(make_slab("a"), 0).kept_apart == ""
    assert cache_peak(make_slab("a", flags=SLAB_NO_MERGE), 0).kept_apart == "SLAB_NO_MERGE"
    flags = SLAB_NO_MERGE | SLAB_TYPESAFE_BY_RCU
    apart = cache_peak(make_slab("a", flags=flags, ctor="make"), 0).kept_apart
    assert apart == "SLAB_TYPESAFE_BY_RCU, SLAB_NO_MERGE, a constructor"
    assert "user space" in cache_peak(make_slab("a", usersize=8), 0).kept_apart
    assert cache_peak(make_slab("a", refcount=-1), 0).kept_apart == "made at boot"


def test_the_key_of_caches_that_could_be_merged() -> None:
    """The same for like ones, another for each difference."""
    key = cache_peak(make_slab("a", 64), 0).merge_key
    assert cache_peak(make_slab("b", 64), 0).merge_key == key
    assert cache_peak(make_slab("b", 72), 0).merge_key != key
    assert cache_peak(make_slab("b", 64, align=64), 0).merge_key != key


def test_objects_of_a_real_cache() -> None:
    """As many as were allocated, up to those on the CPU's own free list."""
    with Machine(cpus=1, memory="16M") as m:
        cache = m.kmem_cache_create("a", 64)
        m.run([lambda: [cache.alloc() for _ in range(200)]])
        peak = cache_peak(cache.statistics(), 0)
    assert (peak.slabs, peak.objects) == (4, 256)
    assert 200 <= peak.in_use <= 256


def test_a_zone() -> None:
    """Marks with their boost; free pages from the lists."""
    zone = zone_moment(
        make_zone(
            movable=(3,) + (0,) * (NR_PAGE_ORDERS - 2) + (2,),
            watermark_min=10, watermark_low=20, watermark_high=30, watermark_boost=5,
            pagesets=(make_pageset(count=4), make_pageset(count=5)),
        )
    )  # fmt: skip
    assert (zone.wmark_min, zone.wmark_low, zone.wmark_high) == (15, 25, 35)
    assert zone.blocks == [3, *[0] * (NR_PAGE_ORDERS - 2), 2]
    assert (zone.free, zone.cached) == (3 + 2 * 1024, 9)


def test_a_process_by_its_smaps() -> None:
    """Sums over its mappings."""
    process = process_moment(7, "p", SMAPS)
    assert process == (7, "p", 136, 44, 34, 20)
