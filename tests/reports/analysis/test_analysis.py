"""What is concluded from a run, by hand-made numbers."""

from __future__ import annotations

import pytest

from concmem.reports import analysis
from concmem.reports.run.rows import BadAccess, Leak, Moment, SlabRow, Timeline, TimesRow

from ..runs import (
    MEMINFO,
    make_cache,
    make_cpu,
    make_lock,
    make_run,
    make_sample,
    make_zone,
)


def test_memory_parts_are_the_whole() -> None:
    """Free pages by the lists, the rest by meminfo, and what nobody names is other."""
    memory = analysis.memory_overview(make_run())
    assert memory is not None
    assert memory.parts == {
        "free": (4 + 8 * 1024) * 4,
        "in page sets": 400,
        "slabs": 8192,
        "vmalloc": 2048,
        "processes": 4096 + 1024 + 256,
        "other pages": 65536 - 32784 - 400 - 8192 - 2048 - 5376,
    }
    assert sum(memory.parts.values()) == memory.total
    assert (memory.available, memory.phase) == (30000, "local")
    assert analysis.memory_overview(make_run(busiest=None)) is None


def test_memory_of_counters_that_disagree() -> None:
    """Other is never less than nothing."""
    zones = (make_zone(managed=10, cached=20_000),)
    memory = analysis.memory_overview(make_run(busiest=Moment(0, "", zones, MEMINFO, "")))
    assert memory is not None
    assert memory.other == 0


