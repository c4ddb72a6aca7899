"""Sizes and marks against values that running kernels have shown."""

from __future__ import annotations

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.wait_table import wait_table_hash_nr_entries
from concmem.mm.watermark import (
    lowmem_reserve,
    min_free_kbytes,
    stat_threshold,
    zone_batchsize,
    zone_pagesets,
    zone_watermarks,
)

# A machine with 2 CPUs whose /proc/zoneinfo showed Normal with 884736 managed pages, DMA with
# protection (0, 3019, 6475, ...) and, in all, 1661440 managed pages.
NORMAL = 884736
DMA32 = 772864
DMA = 3840
ALL = DMA + DMA32 + NORMAL


def test_live_min_free_kbytes() -> None:
    """10311 by the square root, 67584 with transparent huge pages in three zones."""
    assert min_free_kbytes(ALL * 4) == 10311
    assert min_free_kbytes(ALL * 4, thp_zones=3) == 67584


def test_min_free_kbytes_is_bounded() -> None:
    """128 kB to 256 MiB; huge pages take at most 5 % of low memory."""
    assert min_free_kbytes(4) == 128
    assert min_free_kbytes(1 << 40) == 262144
    assert min_free_kbytes(100 * 1024, thp_zones=3) == 100 * 1024 // 20


def test_live_watermarks() -> None:
    """min 8997 low 11246 high 13495 promo 15744 for Normal."""
    assert zone_watermarks(67584 // 4, NORMAL, ALL) == (8997, 11246, 13495, 15744)


def test_watermarks_of_a_large_zone_are_spaced_by_its_size() -> None:
    """When the reserve is small, the marks are 0.1 % of the zone apart."""
    assert zone_watermarks(1000, 1 << 24, 1 << 24) == (1000, 17777, 34554, 51331)


def test_live_pagesets() -> None:
    """batch 63, high_min 5623, high_max 55296 for Normal on two CPUs."""
    assert zone_pagesets(NORMAL, 11246, 2) == (63, 5623, 55296)


@pytest.mark.parametrize(
    ("managed", "batch"),
    [
        (262144, 63),  # 1 GiB
        (1 << 30, 63),
        (1, 1),
        (4096, 1),  # 16 MiB: 4 / 4 = 1, 1.5 -> 1, less one is 0, so 1
        (32768, 7),  # 128 MiB: 32 / 4 = 8, 12 -> 8, less one
        (65536, 15),
        (131072, 31),
    ],
)
def test_batch(managed: int, batch: int) -> None:
    """A quarter of a thousandth of the zone, a power of two less one, 1 to 63."""
    assert zone_batchsize(managed) == batch


def test_small_pagesets_hold_four_batches() -> None:
    """No set is smaller than four batches."""
    assert zone_pagesets(4096, 100, 64) == (1, 4, 8)


def test_live_protection() -> None:
    """DMA shows protection (0, 3019, 6475), DMA32 (0, 0, 3456), Normal zeros."""
    assert lowmem_reserve([DMA, DMA32, NORMAL]) == [[0, 3019, 6475], [0, 0, 3456], [0, 0, 0]]


def test_an_empty_zone_reserves_nothing() -> None:
    """Nothing is kept in a zone without pages."""
    assert lowmem_reserve([0, 100000, 0]) == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_live_threshold() -> None:
    """Counters of Normal drift by up to 24 on each of two CPUs."""
    assert stat_threshold(NORMAL, 2) == 24


@pytest.mark.parametrize(
    ("managed", "cpus", "threshold"),
    [(4096, 1, 2), (4096, 2, 4), (32768, 4, 12), (1 << 24, 256, 125), (1 << 22, 32, 108)],
)
def test_threshold_grows_with_cpus_and_memory(managed: int, cpus: int, threshold: int) -> None:
    """2 * fls(cpus) * (1 + fls(memory in 128 MiB)), at most 125."""
    assert stat_threshold(managed, cpus) == threshold


def test_zones_of_a_machine_have_these_values() -> None:
    """What a machine shows follows from its zones' sizes by the formulas of the kernel."""
    with Machine(cpus=2, memory="6G") as m:
        total = sum(zone.managed_pages for zone in m.zones)
        kbytes = int((total * 4 * 16) ** 0.5)
        assert m.min_free_kbytes == kbytes
        for zone in m.zones:
            share = kbytes // 4 * zone.managed_pages // total
            step = max(share // 4, zone.managed_pages // 1000)
            assert zone.watermark == tuple(share + n * step for n in range(4))
            pcp = zone.pageset.of(1).statistics()
            batch = 63 if zone.managed_pages >= 262144 else 1
            assert (pcp.batch, pcp.high_min, pcp.high_max) == (
                batch,
                max((share + step) // 2, 4 * batch),
                max(zone.managed_pages // 8 // 2, 4 * batch),
            )
            drift = 2 * pcp.stat_threshold
            assert zone.percpu_drift_mark == (share + 2 * step + drift if drift > step else 0)


def test_nodes_share_cpus_but_not_thresholds() -> None:
    """Page sets are sized by the node's CPUs, drift by all CPUs, which may all touch a zone."""
    with Machine(cpus=8, memory="2G", nodes=4) as m:
        zone = m.nodes[3].node_zones[1]
        pcp = zone.pageset.of(0).statistics()
        assert pcp.high_max == zone.managed_pages // 8 // 2
        assert pcp.stat_threshold == 2 * 4 * (1 + 3)  # fls(8) is 4; 512 MiB are 4 * 128, fls 3


def test_a_node_without_cpus_is_shared_by_all() -> None:
    """Memory that is close to no CPU is used by all of them, so its sets are sized for all."""
    with Machine(cpus=2, memory="2G", nodes=4) as m:
        empty = [node for node in m.nodes if not node.cpus]
        assert empty
        zone = empty[0].node_zones[1]
        assert zone.pageset.of(0).high_max == zone.managed_pages // 8 // 2


@pytest.mark.parametrize(
    ("pages", "entries"),
    [(1, 4), (1024, 4), (1025, 4), (1280, 8), (4096, 16), (1 << 20, 4096), (1 << 30, 4096)],
)
def test_wait_table_size(pages: int, entries: int) -> None:
    """One bucket for 256 pages, a power of two, 4 to 4096."""
    assert wait_table_hash_nr_entries(pages) == entries


def test_min_free_kbytes_may_be_written() -> None:
    """Every zone's marks are as if the machine had been booted with it."""
    with (
        Machine(cpus=2, memory="32M", nodes=2) as m,
        Machine(cpus=2, memory="32M", nodes=2, min_free_kbytes=3000) as other,
    ):
        m.set_min_free_kbytes(3000)
        assert m.min_free_kbytes == m.statistics().min_free_kbytes == 3000
        assert [zone.watermark for zone in m.zones] == [zone.watermark for zone in other.zones]
        assert [zone.statistics().pagesets for zone in m.zones] == [
            zone.statistics().pagesets for zone in other.zones
        ]
        m.verify()
        for kbytes in (0, -1, 1 << 20, 1.5, True):
            with pytest.raises(BadArgument, match=r"^kbytes: "):
                m.set_min_free_kbytes(kbytes)  # type: ignore[arg-type]
        assert m.min_free_kbytes == 3000
