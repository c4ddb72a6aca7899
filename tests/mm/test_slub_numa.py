"""Caches on machines with several NUMA nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, MEMALLOC, NOWARN, THISNODE
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.node import PgData

from .helpers import on_cpu
from .slab_helpers import Events, create, pfn_of, picture

N = 4
"""Objects of 8 KiB in a slab."""

WARNLESS = GFP_ATOMIC | NOWARN


@pytest.fixture
def m() -> Iterator[Machine]:
    """CPUs 0 and 1 on node 0, CPUs 2 and 3 on node 1; verified at the end."""
    with Machine(cpus=4, memory="64M", nodes=2, slab_merge=False) as machine:
        yield machine
        machine.verify()


@pytest.fixture
def s(m: Machine) -> KmemCache:
    """A cache with few objects in a slab."""
    return create(m, size=8192)


def node_of(m: Machine, address: int) -> int:
    """The node whose memory that is."""
    return m.virt_to_page(address).zone.zone_pgdat.node_id


def take(m: Machine, s: KmemCache, nr: int, cpu: int, node: int | None = None) -> list[int]:
    """Allocate one by one."""

    def body() -> list[int]:
        got = [s.alloc(GFP_KERNEL, node) for _ in range(nr)]
        return [address for address in got if address]

    addresses = on_cpu(m, body, cpu=cpu)
    assert len(addresses) == nr
    return addresses


def eat(m: Machine, node: int | None = None) -> None:
    """Take all memory, or all of one node."""

    def body() -> None:
        gfp = WARNLESS | MEMALLOC | (THISNODE if node is not None else 0)
        for order in (10, 6, 3, 0):
            while m.alloc_pages(order, gfp, node) is not None:
                pass

    on_cpu(m, body)


def test_objects_come_from_the_cpus_own_node(m: Machine, s: KmemCache) -> None:
    """Without a wish, memory is that of the CPU's node."""
    for cpu in range(4):
        assert {node_of(m, a) for a in take(m, s, 2 * N, cpu)} == {cpu // 2}
    assert [n.nr_slabs for n in s.node] == [4, 4]


def test_a_node_that_is_wanted(m: Machine, s: KmemCache) -> None:
    """The CPU slab of another node is given up for one of the node wanted; fast if it matches."""
    take(m, s, 1, cpu=0)
    events = Events(s)
    (address,) = take(m, s, 1, cpu=0, node=1)
    assert node_of(m, address) == 1
    assert events.new() == {
        "alloc_slowpath": 1,
        "alloc_node_mismatch": 1,
        "deactivate_to_head": 1,
        "alloc_slab": 1,
    }
    assert s.cpu_slab.of(0).node == 1
    assert {node_of(m, a) for a in take(m, s, N - 1, cpu=0, node=1)} == {1}
    assert events.new() == {"alloc_fastpath": N - 1}
    # Without a wish whatever is there will do: the cpu slab is used up, then the own node's.
    assert node_of(m, take(m, s, 1, cpu=0)[0]) == 0
    assert events.new()["alloc_from_partial"] == 1


def test_cpu_partial_slabs_of_another_node(m: Machine, s: KmemCache) -> None:
    """They are given to their node, until one matches."""
    addresses = take(m, s, 2 * N + 1, cpu=2)
    on_cpu(m, s.free, addresses[0], cpu=0)
    on_cpu(m, s.free, addresses[N], cpu=0)
    assert len(picture(m, s).cpu_partial[0]) == 2
    events = Events(s)
    (address,) = take(m, s, 1, cpu=0, node=0)
    assert node_of(m, address) == 0
    seen = picture(m, s)
    assert seen.cpu_partial[0] == []
    assert set(seen.partial[1]) == {pfn_of(m, addresses[0]), pfn_of(m, addresses[N])}
    assert events.new() == {"alloc_slowpath": 1, "alloc_slab": 1, "free_add_partial": 2}


def test_remote_frees_return_to_their_node(m: Machine, s: KmemCache) -> None:
    """Wherever an object is freed, its slab ends up on the lists of the node whose memory it is."""
    slabs = {cpu: take(m, s, 2 * N, cpu) for cpu in (0, 2)}
    for cpu, addresses in slabs.items():
        on_cpu(m, s.free_bulk, addresses[: N + 1], cpu=2 - cpu)
    on_cpu(m, s.flush_all)
    m.verify()
    seen = picture(m, s)
    for node, cpu in enumerate(slabs):
        assert seen.free[node] == [pfn_of(m, slabs[cpu][0])]
        assert seen.partial[node] == [pfn_of(m, slabs[cpu][N])]
    assert [n.free_objects for n in s.node] == [N + 1, N + 1]


def test_empty_slabs_are_kept_on_each_node(m: Machine, s: KmemCache) -> None:
    """min_partial counts for each node by itself."""
    for cpu in (0, 2):
        on_cpu(m, s.free_bulk, take(m, s, 10 * N, cpu), cpu=cpu)
    on_cpu(m, s.flush_all)
    assert [len(pfns) for pfns in picture(m, s).free] == [s.min_partial] * 2


def test_partial_slabs_of_other_nodes(m: Machine, s: KmemCache) -> None:
    """They are taken, rather than new memory, when that node has more than min_partial."""
    addresses = take(m, s, 8 * N, cpu=2)
    on_cpu(m, s.free_bulk, addresses[::N], cpu=2)
    on_cpu(m, s.flush_all)
    assert len(picture(m, s).partial[1]) == 8 > s.min_partial
    assert node_of(m, take(m, s, 1, cpu=0)[0]) == 1
    on_cpu(m, s.flush_all)
    assert len(picture(m, s).partial[1]) == 7
    # CPU 0 took more than one; now the node has little, and keeps it.
    assert node_of(m, take(m, s, 1, cpu=0)[0]) == 1
    on_cpu(m, s.flush_all)
    assert len(picture(m, s).partial[1]) == 6
    assert node_of(m, take(m, s, 1, cpu=0)[0]) == 0


def test_no_defragmentation(m: Machine, s: KmemCache) -> None:
    """With remote_node_defrag_ratio 0 partial slabs of other nodes are left alone."""
    addresses = take(m, s, 8 * N, cpu=2)
    on_cpu(m, s.free_bulk, addresses[::N], cpu=2)
    on_cpu(m, s.flush_all)
    s.remote_node_defrag_ratio = 0
    assert node_of(m, take(m, s, 1, cpu=0)[0]) == 0


def test_thisnode(m: Machine, s: KmemCache) -> None:
    """With __GFP_THISNODE a full node is the end; without, another will do."""
    eat(m, node=1)
    assert on_cpu(m, s.alloc, WARNLESS | THISNODE, 1) is None
    address = on_cpu(m, s.alloc, WARNLESS, 1)
    assert node_of(m, address) == 0
    on_cpu(m, s.free, address)
    m.verify()


def test_a_wish_that_cannot_be_met(m: Machine, s: KmemCache) -> None:
    """A node is wanted, not forced; all memory is gone, but another node has partial slabs."""
    addresses = take(m, s, 8 * N, cpu=0)
    on_cpu(m, s.free_bulk, addresses[::N], cpu=0)
    on_cpu(m, s.flush_all)
    eat(m)
    assert on_cpu(m, s.alloc, WARNLESS | THISNODE, 1) is None
    address = on_cpu(m, s.alloc, WARNLESS, 1)
    assert address is not None
    assert node_of(m, address) == 0


class _NoMemory(PgData):
    """A node with CPUs and, once the machine is up, no memory."""

    def populated_zones(self) -> list:  # type: ignore[override, type-arg]
        return [] if self.node_id == 1 and self.gone else super().populated_zones()

    gone = False


def test_a_node_without_memory() -> None:
    """A wish for it is no wish, forced or not; its CPUs use the memory of others."""
    with Machine(cpus=2, memory="32M", nodes=2, slab_merge=False, classes={PgData: _NoMemory}) as m:
        m.nodes[1].gone = True  # type: ignore[attr-defined]
        s = create(m, size=8192)
        assert s.cpu_slab.of(1).cpu < 0
        address = on_cpu(m, s.alloc, GFP_KERNEL, 1)
        assert node_of(m, address) == 0
        assert node_of(m, on_cpu(m, s.alloc, GFP_KERNEL, 1, cpu=1)) == 0


def test_many_nodes_few_cpus() -> None:
    """Nodes without CPUs give memory on demand."""
    with Machine(cpus=1, memory="64M", nodes=4, slab_merge=False) as m:
        s = create(m, size=8192)
        addresses = [a for node in (3, 1, 2, 0, 3) for a in take(m, s, 1, cpu=0, node=node)]
        assert [node_of(m, a) for a in addresses] == [3, 1, 2, 0, 3]
        m.verify()
        on_cpu(m, s.free_bulk, addresses)
        on_cpu(m, s.destroy)
        assert not m.mem_map.slabs
