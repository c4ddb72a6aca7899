from __future__ import annotations

from hypothesis import given, settings

from concmem.mm.statistics import MachineStatistics
from concmem.reports import buddyinfo

from .samples import machines, make_machine, make_zone

DMA32 = (1, 2, 4, 2, 5, 4, 3, 3, 4, 2, 752)


def test_line_of_a_live_kernel() -> None:
    """A zone with the counts of a live DMA32 zone gives that kernel's line, trailing blank too."""
    stats = make_machine(make_zone("DMA32", movable=DMA32))
    assert buddyinfo.render(stats) == (
        "Node 0, zone    DMA32      1      2      4      2      5      4      3      3      4"
        "      2    752 \n"
    )


def test_unpopulated_zones_have_no_line() -> None:
    """A zone without pages is left out, as the kernel leaves it out."""
    stats = make_machine(make_zone("DMA", present=0), make_zone("Normal", movable=DMA32))
    assert [line.split()[3] for line in buddyinfo.render(stats).splitlines()] == ["Normal"]


def test_wide_counts_push_the_line_out() -> None:
    """A count of more than six digits is printed in full."""
    stats = make_machine(make_zone(movable=(1234567,) + (0,) * 10))
    assert buddyinfo.render(stats).startswith("Node 0, zone   Normal 1234567      0 ")


@given(machines())
@settings(derandomize=True, deadline=None, database=None, max_examples=20)
def test_numbers_read_back(stats: MachineStatistics) -> None:
    """Splitting each line at its blanks gives node, name and counts back."""
    read = {}
    for line in buddyinfo.render(stats).splitlines():
        _, node, _, name, *counts = line.split()
        read[int(node.rstrip(",")), name] = tuple(map(int, counts))
    assert read == {
        (zone.node, zone.name): zone.nr_free
        for node in stats.nodes
        for zone in node.zones
        if zone.present
    }
