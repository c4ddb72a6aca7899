"""What the tests of ``mm`` share: running on a CPU, and looking at structures from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.per_cpu_pageset import pindex_to_order
from concmem.mm.zone import Zone

T = TypeVar("T")

WAIT = 50.0
"""Seconds after which a hang is reported; no test depends on how long anything takes."""

PAGE = 4096


def on_cpu(m: Machine, fn: Callable[..., T], *args: Any, cpu: int = 0) -> T:
    """``fn(*args)`` on a CPU; its result."""
    return m.submit(cpu, fn, *args).result(WAIT)


def alloc(
    m: Machine, order: int = 0, gfp: int = 0xCC0, cpu: int = 0, node: int | None = None
) -> Any:
    """Pages from a CPU; ``None`` when there are none."""
    return on_cpu(m, m.alloc_pages, order, gfp, node, cpu=cpu)


def free(m: Machine, page: Page, order: int = 0, cpu: int = 0) -> None:
    """Free on a CPU."""
    on_cpu(m, m.free_pages, page, order, cpu=cpu)


def take_all(m: Machine, order: int, gfp: int, cpu: int = 0) -> list[Page]:
    """Allocate until there is nothing left for that order and those flags."""

    def body() -> list[Page]:
        pages = []
        while (page := m.alloc_pages(order, gfp)) is not None:
            pages.append(page)
        return pages

    return on_cpu(m, body, cpu=cpu)


def free_all(m: Machine, pages: list[Page], order: int = 0, cpu: int = 0) -> None:
    """Free many blocks of one order."""

    def body() -> None:
        for page in pages:
            m.free_pages(page, order)

    on_cpu(m, body, cpu=cpu)


def buddy_blocks(zone: Zone) -> dict[int, set[int]]:
    """First pfns of the free blocks of a quiet zone, by order, never used ones included."""
    blocks: dict[int, set[int]] = {}
    for area in zone.free_area:
        found = {page.pfn for free_list in area.free_list for page in free_list}
        if area.order == 10:
            found |= set(zone.deferred)
        blocks[area.order] = found
    return blocks


def free_runs(m: Machine) -> bytearray:
    """One byte for each page of memory: 1 where the buddy system has it."""
    bits = bytearray(m.config.memory // PAGE)
    for zone in m.zones:
        for order, pfns in buddy_blocks(zone).items():
            for pfn in pfns:
                bits[pfn : pfn + (1 << order)] = b"\1" * (1 << order)
    return bits


def nr_buddy_pages(m: Machine) -> int:
    """Pages of all free blocks of a quiet machine."""
    return sum(free_runs(m))


def nr_managed(m: Machine) -> int:
    """Pages that the machine was booted with."""
    return sum(zone.managed_pages for zone in m.zones)


def zone_named(m: Machine, name: str) -> Zone:
    """The first zone of that name."""
    return next(zone for zone in m.zones if zone.name == name)


def exact_counters(m: Machine) -> None:
    """Let no CPU keep a difference to itself, so that marks are met to the page."""
    for zone in m.zones:
        for pcp in zone.pageset.all():
            pcp.stat_threshold = 0


def snapshot(m: Machine) -> dict[str, Any]:
    """Everything that a refused call must leave alone. The machine is quiet."""
    stats = m.statistics()
    zones = []
    for zone in m.zones:
        zones.append(
            {
                "lists": [
                    [[page.pfn for page in free_list] for free_list in area.free_list]
                    for area in zone.free_area
                ],
                "pagesets": [
                    [[page.pfn for page in pages] for pages in zone.pageset.of(cpu).lists]
                    for cpu in range(m.runtime.nr_cpus)
                ],
                "locked": [zone.lock.locked()]
                + [zone.pageset.of(cpu).lock.locked() for cpu in range(m.runtime.nr_cpus)],
                "deferred": zone.deferred,
                "cma": zone.nr_free_cma_pages.value,
                "highatomic": zone.nr_reserved_highatomic,
            }
        )
    return {
        "statistics": (stats.nodes, stats.events),
        "zones": zones,
        "types": bytes(m.mem_map.pageblock_types),
        "allocated": {
            pfn: (page.order, page.ref_count(), page.flags, page._mapcount, page.mapping)
            for pfn, page in m.mem_map.pages.items()
            if page.ref_count()
        },
        "cma": bytes(m.cma._bitmap) if m.cma else b"",
        "log": m.log.read(),
    }


def cached_pages(m: Machine, cpu: int) -> int:
    """Pages in a CPU's page sets, counted by walking."""
    return sum(
        len(pages) << pindex_to_order(pindex)
        for zone in m.zones
        for pindex, pages in enumerate(zone.pageset.of(cpu).lists)
    )
