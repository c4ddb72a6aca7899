"""
Debian's procps reads an export: ``slabtop``, ``vmstat``, ``free``.

Every number that they print is what the statistics of the machine say, computed here once more.
"""

from __future__ import annotations

import re

import pytest

from .conftest import Exported
from .programs import in_place_of_proc, program

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

KB = 4
"""In a page."""


def free_kb(exported: Exported) -> int:
    return KB * sum(zone.nr_free_pages for node in exported.stats.nodes for zone in node.zones)


def managed_kb(exported: Exported) -> int:
    return KB * sum(zone.managed for node in exported.stats.nodes for zone in node.zones)


def shared_kb(exported: Exported) -> int:
    return KB * sum(node.user.nr_shmem for node in exported.stats.nodes if node.user)


def anonymous_kb(exported: Exported) -> int:
    return KB * sum(node.user.nr_anon_pages for node in exported.stats.nodes if node.user)


def reclaimable_kb(exported: Exported) -> int:
    return KB * sum(node.nr_slab_reclaimable for node in exported.stats.nodes)


def available_kb(exported: Exported) -> int:
    """Free but for reserves, and half of the reclaimable slabs or all but the low watermarks."""
    zones = [zone for node in exported.stats.nodes for zone in node.zones]
    reserve = sum(
        min(zone.managed, zone.watermark_high + max(zone.lowmem_reserve)) for zone in zones
    )
    low = sum(zone.watermark_low for zone in zones)
    slabs = reclaimable_kb(exported) // KB
    return free_kb(exported) - KB * reserve + KB * (slabs - min(slabs // 2, low))


def test_slabtop(exported: Exported) -> None:
    """Each cache with its objects, slabs and sizes, and the sums above them."""
    out = in_place_of_proc(exported.tree, ["slabinfo"], [program("slabtop"), "-o"])
    head, _, table = out.partition("OBJS ACTIVE")
    rows = [line.split() for line in table.splitlines()[1:] if line.strip()]
    shown = {row[-1]: row[:-1] for row in rows}
    expected = {}
    for cache in exported.stats.slabs:
        objects = sum(node.total_objects for node in cache.nodes)
        free = sum(node.partial_objects - node.partial_inuse for node in cache.nodes)
        slabs = sum(node.nr_slabs for node in cache.nodes)
        expected[cache.name] = [
            *(str(objects), str(objects - free)),
            f"{100 * (objects - free) // objects if objects else 0}%",
            f"{cache.size / 1024:.2f}K",
            *(str(slabs), str(cache.objs_per_slab), f"{slabs * (4 << cache.order)}K"),
        ]
    assert shown == expected
    assert any(row[0] not in ("0", row[1]) for row in shown.values()), "no cache has free objects"
    objects, active = (sum(int(row[n]) for row in expected.values()) for n in (0, 1))
    numbers = re.findall(r": +(\d+) / (\d+) ", head)
    assert numbers[0] == (str(active), str(objects))
    assert numbers[1] == (str(sum(int(row[4]) for row in expected.values())),) * 2


def test_vmstat_slabs(exported: Exported) -> None:
    """``vmstat -m``: what it calls pages is objects in a slab."""
    out = in_place_of_proc(exported.tree, ["slabinfo"], [program("vmstat"), "-m"])
    title, *lines = out.splitlines()
    assert title.split() == ["Cache", "Num", "Total", "Size", "Pages"]
    rows = [line.split() for line in lines if line != title]  # it comes again on each screen
    shown = {row[0]: list(map(int, row[1:])) for row in rows}
    assert shown == {
        cache.name: [
            sum(n.total_objects - n.partial_objects + n.partial_inuse for n in cache.nodes),
            sum(n.total_objects for n in cache.nodes),
            cache.size,
            cache.objs_per_slab,
        ]
        for cache in exported.stats.slabs
    }


def test_vmstat_memory(exported: Exported) -> None:
    """``vmstat -s``: memory by what it is; what the model does not have is 0."""
    files = ["meminfo", "stat", "vmstat"]
    out = in_place_of_proc(exported.tree, files, [program("vmstat"), "-s"])
    shown = {
        match[2]: int(match[1])
        for match in re.finditer(r"^ *(\d+) (?:K )?(.+)$", out, re.MULTILINE)
    }
    user = anonymous_kb(exported) + shared_kb(exported)
    expected = {
        "total memory": managed_kb(exported),
        "used memory": managed_kb(exported) - available_kb(exported),
        "inactive memory": user,
        "free memory": free_kb(exported),
        "swap cache": shared_kb(exported) + reclaimable_kb(exported),
        "forks": 2,  # the processes that there are
    }
    assert {name: shown[name] for name in expected} == expected
    assert expected["inactive memory"] > 0
    others = {name: value for name, value in shown.items() if name not in expected}
    assert {name for name, value in others.items() if value} == set()
    assert {"pages swapped in", "boot time", "active memory", "total swap"} <= others.keys()


def test_vmstat_line(exported: Exported) -> None:
    """``vmstat``: the columns of memory."""
    files = ["meminfo", "stat", "vmstat"]
    out = in_place_of_proc(exported.tree, files, [program("vmstat")])
    names, numbers = (line.split() for line in out.splitlines()[1:3])
    shown = dict(zip(names, map(int, numbers), strict=True))
    assert shown["free"] == free_kb(exported)
    assert shown["cache"] == shared_kb(exported) + reclaimable_kb(exported)
    assert (shown["swpd"], shown["buff"], shown["si"], shown["so"]) == (0, 0, 0, 0)


def test_free(exported: Exported) -> None:
    """``free``: all columns, in both layouts."""
    command = [program("free"), "--kibi"]
    out = in_place_of_proc(exported.tree, ["meminfo"], command)
    names, memory, swap = (line.split() for line in out.splitlines())
    cached = shared_kb(exported) + reclaimable_kb(exported)
    assert dict(zip(names, map(int, memory[1:]), strict=True)) == {
        "total": managed_kb(exported),
        "used": managed_kb(exported) - available_kb(exported),
        "free": free_kb(exported),
        "shared": shared_kb(exported),
        "buff/cache": cached,
        "available": available_kb(exported),
    }
    assert swap[1:] == ["0", "0", "0"]
    wide = in_place_of_proc(exported.tree, ["meminfo"], [*command, "--wide"]).splitlines()
    shown = dict(zip(wide[0].split(), map(int, wide[1].split()[1:]), strict=True))
    assert (shown["buffers"], shown["cache"]) == (0, cached)
