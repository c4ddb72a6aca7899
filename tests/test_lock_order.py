"""The order of locks: what docs/reference/locks.md says is what the lock validator sees."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from concmem import Machine, Shrinker
from concmem.errors import CacheBusy, OutOfMemory
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NOWARN
from concmem.mm.mman import MAP_ANONYMOUS, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU
from concmem.user.params import M_ARENA_MAX
from concmem.workloads import WORKLOADS, Phase, Scenario, run_stress

pytestmark = pytest.mark.timeout(120)

TEXT = (Path(__file__).parent.parent / "docs" / "reference" / "locks.md").read_text()
MB = 1 << 20

Edges = dict[tuple[str, str], str]
"""Held and then taken, with where."""


def edges_of(m: Machine) -> Edges:
    assert m.runtime.lockdep is not None
    return {(e.before, e.after): f"{e.held_at}, {e.taken_at}" for e in m.runtime.lockdep.edges()}


def on_cpu(m: Machine, fn: Callable[..., Any], *args: Any, cpu: int = 0) -> Any:
    return m.submit(cpu, fn, *args).result(timeout=60)


# -- the documentation


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below *heading*."""
    section = TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


ORDER = [names(row[0])[0] for row in rows("Order")]
"""Outermost first."""

LEAVES = names(TEXT.partition("Leaves, inside which")[2].partition("\n\n")[0])

SEEN = {
    (held[0], taken) for row in rows("Seen") for held in [names(row[0])] for taken in names(row[1])
}


def allows(before: str, after: str) -> bool:
    """Whether the documented order has *before* outside of *after*."""
    if before in LEAVES:
        return False
    return after in LEAVES or ORDER.index(before) < ORDER.index(after)


def test_the_order_is_one() -> None:
    """No lock is in two places, and what was seen follows the order."""
    assert len(set(ORDER + LEAVES)) == len(ORDER) + len(LEAVES)
    for before, after in SEEN:
        assert allows(before, after), f"{before} -> {after}"


# -- a tour through the model


def pages(m: Machine) -> None:
    """Per-CPU sets, boosted watermarks, contiguous memory."""

    def body() -> None:
        for page in [m.alloc_pages(0, GFP_KERNEL) for _ in range(1500)]:
            assert page is not None
            m.free_pages(page, 0)
        block = m.cma_alloc(64)
        assert block is not None
        m.cma_release(block, 64)

    on_cpu(m, body)


def shortage(m: Machine) -> None:
    """All memory gone: a shrinker that allocates, then the last resort."""
    kept: list[Any] = []

    def scan(nr: int) -> int:
        page = m.alloc_pages(4, GFP_KERNEL | NOWARN)
        if page is not None:
            m.free_pages(page, 4)
        freed = min(nr, len(kept))
        for _ in range(freed):
            m.free_pages(kept.pop(), 0)
        return freed

    def body() -> None:
        while (page := m.alloc_pages(0, GFP_ATOMIC | NOWARN)) is not None:
            kept.append(page)
        shrinker = Shrinker(lambda: min(len(kept), 40), scan)
        m.register_shrinker(shrinker)
        taken = [m.alloc_pages(0, GFP_KERNEL | NOWARN) for _ in range(100)]
        m.unregister_shrinker(shrinker)
        while (page := m.alloc_pages(0, GFP_KERNEL | NOWARN)) is not None:
            taken.append(page)
        for page in [*kept, *filter(None, taken)]:
            m.free_pages(page, 0)

    on_cpu(m, body)


def slabs(m: Machine) -> None:
    """Caches that come and go; of one an object is left at first."""

    def body() -> None:
        for flags in (0, SLAB_TYPESAFE_BY_RCU):
            cache = m.kmem_cache_create("tour", 512, flags=flags)
            first, *others = [cache.alloc() for _ in range(100)]
            for address in others:
                cache.free(address)
            with pytest.raises(CacheBusy):
                cache.destroy()
            cache.free(first)
            cache.destroy()

    on_cpu(m, body)


