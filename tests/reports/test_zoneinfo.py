from __future__ import annotations

import re
from collections import defaultdict

from hypothesis import given, settings

from concmem.mm.statistics import MachineStatistics
from concmem.reports import zoneinfo

from .samples import machines, make_machine, make_pageset, make_slab_machine, make_zone

LIVE_ZONE = make_zone(
    "Normal",
    start_pfn=1048576,
    spanned=5505024,
    present=5505024,
    managed=884736,
    nr_free_pages=712987,
    watermark_min=8997,
    watermark_low=11246,
    watermark_high=13495,
    watermark_promo=15744,
    lowmem_reserve=(0, 0, 0, 0, 0),
    pagesets=(
        make_pageset(
            count=5029, high=5749, batch=63, high_min=5623, high_max=55296, stat_threshold=24
        ),
    ),
)

LIVE_TEXT = """\
Node 0, zone   Normal
  pages free     712987
        boost    0
        min      8997
        low      11246
        high     13495
        promo    15744
        spanned  5505024
        present  5505024
        managed  884736
        cma      0
        protection: (0, 0, 0, 0, 0)
      nr_free_pages 712987
      nr_zone_inactive_anon 0
      nr_zone_active_anon 0
      nr_zone_inactive_file 0
      nr_zone_active_file 0
      nr_zone_unevictable 0
      nr_zone_write_pending 0
      nr_mlock     0
      nr_bounce    0
      nr_zspages   0
      nr_free_cma  0
      numa_hit     0
      numa_miss    0
      numa_foreign 0
      numa_interleave 0
      numa_local   0
      numa_other   0
  pagesets
    cpu: 0
              count:    5029
              high:     5749
              batch:    63
              high_min: 5623
              high_max: 55296
  vm stats threshold: 24
  node_unreclaimable:  0
  start_pfn:           1048576
"""


def test_block_of_a_live_kernel() -> None:
    """The numbers of a live Normal zone give that kernel's block."""
    text = zoneinfo.render(make_machine(make_zone("DMA"), LIVE_ZONE))
    assert text.endswith("\n" + LIVE_TEXT)


def test_first_populated_zone_has_node_counters() -> None:
    """Per-node counters stand once for each node, before the sizes of its first populated zone."""
    stats = make_machine(
        make_zone("DMA", present=0), make_zone("DMA32"), LIVE_ZONE, make_zone("Normal", node=1)
    )
    blocks = re.split(r"(?=^Node )", zoneinfo.render(stats), flags=re.MULTILINE)[1:]
    assert ["  per-node stats\n      nr_inactive_anon 0\n" in block for block in blocks] == [
        *(False, True, False),
        True,
    ]
    assert "      nr_mapped    0\n" in blocks[1]


def test_slab_pages_of_each_node() -> None:
    """Each node has its own among its counters."""
    text = zoneinfo.render(make_slab_machine(make_zone(), make_zone(node=1)))
    found = re.findall(r"^      (nr_slab_\w+) (\d+)$", text, re.MULTILINE)
    assert found == [
        ("nr_slab_reclaimable", "1024"),
        ("nr_slab_unreclaimable", "30"),
        ("nr_slab_reclaimable", "64"),
        ("nr_slab_unreclaimable", "18"),
    ]


def test_unpopulated_zone_stops_after_protection() -> None:
    """A zone without pages ends with its protection line."""
    stats = make_machine(
        make_zone("DMA", present=0, spanned=0, managed=0, lowmem_reserve=(0, 3019, 6475))
    )
    assert zoneinfo.render(stats) == (
        "Node 0, zone      DMA\n"
        "  pages free     0\n"
        "        boost    0\n"
        "        min      0\n"
        "        low      0\n"
        "        high     0\n"
        "        promo    0\n"
        "        spanned  0\n"
        "        present  0\n"
        "        managed  0\n"
        "        cma      0\n"
        "        protection: (0, 3019, 6475)\n"
    )


def test_marks_include_the_boost() -> None:
    """The marks shown are those compared against: with the boost added."""
    text = zoneinfo.render(make_machine(LIVE_ZONE._replace(watermark_boost=512)))
    assert "        boost    512\n        min      9509\n        low      11758\n" in text
    assert "        high     14007\n        promo    16256\n" in text


def test_threshold_follows_each_cpu() -> None:
    """Each CPU's page set is followed by its own threshold line."""
    zone = LIVE_ZONE._replace(
        pagesets=(make_pageset(stat_threshold=4), make_pageset(stat_threshold=8))
    )
    lines = zoneinfo.render(make_machine(zone)).splitlines()
    shown = [line.strip() for line in lines if "cpu:" in line or "threshold" in line]
    assert shown == ["cpu: 0", "vm stats threshold: 4", "cpu: 1", "vm stats threshold: 8"]


def parse(text: str) -> dict[tuple[int, str], dict[str, list[int]]]:
    """Every ``word number`` pair of each zone, by the last word before the number."""
    parsed: dict[tuple[int, str], dict[str, list[int]]] = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"Node (\d+), zone +(\w+)", line):
            zone = parsed[int(match[1]), match[2]] = defaultdict(list)
        elif match := re.fullmatch(r" +(?:.* )?(\w+):? +(\d+)", line):
            zone[match[1]].append(int(match[2]))
        elif match := re.fullmatch(r" +protection: \((.*)\)", line):
            zone["protection"] = [int(n) for n in match[1].split(", ")]
    return parsed


@given(machines())
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(stats: MachineStatistics) -> None:
    """An independent parser finds every number where monitoring programs look for it."""
    parsed = parse(zoneinfo.render(stats))
    zones = [zone for node in stats.nodes for zone in node.zones]
    assert list(parsed) == [(zone.node, zone.name) for zone in zones]
    for zone in zones:
        read = parsed[zone.node, zone.name]
        assert read["protection"] == list(zone.lowmem_reserve)
        for name in ("spanned", "present", "managed", "cma"):
            assert read[name] == [getattr(zone, name)]
        assert read["free"] == [zone.nr_free_pages]
        assert read["min"][0] - read["boost"][0] == zone.watermark_min
        if zone.present:
            assert read["nr_free_pages"] == [zone.nr_free_pages]
            assert read["nr_free_cma"] == [zone.nr_free_cma]
            assert read["start_pfn"] == [zone.start_pfn]
            assert read["cpu"] == list(range(len(zone.pagesets)))
            assert read["high"][1:] == [ps.high for ps in zone.pagesets]
            for name in ("count", "batch", "high_min", "high_max"):
                assert read[name] == [getattr(ps, name) for ps in zone.pagesets]
            assert read["threshold"] == [ps.stat_threshold for ps in zone.pagesets]
        else:
            assert "nr_free_pages" not in read