def test_orders_of_a_zone() -> None:
    """At the fullest moment, and over the samples."""
    scattered = (64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    zone = make_zone(movable=scattered)
    samples = (
        make_sample(0, blocks=(scattered,)),
        make_sample(1, blocks=((0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0),)),
        make_sample(2, blocks=((0,) * 11,)),
        make_sample(3),
    )
    run = make_run(busiest=Moment(0, "", (zone,), MEMINFO, ""))
    run = make_run(busiest=run.busiest, timeline=Timeline(make_run().timeline.zones, samples))
    (found,) = analysis.zone_analysis(run)
    assert str(found) == "node 0 DMA32"
    single, pairs, fours = found.orders[:3]
    assert (single.blocks, single.fragmentation, single.unusable) == (64, -1.0, 0.0)
    assert (single.refused, single.mean_unusable) == (0.0, 0.0)
    assert pairs.unusable == 1.0
    assert pairs.fragmentation == (1000 - (1000 + 64 * 1000 // 2) // 64) / 1000
    # Refused in the first; the second can split its block; nothing is free in the third.
    assert pairs.refused == 1 / 4
    assert pairs.mean_unusable == pytest.approx((1 + 0 + 0) / 3)
    assert fours.refused == 1 / 4
    # 4 pages are no block of 8, but nor are they enough.
    assert found.orders[3].refused == 1 / 4
    assert (found.mixed, found.mixed_of) == (1, 32)
    assert analysis.zone_analysis(make_run(busiest=None)) == ()


def test_a_zone_without_samples() -> None:
    """Nothing is known over time, and nothing is made up."""
    (zone,) = analysis.zone_analysis(make_run(timeline=Timeline(), mixed=()))
    assert {order.refused for order in zone.orders} == {0.0}
    assert zone.mixed is None


def test_bytes_of_a_cache() -> None:
    """In use, free, between, behind: together all of its slabs."""
    peak = make_cache(object_size=700, size=704, objs_per_slab=5, slabs=3, objects=15, in_use=9)
    activity = SlabRow("request", 700, 90, 10, 30, 70, 4, 1)
    (cache,) = analysis.cache_analysis(make_run(caches=(peak,), slabs=(activity,)))
    assert cache.total == 3 * 4096
    assert cache.free_bytes == 6 * 704
    assert cache.padding_bytes == 9 * 4
    assert cache.tail_bytes == 3 * (4096 - 5 * 704)
    assert cache.wasted == cache.total - 9 * 700
    assert cache.utilisation == 0.6
    assert (cache.alloc_hits, cache.allocated, cache.remote, cache.freed) == (90, 100, 70, 100)


def test_slabs_of_the_fallback_order_are_smaller() -> None:
    """What is there is counted by the objects, not by slabs of the usual order."""
    peak = make_cache(order=3, size=1024, object_size=1024, objs_per_slab=32, slabs=2, objects=36,
                      in_use=36)  # fmt: skip
    (cache,) = analysis.cache_analysis(make_run(caches=(peak,)))
    assert (cache.total, cache.wasted) == (36 * 1024, 0)


def test_caches_that_could_share() -> None:
    """Alike, there at the same time, and not fixed for ever."""
    alike = {"merge_key": "k", "slabs": 10}
    caches = (
        make_cache("a", **alike, in_use=100),
        make_cache("b", **alike, in_use=28, kept_apart="SLAB_NO_MERGE"),
        make_cache("later", **alike, first_seen=9.0, last_seen=9.5, in_use=1),
        make_cache(
            "kmalloc-64", **alike, in_use=1, kept_apart="bytes that may be copied to user space"
        ),
        make_cache("kmem_cache", **alike, in_use=1, kept_apart="made at boot"),
        make_cache("other", in_use=1),
    )
    (group,) = analysis.merge_candidates(make_run(caches=caches))
    assert group.names == ("a", "b")
    assert group.kept_apart == ("", "SLAB_NO_MERGE")
    assert (group.slabs, group.needed, group.saved) == (20, 2, 18 * 4096)


def test_nothing_to_save() -> None:
    """Caches whose slabs are full are left alone."""
    caches = (make_cache("a", merge_key="k"), make_cache("b", merge_key="k"))
    assert analysis.merge_candidates(make_run(caches=caches)) == ()


def test_frees_by_cpu() -> None:
    """And of all."""
    cpus = (
        make_cpu(0, freed=10, cross_cpu_frees=4, objects_freed=5, cross_cpu_object_frees=5),
        make_cpu(1, freed=20, cross_cpu_frees=1),
    )
    first, second, total = analysis.free_analysis(make_run(cpus=cpus))
    assert (first.freed, first.remote) == (15, 9)
    assert (second.freed, second.remote) == (20, 1)
    assert total == (-1, 30, 5, 5, 5)
    assert analysis.free_analysis(make_run(cpus=())) == ((-1, 0, 0, 0, 0),)


def test_locks_by_time_waited() -> None:
    """Not by how often; the unknown names are passed over."""
    locks = (
        make_lock("often", contentions=500),
        make_lock("long", wait=TimesRow(10, 1, 10, 2_000_000_000)),
        make_lock("never", contentions=0),
    )
    first, second = analysis.lock_analysis(make_run(locks=locks))
    assert (first.name, second.name) == ("long", "often")
    assert first.share == pytest.approx(2 / (10 * 2))
    assert (first.waits_in, first.holds_in) == ("rmqueue", "free")


def test_pools() -> None:
    """By what became of each allocation."""
    events = {
        "mempool_create": 2, "mempool_prealloc_short": 1, "mempool_alloc_allocator": 10,
        "mempool_alloc_reserved": 5, "mempool_alloc_empty": 7, "mempool_alloc_failed": 3,
    }  # fmt: skip
    pools = analysis.mempool_analysis(make_run(events=events))
    assert pools == (2, 1, 10, 5, 7, 0, 3)
    assert pools.asked == 18
    assert analysis.mempool_analysis(make_run(events={"mempool_create": 0})) is None


def test_leaks_by_who_allocated_them() -> None:
    """The most bytes first."""
    leaks = (
        Leak(0x2000, 64, 1, 30, ("open", "main")),
        Leak(0x3000, 4096, 0, 20, ("map",)),
        Leak(0x1000, 64, 0, 10, ("open", "main")),
        Leak(0x4000, 8, -1, 5),
    )
    groups = analysis.leak_groups(make_run(leaks=leaks))
    assert groups is not None
    assert [(group.where, group.objects, group.size) for group in groups] == [
        ("map", 1, 4096),
        ("open", 2, 128),
        ("unknown", 1, 8),
    ]
    assert groups[1].addresses == (0x1000, 0x2000)
    assert (groups[1].cpus, groups[2].cpus) == ((0, 1), ())
    assert (groups[1].first_jiffies, groups[1].last_jiffies) == (10, 30)
    assert analysis.leak_groups(make_run(leaks=())) == ()
    assert analysis.leak_groups(make_run(leaks=None)) is None


def test_bad_accesses_by_kind() -> None:
    """The first report is kept whole."""
    reports = (
        BadAccess("a", "Poison overwritten", 0x10, "first"),
        BadAccess("b", "Redzone overwritten", 0x20, "b"),
        BadAccess("a", "Poison overwritten", 0x10, "again"),
        BadAccess("a", "Poison overwritten", 0x30, "more"),
    )
    groups = analysis.access_groups(make_run(bad_accesses=reports))
    assert groups == (
        ("a", "Poison overwritten", 3, (0x10, 0x30), "first"),
        ("b", "Redzone overwritten", 1, (0x20,), "b"),
    )
    assert analysis.access_groups(make_run(bad_accesses=None)) is None
