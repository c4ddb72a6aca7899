"""Booting a machine: what it is made of, what cannot be booted, and that nothing is left behind."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import concmem
from concmem.errors import BadArgument, BadArgumentType, MachineClosed
from concmem.machine import Machine
from concmem.mm.cma import CmaArea
from concmem.mm.free_area import FreeArea
from concmem.mm.list_head import List
from concmem.mm.node import PgData
from concmem.mm.page_alloc import PageAllocator
from concmem.mm.per_cpu_pageset import PerCpuPageset
from concmem.mm.reclaim import Reclaim
from concmem.mm.slow_path import SlowPath
from concmem.mm.zone import Zone
from concmem.units import PAGE_OFFSET


def our_threads() -> list[str]:
    """Threads of machines that are still there."""
    return [t.name for t in threading.enumerate() if t.name.startswith("concmem")]


def refuses(error: type[BadArgument], name: str, **parameters: Any) -> None:
    """The machine is not booted, the message starts with *name*, and no thread is left."""
    before = our_threads()
    with pytest.raises(error, match=f"^{name}: "):
        Machine(**({"cpus": 1, "memory": "8M"} | parameters))
    assert our_threads() == before


@pytest.mark.parametrize("cpus", [0, -1, 257, 1 << 70])
def test_refuses_number_of_cpus(cpus: int) -> None:
    """1 to 256 CPUs."""
    refuses(BadArgument, "cpus", cpus=cpus)


@pytest.mark.parametrize("cpus", [1.5, 2.0, "4", True])
def test_refuses_cpus_of_another_type(cpus: Any) -> None:
    """CPUs are counted in whole numbers."""
    refuses(BadArgumentType, "cpus", cpus=cpus)


@pytest.mark.parametrize(
    "memory", [0, 4096, (2 << 20) - 4096, (8 << 20) + 1, -4096, -1, "12Q", "", "-8M", "M", "1 2M"]
)
def test_refuses_memory(memory: Any) -> None:
    """At least a page block, whole pages, and a size that can be read."""
    refuses(BadArgument, "memory", memory=memory)


@pytest.mark.parametrize("memory", [1.5, None, True, b"8M", [8]])
def test_refuses_memory_of_another_type(memory: Any) -> None:
    """Memory is a number of bytes or a text."""
    refuses(BadArgumentType, "memory", memory=memory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nodes", 0),
        ("nodes", 65),
        ("nodes", 1.0),
        ("cma", "1M"),
        ("cma", -(2 << 20)),
        ("cma", "8M"),
        ("cma", "2X"),
        ("min_free_kbytes", 0),
        ("min_free_kbytes", 5000),
        ("min_free_kbytes", "128"),
        ("runtime", "fast"),
        ("runtime", 3),
        ("classes", {Zone: FreeArea}),
        ("classes", {Zone: 3}),
        ("classes", {"Zone": Zone}),
        ("classes", {List: List}),
    ],
)
def test_refuses_other_parameters(name: str, value: Any) -> None:
    """Each parameter that cannot be is named."""
    refuses(BadArgument, name, **{name: value})


def test_more_nodes_than_memory() -> None:
    """Each node needs memory of its own."""
    refuses(BadArgument, "memory", nodes=8, memory="8M")
    refuses(BadArgument, "memory", nodes=2, memory="4M")


@pytest.mark.parametrize(("nodes", "memory"), [(2, "8M"), (3, "16M"), (4, "16M"), (64, "256M")])
def test_every_node_has_memory(nodes: int, memory: str) -> None:
    """A machine that boots gives memory to each node, and all of it to somebody."""
    with Machine(cpus=1, memory=memory, nodes=nodes) as m:
        managed = [sum(zone.managed_pages for zone in node.node_zones) for node in m.nodes]
        assert all(managed)
        assert sum(managed) == m.config.memory // 4096 - 1
        m.verify()


@pytest.mark.parametrize("cpus", [1, 2, 16, 256])
def test_smallest_and_largest_machine(cpus: int) -> None:
    """From 1 to 256 CPUs share 2 MiB: one page block."""
    with Machine(cpus=cpus, memory="2M") as m:
        assert m.submit(cpus - 1, m.smp_processor_id).result(50) == cpus - 1
        m.verify()
    assert our_threads() == []


def test_zones_of_a_large_machine() -> None:
    """DMA ends at 16 MiB, DMA32 at 4 GiB, as on x86-64."""
    with Machine(cpus=1, memory="6G") as m:
        assert [(z.name, z.zone_start_pfn, z.zone_end_pfn()) for z in m.zones] == [
            ("DMA", 0, 4096),
            ("DMA32", 4096, 1 << 20),
            ("Normal", 1 << 20, 6 << 18),
        ]
        # Page 0 is the BIOS's.
        assert sum(zone.managed_pages for zone in m.zones) == (6 << 18) - 1


def test_cpus_are_shared_out_over_nodes() -> None:
    """Each CPU is on one node, in order."""
    with Machine(cpus=5, memory="64M", nodes=2) as m:
        assert [node.cpus for node in m.nodes] == [(0, 1, 2), (3, 4)]


class _FreeArea(FreeArea):
    __slots__ = ()


class _Pageset(PerCpuPageset):
    __slots__ = ()


class _Zone(Zone):
    pass


class _Allocator(PageAllocator):
    pass


class _SlowPath(SlowPath):
    pass


class _Reclaim(Reclaim):
    pass


class _PgData(PgData):
    pass


class _CmaArea(CmaArea):
    pass


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_replaced_classes_are_used_everywhere(runtime: str) -> None:
    """A replacement is what all zones, orders, CPUs and kernel threads get."""
    classes: dict[type, type] = {
        FreeArea: _FreeArea,
        PerCpuPageset: _Pageset,
        Zone: _Zone,
        PageAllocator: _Allocator,
        SlowPath: _SlowPath,
        Reclaim: _Reclaim,
        PgData: _PgData,
        CmaArea: _CmaArea,
    }
    with Machine(cpus=2, memory="32M", cma="4M", runtime=runtime, classes=classes) as m:
        assert isinstance(m.page_alloc, _Allocator)
        assert isinstance(m.page_alloc.slow_path, _SlowPath)
        assert isinstance(m.reclaim, _Reclaim)
        assert isinstance(m.cma, _CmaArea)
        assert all(isinstance(node, _PgData) for node in m.nodes)
        for zone in m.zones:
            assert isinstance(zone, _Zone)
            assert all(isinstance(area, _FreeArea) for area in zone.free_area)
            assert len(zone.pageset.all()) == 5  # two CPUs, kswapd, the worker and RCU
            assert all(isinstance(pcp, _Pageset) for pcp in zone.pageset.all())
        m.verify()


def test_machines_are_independent() -> None:
    """Two machines in one process share nothing."""
    with (
        Machine(cpus=1, memory="8M") as a,
        Machine(cpus=1, memory="8M", classes={Zone: _Zone}) as b,
    ):
        page = a.submit(0, a.alloc_pages, 0).result(50)
        assert b.submit(0, b.alloc_pages, 0).result(50) is not page
        assert type(a.zones[0]) is Zone
        a.verify()
        b.verify()


def test_closed_machine_says_so() -> None:
    """After the end, calls raise instead of waiting for ever."""
    with Machine(cpus=1, memory="8M") as m:
        pass
    m.close()
    with pytest.raises(MachineClosed):
        m.submit(0, m.alloc_pages, 0)
    with pytest.raises(MachineClosed):
        m.verify()
    assert our_threads() == []


def test_run_gives_results_in_order() -> None:
    """Results come by CPU, idle CPUs give None."""
    with concmem.Machine(cpus=4, memory="8M") as m:
        assert m.run([m.smp_processor_id, None, m.smp_processor_id]) == [0, None, 2]


def test_memory_of_a_closed_machine() -> None:
    """It says that the machine is gone."""
    m = Machine(cpus=1, memory="16M")
    m.close()
    for use in (
        lambda: m.memory.read(PAGE_OFFSET, 8),
        lambda: m.memory.write(PAGE_OFFSET, b"x"),
        lambda: m.memory.fill(PAGE_OFFSET, 8),
        lambda: m.kmem_cache_create("a", 8),
    ):
        with pytest.raises(MachineClosed):
            use()
