from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from concmem.errors import BadArgument
from concmem.mm.statistics import MachineStatistics
from concmem.reports import meminfo, vmstat

from .samples import machines, make_machine, make_slab_machine, make_zone

STATS = make_machine(
    make_zone(
        "DMA",
        present=3998,
        managed=3840,
        nr_free_pages=3840,
        watermark_high=81,
        lowmem_reserve=(0, 3019, 4555),
    ),
    make_zone(
        "DMA32",
        present=782336,
        managed=772918,
        nr_free_pages=700000,
        watermark_high=16741,
        lowmem_reserve=(0, 0, 1536),
        cma=4096,
        nr_free_cma=1024,
    ),
    make_zone("Normal", present=0, managed=0),
)


def parse(text: str) -> dict[str, int]:
    """Name and number of each line."""
    return {line.partition(":")[0]: int(line.split()[1]) for line in text.splitlines()}


def test_lines_of_a_live_kernel() -> None:
    """Names are padded to 16, numbers to 8, and huge page counts have no unit."""
    lines = meminfo.render(STATS).splitlines()
    for line in (
        "Active(anon):          0 kB",
        "SwapCached:            0 kB",
        "VmallocTotal:   34359738367 kB",
        "VmallocChunk:          0 kB",
        "HugePages_Total:       0",
        "HugePages_Surp:        0",
        "Hugepagesize:       2048 kB",
        "MemTotal:        3107032 kB",
        "CmaTotal:          16384 kB",
        "CmaFree:            4096 kB",
    ):
        assert line in lines


def test_order_of_the_lines() -> None:
    """The first and last lines, and the CMA ones, are where the kernel puts them."""
    names = list(parse(meminfo.render(STATS)))
    assert names[:3] == ["MemTotal", "MemFree", "MemAvailable"]
    cma = names.index("CmaTotal")
    assert names[cma - 1 : cma + 4] == [
        "FilePmdMapped",
        "CmaTotal",
        "CmaFree",
        "Balloon",
        "HugePages_Total",
    ]
    assert names[-3:] == ["DirectMap4k", "DirectMap2M", "DirectMap1G"]
    assert len(names) == 56


def test_available_memory_leaves_the_reserves() -> None:
    """MemAvailable is what is free beyond each zone's high watermark and largest reserve."""
    reserve = min(3840, 81 + 4555) + (16741 + 1536)
    values = parse(meminfo.render(STATS))
    assert values["MemFree"] == 703840 * 4
    assert values["MemAvailable"] == (703840 - reserve) * 4


def test_available_memory_is_not_negative() -> None:
    """A machine below its reserves has 0 kB available."""
    zone = make_zone(managed=1024, nr_free_pages=3, watermark_high=100)
    assert parse(meminfo.render(make_machine(zone)))["MemAvailable"] == 0


def test_slabs_are_counted_in_kb() -> None:
    """All slabs, those that can be reclaimed, and the others, over all nodes."""
    stats = make_slab_machine(make_zone(), make_zone(node=1))
    text = meminfo.render(stats)
    for line in (
        "KReclaimable:       4352 kB",
        "Slab:               4544 kB",
        "SReclaimable:       4352 kB",
        "SUnreclaim:          192 kB",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("low", "boost", "counted"), [(500, 44, 544), (100, 50, 938), (0, 0, 1088)]
)
def test_available_memory_has_a_part_of_the_slabs(low: int, boost: int, counted: int) -> None:
    """All reclaimable pages but half of them, or but the low watermarks if these are less."""
    zone = make_zone(nr_free_pages=5000, watermark_low=low, watermark_boost=boost)
    stats = make_slab_machine(zone, make_zone(node=1))
    assert meminfo.available_pages(stats) == 5000 + counted


def test_direct_map_uses_the_largest_pages() -> None:
    """2.5 GiB and three pages are two 1 GiB pages, then 2 MiB pages, then 4 KiB pages."""
    present = (5 << 29 >> 12) + 3
    values = parse(meminfo.render(make_machine(make_zone(present=present))))
    assert values["DirectMap1G"] == 2 << 20
    assert values["DirectMap2M"] == 512 << 10
    assert values["DirectMap4k"] == 12


@given(machines())
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(stats: MachineStatistics) -> None:
    """Totals over all zones, in kB, come back; the direct map covers all present memory."""
    values = parse(meminfo.render(stats))
    zones = [zone for node in stats.nodes for zone in node.zones]
    assert values["MemTotal"] == 4 * sum(zone.managed for zone in zones)
    assert values["MemFree"] == 4 * sum(zone.nr_free_pages for zone in zones)
    assert values["CmaTotal"] == 4 * sum(zone.cma for zone in zones)
    assert values["CmaFree"] == 4 * sum(zone.nr_free_cma for zone in zones)
    assert 0 <= values["MemAvailable"] <= values["MemFree"]
    mapped = sum(values[f"DirectMap{size}"] for size in ("4k", "2M", "1G"))
    assert mapped == 4 * sum(zone.present for zone in zones)


def test_psutil_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil, pointed at exported files, reports the model's memory, in bytes, without warnings."""
    psutil = pytest.importorskip("psutil")
    (tmp_path / "meminfo").write_text(meminfo.render(STATS))
    (tmp_path / "vmstat").write_text(vmstat.render(STATS))
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    memory = psutil.virtual_memory()
    assert memory.total == (3840 + 772918) * 4096
    assert memory.free == (3840 + 700000) * 4096
    assert memory.available == (3840 + 700000 - 3840 - 16741 - 1536) * 4096
    swap = psutil.swap_memory()
    assert (swap.total, swap.sin, swap.sout) == (0, 0, 0)


def test_parse_reads_what_render_writes() -> None:
    """Every line by its name, with and without a unit."""
    text = meminfo.render(STATS)
    assert meminfo.parse(text) == parse(text)
    assert meminfo.parse("") == {}


def test_parse_reads_the_kernel_of_this_host() -> None:
    """Whatever it has."""
    host = Path("/proc/meminfo")
    if not host.exists():
        pytest.skip("this host has no /proc/meminfo")
    assert meminfo.parse(host.read_text())["MemTotal"] > 0


@pytest.mark.parametrize("line", ["MemTotal", "MemTotal: x kB", "MemTotal: 1 MB", "", "a b: 1 kB"])
def test_parse_names_the_line_that_is_none(line: str) -> None:
    """By its number."""
    with pytest.raises(BadArgument, match=r"^meminfo: line 2: not a value"):
        meminfo.parse(f"MemFree:   1 kB\n{line}\nMemFree:  1 kB\n")
