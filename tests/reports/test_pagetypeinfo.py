from __future__ import annotations

import pytest
from hypothesis import given, settings

from concmem.mm.statistics import MachineStatistics
from concmem.reports import pagetypeinfo

from .samples import machines, make_machine, make_zone

MOVABLE = (0, 1, 1, 269, 1029, 0, 0, 0, 0, 0, 17)
ZEROS = "      0" * 11 + " "


def test_text_of_a_live_kernel() -> None:
    """The counts of a live Normal zone give that kernel's rows, with the CMA ones added."""
    zone = make_zone(movable=MOVABLE, pageblocks=(40, 449, 23, 0, 0, 0))
    assert pagetypeinfo.render(make_machine(zone)) == (
        "Page block order: 9\n"
        "Pages per block:  512\n"
        "\n"
        "Free pages count per migrate type at order       0      1      2      3      4      5"
        "      6      7      8      9     10 \n"
        f"Node    0, zone   Normal, type    Unmovable{ZEROS}\n"
        "Node    0, zone   Normal, type      Movable      0      1      1    269   1029      0"
        "      0      0      0      0     17 \n"
        f"Node    0, zone   Normal, type  Reclaimable{ZEROS}\n"
        f"Node    0, zone   Normal, type   HighAtomic{ZEROS}\n"
        f"Node    0, zone   Normal, type          CMA{ZEROS}\n"
        f"Node    0, zone   Normal, type      Isolate{ZEROS}\n"
        "\n"
        "Number of blocks type     Unmovable      Movable  Reclaimable   HighAtomic"
        "          CMA      Isolate \n"
        "Node 0, zone   Normal           40          449           23            0"
        "            0            0 \n"
    )


@pytest.mark.parametrize(
    ("blocks", "text"),
    [(99_999, "  99999 "), (100_000, " >100000 "), (123_456, " >100000 ")],
)
def test_counts_are_capped(blocks: int, text: str) -> None:
    """Counting stops at 100000, which is then marked as "at least"."""
    rows = pagetypeinfo.render(make_machine(make_zone(movable=(blocks,) + (0,) * 10)))
    assert f"type      Movable{text}" in rows


def test_unpopulated_zones_have_no_rows() -> None:
    """A zone without pages is in neither table."""
    text = pagetypeinfo.render(make_machine(make_zone("DMA", present=0), make_zone("Normal")))
    assert "DMA" not in text
    assert text.count("Normal") == 6 + 1


@given(machines())
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(stats: MachineStatistics) -> None:
    """Both tables, split at their blanks, give the counts back."""
    _, free_table, block_table = pagetypeinfo.render(stats).split("\n\n")
    free: dict[tuple[int, str], list[list[int]]] = {}
    for line in free_table.splitlines()[1:]:
        _, node, _, name, _, _, *counts = line.replace(",", " ").split()
        free.setdefault((int(node), name), []).append([int(n) for n in counts])
    blocks = {}
    for line in block_table.splitlines()[1:]:
        _, node, _, name, *counts = line.replace(",", " ").split()
        blocks[int(node), name] = tuple(int(n) for n in counts)
    populated = [zone for node in stats.nodes for zone in node.zones if zone.present]
    assert blocks == {(zone.node, zone.name): zone.pageblocks for zone in populated}
    for zone in populated:
        assert tuple(zip(*free[zone.node, zone.name], strict=True)) == zone.free_counts
