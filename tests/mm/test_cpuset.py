"""Cpusets: memory comes from the nodes that a CPU is allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import BadArgument
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, MEMALLOC, NOWARN
from concmem.mm.page import Page

from .helpers import on_cpu


@pytest.fixture(params=["free", "jitter"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Two nodes, with a CPU each."""
    with Machine(
        cpus=2, memory="16M", nodes=2, cpusets=True, runtime=request.param, seed=1
    ) as machine:
        yield machine


def node_of(page: Page | None) -> int:
    assert page is not None
    return page.zone.zone_pgdat.node_id


def test_each_cpu_has_its_nodes(m: Machine) -> None:
    """At first all, its own first; then those that it is told, at once, whatever it has cached."""
    for nodes, wanted in (({0, 1}, 0), ({1}, 1), ({0}, 0), ({0, 1}, 0)):
        on_cpu(m, m.set_mems_allowed, 0, nodes)
        assert node_of(on_cpu(m, m.alloc_pages, 0)) == wanted
        assert node_of(on_cpu(m, m.alloc_pages, 0, cpu=1)) == 1
    m.verify()


def test_memory_of_other_nodes_does_not_help(m: Machine) -> None:
    """When the allowed ones are used up; an interrupt has all of them."""
    on_cpu(m, m.set_mems_allowed, 0, {1})
    gfp = GFP_KERNEL | NOWARN
    pages = []
    while (page := on_cpu(m, m.alloc_pages, 4, gfp)) is not None:
        pages.append(page)
    assert {node_of(page) for page in pages} == {1}
    assert node_of(m.call_on(0, lambda: m.alloc_pages(4, GFP_ATOMIC))) == 0
    m.verify()


def test_the_reserve_is_for_everybody(m: Machine) -> None:
    """Who may use it, to free memory, may do so on any node."""
    on_cpu(m, m.set_mems_allowed, 0, {1})
    gfp = MEMALLOC | NOWARN
    nodes = set()
    while (page := on_cpu(m, m.alloc_pages, 4, gfp)) is not None:
        nodes.add(node_of(page))
    assert nodes == {0, 1}


def test_bad_input(m: Machine) -> None:
    for cpu, nodes in ((0, ()), (0, {2}), (2, {0}), (-1, {0})):
        with pytest.raises(BadArgument, match=r"^(nodes|cpu): "):
            on_cpu(m, m.set_mems_allowed, cpu, nodes)
    with (
        Machine(cpus=1, memory="8M") as without,
        pytest.raises(BadArgument, match=r"^cpusets: "),
    ):
        without.set_mems_allowed(0, {0})
