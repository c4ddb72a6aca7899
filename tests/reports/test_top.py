"""The tables of top, of made-up machines: rates, shares, marks, and how they are sorted."""

from __future__ import annotations

import pytest

from concmem.errors import BadArgument
from concmem.mm.statistics import CpuStatistics, MachineStatistics
from concmem.reports.top import VIEWS, Look, Row, check_sort, render, sort_rows
from concmem.runtime.lockstat import LockTimes
from concmem.units import NR_PAGE_ORDERS

from .samples import make_lock, make_machine, make_pageset, make_slab, make_slab_node, make_zone

BLOCKS = (2,) + (0,) * (NR_PAGE_ORDERS - 2) + (1,)


def machine(times: int) -> MachineStatistics:
    """Two CPUs that have done everything so many times."""
    sets = tuple(make_pageset(nr_alloc=n * times, nr_free=times, count=3) for n in (2, 4))
    zones = (
        make_zone("DMA", movable=BLOCKS, managed=4096, pagesets=sets, watermark_min=2000,
                  watermark_low=3000, watermark_high=4000),
        make_zone("Normal", present=0),
        make_zone("DMA32", movable=BLOCKS, managed=2052, pagesets=sets),
    )  # fmt: skip
    slabs = (
        make_slab(
            "busy",
            64,
            nodes=(make_slab_node(nr_slabs=2, total_objects=128, free_objects=32),),
            events={
                "alloc_fastpath": (30 * times, 60 * times), "alloc_slowpath": (10 * times, 0),
                "free_fastpath": (10 * times, 0), "free_slowpath": (30 * times, 50 * times),
            },
        ),
        make_slab("idle", 128),
    )  # fmt: skip
    locks = (
        make_lock("a", acquisitions=100 * times, contentions=25 * times,
                  wait=LockTimes(1, 1, 1, 3_000_000 * times), contention_points=(("wait", 1),)),
        make_lock("b", acquisitions=10 * times),
    )  # fmt: skip
    cpus = (CpuStatistics(0, 0, 1, 5 * times), CpuStatistics(1, 1, 2, 0))
    return make_machine(*zones, cpus=cpus, nr_cpus=2, slabs=slabs, locks=locks)


BEFORE, NOW = Look(machine(1), 10.0), Look(machine(3), 12.0)


def cells(view: str, **arguments: object) -> list[list[str]]:
    """The table, split at two blanks or more."""
    text = render(view, NOW, BEFORE, **{"sort": next(iter(VIEWS[view].sorts)), **arguments})  # type: ignore[arg-type]
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()
    ]


def test_cpus() -> None:
    """Twice as much in two seconds: everything once a second."""
    title, first, second = cells("cpus")
    assert title == ["CPU", "NODE", "PAGES/s", "OBJECTS/s", "FREES/s", "REMOTE", "INTERRUPTS/s"]
    # Two zones with 2 allocated and 1 freed each.
    assert first == ["cpu0", "0", "6", "40", "40", "75.0%", "5"]
    assert second == ["cpu1", "1", "10", "60", "50", "100.0%", "0"]


def test_caches() -> None:
    """Use, what is wasted, and shares of the rates."""
    _, busy, idle = cells("caches")
    assert busy == ["busy", "64", "2", "75.0%", "2.0 KiB", "100", "90.0%", "90", "88.9%"]
    assert idle == ["idle", "128", "0", "-", "0 B", "0", "-", "0", "-"]


def test_zones() -> None:
    """Only those with pages; which mark they are below."""
    title, dma, dma32 = cells("zones")
    assert title[7:] == [str(order) for order in range(NR_PAGE_ORDERS)]
    assert dma[:7] == ["0 DMA", "4,096", "1,026", "25.0%", "< min", "6", "6"]
    assert dma[7:] == list(map(str, BLOCKS))
    assert dma32[4] == "ok"


@pytest.mark.parametrize(
    ("free", "mark"), [(1999, "< min"), (2000, "< low"), (3999, "< high"), (4000, "ok")]
)
def test_marks(free: int, mark: str) -> None:
    """The lowest one that the free pages do not reach."""
    zone = make_zone(movable=(free,) + (0,) * 10, watermark_min=2000, watermark_low=3000,
                     watermark_high=4000)  # fmt: skip
    look = Look(make_machine(zone), 1.0)
    assert mark in render("zones", look, look, "z")


def test_locks() -> None:
    """By the time waited."""
    _, a, b = cells("locks")
    assert a == ["a", "100", "25", "25.0%", "3.0", "0.0", "wait"]
    assert b == ["b", "10", "0", "0.0%", "0.0", "0.0"]


def test_sorting() -> None:
    """Numbers from the largest, names from A; reversed, and limited."""
    assert [row[0] for row in cells("cpus", sort="p")[1:]] == ["cpu1", "cpu0"]
    assert [row[0] for row in cells("cpus", sort="p", reverse=True)[1:]] == ["cpu0", "cpu1"]
    assert [row[0] for row in cells("caches", sort="n")[1:]] == ["busy", "idle"]
    assert [row[0] for row in cells("caches", sort="n", reverse=True)[1:]] == ["idle", "busy"]
    assert len(cells("caches", limit=1)) == 2
    assert sort_rows([], "x") == []
    many = [Row((), {"c": f"{n:05d}"}) for n in (10, 9, 100)]
    assert [row.keys["c"] for row in sort_rows(many, "c")] == ["00009", "00010", "00100"]


@pytest.mark.parametrize("view", VIEWS)
def test_every_row_has_every_key(view: str) -> None:
    """And every view has its own keys, none of which ends it or turns it round."""
    for row in VIEWS[view].rows(NOW, BEFORE):
        assert row.keys.keys() == VIEWS[view].sorts.keys()
        assert len(row.cells) == len(VIEWS[view].columns)
    assert not {"q", "r", " ", "\t", "1"} & set(VIEWS[view].sorts)


@pytest.mark.parametrize("view", VIEWS)
def test_no_time_between_two_looks(view: str) -> None:
    """No rate, and no division by nothing; nor with things that are new."""
    render(view, NOW, NOW, next(iter(VIEWS[view].sorts)))
    render(view, NOW, Look(make_machine(make_zone()), 1.0), next(iter(VIEWS[view].sorts)))


def test_what_was_reset_is_not_negative() -> None:
    """Counters of a machine that began again."""
    assert "-" not in render("cpus", Look(machine(1), 12.0), Look(machine(3), 10.0), "c").replace(
        " -", ""
    )


def test_sort_keys_are_checked() -> None:
    """The message has those that there are."""
    check_sort("zones", "f")
    with pytest.raises(BadArgument, match=r"--sort: zones are sorted by one of z \(zone\), f"):
        check_sort("zones", "x")