def areas(m: Machine) -> None:
    """vmalloc, vm_map_ram and vmap; then so much that only a purge can make room."""

    def body() -> None:
        mapped = [page for page in (m.alloc_pages(0) for _ in range(256)) if page is not None]
        m.vfree(m.vmalloc(5000))
        full = [m.vm_map_ram(mapped[:64]) for _ in range(16)]
        for address in full[:8]:
            m.vm_unmap_ram(address, 64)
        m.vm_unmap_aliases()
        m.vm_unmap_ram(m.vm_map_ram(mapped[:1]), 1)
        for _ in range(30):
            m.vunmap(m.vmap(mapped))
        for address in [m.vmap(mapped * 14) for _ in range(2)]:
            m.vunmap(address)

    on_cpu(m, body)


def processes(m: Machine) -> None:
    """Heaps of two threads, mappings, shared memory, faults until there is no more memory."""
    p, q = m.process(), m.process()
    base = 0

    def heap() -> None:
        p.mallopt(M_ARENA_MAX, 1)
        p.free(p.malloc(200_000))
        p.malloc(1000)

    def share() -> None:
        file = m.shmem_create(8192)
        assert file is not None
        for process in (p, q):
            process.write(process.mmap(8192, flags=MAP_SHARED, file=file), b"shared")
        file.close()
        q.exit()

    def exhaust() -> None:
        nonlocal base
        base = p.mmap(64 * MB, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
        for offset in range(0, 64 * MB, 4096):
            p.touch(base + offset)

    on_cpu(m, heap)
    on_cpu(m, p.malloc, 1000, cpu=1)
    on_cpu(m, share)
    with pytest.raises(OutOfMemory):
        on_cpu(m, exhaust)
    on_cpu(m, p.exit)


TOUR: dict[Callable[[Machine], None], dict[str, Any]] = {
    pages: {"cma": "4M"},
    shortage: {},
    slabs: {},
    areas: {"cpus": 1, "vmalloc_size": "64M"},
    processes: {},
}


@pytest.fixture(scope="module")
def tour() -> tuple[Edges, set[str]]:
    """The pairs that the tour sees, and the names of all locks that were taken."""
    edges: Edges = {}
    taken = set()
    for part, options in TOUR.items():
        with Machine(**{"cpus": 2, "memory": "16M", **options}, lockdep=True) as m:
            part(m)
            edges |= edges_of(m)
            taken |= set(re.findall(r" FD:.* BD:.* .{4}: (.+)", m.procfs.read("lockdep")))
    return edges, taken


def test_the_tour_sees_what_is_documented(tour: tuple[Edges, set[str]]) -> None:
    """Each part of the model once: the pairs that are in the table, no more and no fewer."""
    edges, _ = tour
    assert {pair: edges[pair] for pair in set(edges) - SEEN} == {}
    assert SEEN - set(edges) == set()


def test_every_lock_has_a_place(tour: tuple[Edges, set[str]]) -> None:
    """Whatever was taken is in the order or a leaf."""
    _, taken = tour
    assert taken - {*ORDER, *LEAVES} == set()
    assert len(taken) > 25


WORKLOAD_LOCKS = {"cache->lock", "queue->lock", "slots->lock", "mailbox->lock"}


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_workloads_keep_the_order(runtime: str) -> None:
    """All workloads on two CPUs and two nodes: no rule is broken, and no pair is against the order."""
    scenario = Scenario(
        tuple(Phase(name) for name in WORKLOADS),
        cpus=2,
        memory="32M",
        nodes=2,
        cma="4M",
        ops=700,
        verify_every=0,
        runtime=runtime,
        lockdep=True,
    )
    with scenario.boot() as m:
        result = run_stress(m, scenario)
        edges = edges_of(m)
    assert result.errors == []
    against = {
        pair: where
        for pair, where in edges.items()
        if not WORKLOAD_LOCKS & set(pair) and not allows(*pair)
    }
    assert against == {}
    assert {("&pcp->lock", "&zone->lock"), ("mm->mmap_lock", "mm->page_table_lock")} <= set(edges)
