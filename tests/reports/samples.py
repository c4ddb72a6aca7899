"""Made-up statistics: builders with quiet defaults, and Hypothesis strategies."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import strategies as st

from concmem.mm.migratetype import MIGRATE_TYPES, MOVABLE
from concmem.mm.statistics import (
    CpuStatistics,
    MachineStatistics,
    NodeStatistics,
    PagesetStatistics,
    SlabCpuStatistics,
    SlabNodeStatistics,
    SlabStatistics,
    ZoneStatistics,
)
from concmem.runtime.lockstat import LockClassStatistics, LockTimes
from concmem.units import NR_PAGE_ORDERS

ZONE_NAMES = ("DMA", "DMA32", "Normal")
NO_TIMES = LockTimes(0, 0, 0, 0)


def make_pageset(**fields: Any) -> PagesetStatistics:
    """A page set in which every field not given is 0."""
    return PagesetStatistics(**(dict.fromkeys(PagesetStatistics._fields, 0) | fields))


def make_zone(name: str = "Normal", **fields: Any) -> ZoneStatistics:
    """A populated zone with nothing free; lists of one migratetype: ``movable=(...)``."""
    movable = fields.pop("movable", (0,) * NR_PAGE_ORDERS)
    by_type = tuple(tuple(n if t == MOVABLE else 0 for t in range(MIGRATE_TYPES)) for n in movable)
    defaults: dict[str, Any] = dict.fromkeys(ZoneStatistics._fields, 0)
    defaults |= {
        "name": name,
        "spanned": 1024,
        "present": 1024,
        "managed": 1024,
        "free_counts": by_type,
        "nr_free": movable,
        "pageblocks": (0,) * MIGRATE_TYPES,
        "lowmem_reserve": (0, 0, 0),
        "flags": (),
        "pagesets": (),
    }
    return ZoneStatistics(**(defaults | fields))


def make_machine(*zones: ZoneStatistics, **fields: Any) -> MachineStatistics:
    """A machine of these zones, on the nodes they name."""
    numbers = sorted({zone.node for zone in zones})
    nodes = tuple(
        NodeStatistics(n, (n,), tuple(zone for zone in zones if zone.node == n), 0) for n in numbers
    )
    cpus = (CpuStatistics(0, 0, 4711, 0),)
    defaults: dict[str, Any] = {
        "nr_cpus": 1,
        "nodes": nodes,
        "cpus": cpus,
        "events": {},
        "min_free_kbytes": 128,
        "locks": (),
    }
    return MachineStatistics(**(defaults | fields))


def make_lock(name: str, **fields: Any) -> LockClassStatistics:
    """A lock class that was never contended."""
    defaults: dict[str, Any] = dict.fromkeys(LockClassStatistics._fields, 0)
    defaults |= {"wait": NO_TIMES, "hold": NO_TIMES}
    defaults |= {"contention_points": (), "contending_points": ()}
    return LockClassStatistics(
        name=name, **{k: v for k, v in (defaults | fields).items() if k != "name"}
    )


def make_slab_node(**fields: Any) -> SlabNodeStatistics:
    """A cache on node 0 that has nothing there."""
    return SlabNodeStatistics(**(dict.fromkeys(SlabNodeStatistics._fields, 0) | fields))


def make_slab_cpu(cpu: int, **fields: Any) -> SlabCpuStatistics:
    """A cache on a CPU that has no slab of it."""
    defaults = dict.fromkeys(SlabCpuStatistics._fields, 0) | {"slab_node": -1, "partial_node": -1}
    return SlabCpuStatistics(**(defaults | {"cpu": cpu} | fields))


def make_slab(name: str, size: int = 64, order: int = 0, **fields: Any) -> SlabStatistics:
    """A cache of node 0 without slabs, which others may be merged into."""
    defaults: dict[str, Any] = dict.fromkeys(SlabStatistics._fields, 0)
    defaults |= {
        "aliases": (),
        "object_size": size,
        "inuse": size,
        "align": 8,
        "size": size,
        "ctor": None,
        "order": order,
        "objs_per_slab": (4096 << order) // size,
        "min_objs": (4096 << order) // size,
        "min_order": order,
        "refcount": 1,
        "nodes": (make_slab_node(),),
        "cpus": (),
        "events": {},
    }
    return SlabStatistics(**(defaults | {"name": name} | fields))


def make_slab_machine(*zones: ZoneStatistics) -> MachineStatistics:
    """Nodes 0 and 1 with 1024 and 64 reclaimable pages of slabs and 30 and 18 others."""
    stats = make_machine(*zones)
    pages = ((1024, 30), (64, 18))
    nodes = tuple(
        node._replace(nr_slab_reclaimable=reclaimable, nr_slab_unreclaimable=unreclaimable)
        for node, (reclaimable, unreclaimable) in zip(stats.nodes, pages, strict=True)
    )
    return stats._replace(nodes=nodes)


def random_zone(rng: Random, name: str, node: int, populated: bool) -> ZoneStatistics:
    """Fields of every size from 0 to twelve digits; they need not agree with each other."""

    def number(digits: int = 12) -> int:
        return rng.randrange(10 ** rng.randint(0, digits))

    def several(length: int, digits: int = 12) -> tuple[int, ...]:
        return tuple(number(digits) for _ in range(length))

    amounts = {
        name: number() for name, kind in ZoneStatistics.__annotations__.items() if kind == "int"
    }
    amounts |= {"node": node, "present": 1 + number() if populated else 0}
    return make_zone(
        name,
        **amounts,
        free_counts=tuple(several(MIGRATE_TYPES, digits=5) for _ in range(NR_PAGE_ORDERS)),
        nr_free=several(NR_PAGE_ORDERS),
        pageblocks=several(MIGRATE_TYPES),
        lowmem_reserve=several(3),
        pagesets=tuple(PagesetStatistics(*several(len(PagesetStatistics._fields))) for _ in "01"),
    )


@st.composite
def machines(draw: st.DrawFn) -> MachineStatistics:
    """
    One or two nodes of three zones each, populated or not.

    The shape is drawn, and shrinks; the numbers come from one drawn seed, which is much faster.
    """
    rng = Random(draw(st.integers(0, 2**32 - 1)))
    nr_nodes = draw(st.integers(1, 2))
    events = draw(st.sets(st.sampled_from(("allocstall_dma", "pcp_trylock_failed", "made_up"))))
    return make_machine(
        *[
            random_zone(rng, name, node, populated=draw(st.booleans()))
            for node in range(nr_nodes)
            for name in ZONE_NAMES
        ],
        events={name: rng.randrange(10**9) for name in sorted(events)},
    )
