"""Every path of allocation and of freeing, by what it counts and where the slabs are afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.bugs import find_bug
from concmem.errors import SlabError
from concmem.machine import Machine
from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, MEMALLOC, NOWARN
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import Page

from .helpers import free_all, nr_buddy_pages, nr_managed, on_cpu, take_all
from .slab_helpers import Events, create, pfn_of, picture, slab_of

N = 4
"""Objects of 8 KiB in a slab; 3 slabs fill a CPU partial list, a node keeps 6 empty ones."""


@pytest.fixture
def m() -> Iterator[Machine]:
    """Two CPUs on one node; verified at the end."""
    with Machine(cpus=2, memory="32M", slab_merge=False) as machine:
        yield machine
        machine.verify()


@pytest.fixture
def s(m: Machine) -> KmemCache:
    """A cache with few objects in a slab, so that slabs become full and empty soon."""
    cache = create(m, size=8192)
    assert (cache.objs_per_slab, cache.cpu_partial_slabs, cache.min_partial) == (N, 3, 6)
    return cache


def take(m: Machine, s: KmemCache, nr: int = 1, cpu: int = 0) -> list[int]:
    """Allocate one by one."""

    def body() -> list[int]:
        got = [s.alloc() for _ in range(nr)]
        assert None not in got
        return [address for address in got if address]

    return on_cpu(m, body, cpu=cpu)


def give(m: Machine, s: KmemCache, addresses: list[int], cpu: int = 0) -> None:
    """Free one by one."""

    def body() -> None:
        for address in addresses:
            s.free(address)

    on_cpu(m, body, cpu=cpu)


def flush(m: Machine, s: KmemCache, cpu: int = 0) -> None:
    """Have one CPU give up what it keeps."""
    on_cpu(m, m.slab.cpu_slabs.flush_cpu_slab, s, cpu=cpu)


def groups(addresses: list[int]) -> list[list[int]]:
    """Objects taken one after the other from new slabs, slab by slab."""
    return [addresses[i : i + N] for i in range(0, len(addresses), N)]


def pfns(m: Machine, slabs: list[list[int]]) -> list[int]:
    """The first pfn of each group's slab."""
    return [pfn_of(m, slab[0]) for slab in slabs]


# -- allocation


def test_the_first_allocation_makes_a_slab(m: Machine, s: KmemCache) -> None:
    """Nothing anywhere: a new slab becomes the CPU slab, frozen, and all of it counts as in use."""
    events = Events(s)
    (address,) = take(m, s)
    assert events.new() == {"alloc_slowpath": 1, "alloc_slab": 1}
    slab = slab_of(m, address)
    assert (slab.inuse, slab.objects, slab.frozen, slab.freelist) == (N, N, True, None)
    assert picture(m, s) == ([slab.pfn, None], [[], []], [[]], [[]], [[]])
    assert (s.node[0].nr_slabs, s.node[0].total_objects, s.node[0].free_objects) == (1, N, 0)


def test_the_fast_path(m: Machine, s: KmemCache) -> None:
    """The rest of the slab comes in address order, and what was freed last comes back first."""
    addresses = take(m, s)
    events = Events(s)
    addresses += take(m, s, N - 1)
    assert events.new() == {"alloc_fastpath": N - 1}
    assert addresses == [addresses[0] + i * s.size for i in range(N)]
    give(m, s, addresses[1:3])
    assert events.new() == {"free_fastpath": 2}
    assert take(m, s, 2) == [addresses[2], addresses[1]]
    assert events.new() == {"alloc_fastpath": 2}


def test_the_fast_path_takes_no_lock(m: Machine, s: KmemCache) -> None:
    """With every lock of the cache and of memory held by somebody, objects come and go."""
    addresses = take(m, s)
    locks = [s.node[0].list_lock, *(zone.lock for zone in m.zones)]
    for lock in locks:
        lock.acquire()
    addresses += take(m, s, N - 1)
    give(m, s, addresses)
    for lock in locks:
        lock.release()


def test_a_full_cpu_slab_goes_to_the_full_list(m: Machine, s: KmemCache) -> None:
    """When the CPU slab has nothing left, it is put on slabs_full, and a new one made."""
    first, second = groups(take(m, s, N)), Events(s)
    more = take(m, s)
    assert second.new() == {"alloc_slowpath": 1, "alloc_slab": 1, "deactivate_bypass": 1}
    seen = picture(m, s)
    assert seen.full == [pfns(m, first)]
    assert seen.cpu == [pfn_of(m, more[0]), None]
    assert not slab_of(m, first[0][0]).frozen


def test_refill_from_the_slab_itself(m: Machine, s: KmemCache) -> None:
    """What other CPUs have freed to the CPU slab is taken over, all of it, last freed first."""
    addresses = take(m, s, N)
    events = Events(s)
    give(m, s, addresses[:2], cpu=1)
    assert events.new() == {"free_slowpath": 2, "free_frozen": 2}
    slab = slab_of(m, addresses[0])
    assert (slab.inuse, slab.frozen, slab.freelist) == (N - 2, True, addresses[1])
    assert take(m, s) == [addresses[1]]
    assert events.new() == {"alloc_slowpath": 1, "alloc_refill": 1}
    assert (slab.inuse, slab.frozen, slab.freelist) == (N, True, None)
    assert take(m, s) == [addresses[0]]
    assert events.new() == {"alloc_fastpath": 1}


def test_the_cpu_partial_list_comes_next(m: Machine, s: KmemCache) -> None:
    """With the CPU slab used up, the slab that came last on the CPU partial list is taken."""
    a, b, c = groups(take(m, s, 3 * N))
    give(m, s, [a[0], b[0]])
    assert picture(m, s).cpu_partial[0] == pfns(m, [b, a])
    events = Events(s)
    assert take(m, s) == [b[0]]
    assert events.new() == {"alloc_slowpath": 1, "deactivate_bypass": 1, "cpu_partial_alloc": 1}
    seen = picture(m, s)
    assert seen.cpu_partial[0] == pfns(m, [a])
    assert seen.cpu[0] == pfn_of(m, b[0])
    assert seen.full == [pfns(m, [c])]


def test_the_node_comes_next_with_more_for_later(m: Machine, s: KmemCache) -> None:
    """From the node's partial list one slab is taken, and more than half a CPU partial list."""
    slabs = groups(take(m, s, 5 * N))
    flush(m, s)
    give(m, s, [slab[0] for slab in slabs])
    flush(m, s)
    (partial,) = picture(m, s).partial
    assert sorted(partial) == sorted(pfns(m, slabs))
    events = Events(s)
    (address,) = take(m, s)
    assert events.new() == {
        "alloc_slowpath": 1,
        "alloc_from_partial": 1,
        "free_remove_partial": 3,
        "cpu_partial_node": 2,  # more than 3 // 2
    }
    seen = picture(m, s)
    assert pfn_of(m, address) == partial[0] == seen.cpu[0]
    assert seen.cpu_partial[0] == [partial[2], partial[1]]
    assert seen.partial == [partial[3:]]


def test_empty_slabs_are_used_again(m: Machine, s: KmemCache) -> None:
    """An empty slab that the node kept is taken before any memory is allocated."""
    addresses = take(m, s, N)
    give(m, s, addresses)
    flush(m, s)
    assert picture(m, s).free == [pfns(m, [addresses])]
    events = Events(s)
    assert pfn_of(m, take(m, s)[0]) == pfn_of(m, addresses[0])
    assert events.new() == {"alloc_slowpath": 1, "alloc_from_partial": 1}
    assert picture(m, s).free == [[]]


def test_partial_slabs_before_empty_ones(m: Machine, s: KmemCache) -> None:
    """An empty slab stays empty as long as there are partly used ones."""
    a, b = groups(take(m, s, 2 * N))
    give(m, s, b)
    flush(m, s)
    give(m, s, a[:1])
    flush(m, s)
    assert (picture(m, s).free, picture(m, s).partial) == ([pfns(m, [b])], [pfns(m, [a])])
    assert take(m, s, 2)[0] == a[0]
    assert picture(m, s).cpu[0] == pfn_of(m, b[0])


def fragmented(m: Machine) -> list[Page]:
    """Have only single pages free; the others, to be freed."""
    pages = take_all(m, 0, GFP_ATOMIC | NOWARN | MEMALLOC)
    free_all(m, [page for page in pages if page.pfn % 2])
    return [page for page in pages if not page.pfn % 2]


def test_smaller_slabs_when_memory_is_fragmented() -> None:
    """Without blocks of the order wanted, a slab of the smallest order will do."""
    with Machine(cpus=2, memory="16M", slab_merge=False, pagesets=False) as m:
        s = create(m, size=1000)
        assert (s.order, s.objs_per_slab, s.min_order, s.min_objects) == (2, 16, 0, 4)
        pages = fragmented(m)
        events = Events(s)
        addresses = take(m, s, 5)
        assert events.new() == {
            "alloc_slowpath": 2,
            "alloc_slab": 2,
            "alloc_fastpath": 3,
            "order_fallback": 2,
            "deactivate_bypass": 1,
        }
        slab = slab_of(m, addresses[0])
        assert (slab.order, slab.objects, slab.inuse) == (0, 4, 4)
        assert addresses[:4] == [addresses[0] // 4096 * 4096 + i * 1000 for i in range(4)]
        assert s.node[0].total_objects == 8
        m.verify()
        free_all(m, pages)
        # Large and small slabs live side by side.
        addresses += take(m, s, 20)
        assert {slab_of(m, address).objects for address in addresses} == {4, 16}
        m.verify()
        give(m, s, addresses[::2], cpu=1)
        give(m, s, addresses[1::2])
        m.verify()
        on_cpu(m, s.destroy)
        assert nr_buddy_pages(m) == nr_managed(m)


def test_no_memory() -> None:
    """Without memory there is no object, and nothing has changed; what is free comes still."""
    with Machine(cpus=2, memory="16M", slab_merge=False, pagesets=False) as m:
        s = create(m, size=1000)
        addresses = take(m, s, 15)
        take_all(m, 0, GFP_ATOMIC | NOWARN)
        assert len(take(m, s, 1)) == 1
        before = picture(m, s)
        assert on_cpu(m, s.alloc, GFP_ATOMIC | NOWARN) is None
        assert on_cpu(m, s.alloc, GFP_ATOMIC | NOWARN) is None
        assert picture(m, s).full == [[before.cpu[0]]]
        assert "SLUB: Unable to allocate memory" not in m.log.read()
        assert on_cpu(m, s.alloc, GFP_ATOMIC) is None
        assert (
            "SLUB: Unable to allocate memory on CPU 0 on node -1, gfp=0x820(GFP_ATOMIC)"
            in m.log.read()
        )
        assert "cache: test, object size: 1000, buffer size: 1000" in m.log.read()
        m.verify()
        # Bulk: all or nothing.
        give(m, s, addresses[:3])
        live = s.node[0].total_objects - s.node[0].free_objects
        assert on_cpu(m, s.alloc_bulk, 5, GFP_ATOMIC | NOWARN) == []
        m.verify()
        on_cpu(m, s.flush_all)
        assert s.node[0].total_objects - s.node[0].free_objects == live
        assert sorted(on_cpu(m, s.alloc_bulk, 3, GFP_ATOMIC)) == sorted(addresses[:3])


# -- free


def test_free_to_the_slab_of_another_cpu(m: Machine, s: KmemCache) -> None:
    """A frozen slab is its CPU's business: no list changes, no lock is taken."""
    addresses = take(m, s, 2)
    before, events = picture(m, s), Events(s)
    with s.node[0].list_lock:
        give(m, s, addresses, cpu=1)
    assert events.new() == {"free_slowpath": 2, "free_frozen": 2}
    assert picture(m, s) == before


@pytest.mark.parametrize("cpu", [0, 1])
def test_free_to_a_full_slab(m: Machine, s: KmemCache, cpu: int) -> None:
    """It goes to the CPU partial list of whoever frees."""
    a, b = groups(take(m, s, 2 * N))
    events = Events(s)
    give(m, s, a[:1], cpu=cpu)
    assert events.new() == {"free_slowpath": 1, "cpu_partial_free": 1}
    seen = picture(m, s)
    assert seen.full == [[]]
    assert seen.cpu == [pfn_of(m, b[0]), None]
    assert seen.cpu_partial[cpu] == pfns(m, [a])
    assert seen.cpu_partial[1 - cpu] == []
    assert s.node[0].free_objects == 1


def test_a_full_cpu_partial_list_goes_to_the_node(m: Machine, s: KmemCache) -> None:
    """The fourth slab finds three there: these go to the node, oldest last, and it stays alone."""
    slabs = groups(take(m, s, 5 * N))
    give(m, s, [slab[0] for slab in slabs[:3]])
    assert len(picture(m, s).cpu_partial[0]) == 3
    events = Events(s)
    give(m, s, slabs[3][:1])
    assert events.new() == {
        "free_slowpath": 1,
        "cpu_partial_free": 1,
        "cpu_partial_drain": 1,
        "free_add_partial": 3,
    }
    seen = picture(m, s)
    assert seen.cpu_partial[0] == pfns(m, slabs[3:4])
    assert seen.partial == [pfns(m, slabs[2::-1])]


def test_free_to_a_partial_slab(m: Machine, s: KmemCache) -> None:
    """One compare-exchange, without the lock, as long as something is left in use."""
    a = take(m, s, N)
    flush(m, s)
    give(m, s, a[:1])
    flush(m, s)
    before, events = picture(m, s), Events(s)
    with s.node[0].list_lock:
        give(m, s, a[1:3], cpu=1)
    assert events.new() == {"free_slowpath": 2}
    assert picture(m, s) == before
    assert s.node[0].free_objects == 3


def test_free_to_a_slab_on_a_cpu_partial_list(m: Machine, s: KmemCache) -> None:
    """It stays where it is, even when nothing of it is in use any more; its CPU finds out."""
    a, _ = groups(take(m, s, 2 * N))
    give(m, s, a[:1])
    before, events = picture(m, s), Events(s)
    give(m, s, a[1:], cpu=1)
    assert events.new() == {"free_slowpath": 3}
    assert picture(m, s) == before
    flush(m, s)
    assert picture(m, s).free == [pfns(m, [a])]


def test_empty_slabs_are_kept_up_to_min_partial(m: Machine, s: KmemCache) -> None:
    """The first six empty slabs stay on slabs_free; the pages of all others go back."""
    slabs = groups(take(m, s, 9 * N))
    flush(m, s)
    give(m, s, [slab[0] for slab in slabs])
    flush(m, s)
    give(m, s, [a for slab in slabs for a in slab[1:3]])
    (partial,) = picture(m, s).partial
    assert len(partial) == 9
    events = Events(s)
    for number, slab in enumerate(slabs):
        give(m, s, slab[3:], cpu=number % 2)
        wanted = {"free_slowpath": 1, "free_remove_partial": 1}
        assert events.new() == wanted | ({"free_slab": 1} if number >= s.min_partial else {})
    seen = picture(m, s)
    assert seen.partial == [[]]
    assert seen.free == [pfns(m, slabs[5::-1])]
    assert {page.pfn for page in m.mem_map.slabs.values()} == set(pfns(m, slabs[:6]))
    assert (s.node[0].nr_slabs, s.node[0].total_objects) == (6, 6 * N)
    assert m.nodes[0].nr_slab_unreclaimable.value == 6 * 8


def test_drain_throws_empty_slabs_away(m: Machine, s: KmemCache) -> None:
    """What comes empty from a CPU partial list is kept up to min_partial, too."""
    slabs = groups(take(m, s, 9 * N))
    for start in (0, 3, 6):
        give(m, s, [slab[0] for slab in slabs[start : start + 3]])
        give(m, s, [a for slab in slabs[start : start + 3] for a in slab[1:]], cpu=1)
        events = Events(s)
        flush(m, s)
        new = events.new()
        assert new.get("free_slab", 0) == (3 if start == 6 else 0)
        assert new.get("deactivate_empty", 0) >= (3 if start == 6 else 0)
    assert len(picture(m, s).free[0]) == 6
    assert s.node[0].nr_slabs == 6


# -- giving a CPU slab up


def test_deactivate_to_head(m: Machine, s: KmemCache) -> None:
    """With free objects left: to the front, where it is used next, as its memory is warm."""
    a = take(m, s, N)
    give(m, s, a[:2])
    events = Events(s)
    flush(m, s)
    assert events.new() == {"cpuslab_flush": 1, "deactivate_to_head": 1}
    slab = slab_of(m, a[0])
    assert (slab.inuse, slab.frozen, slab.freelist) == (2, False, a[1])
    assert picture(m, s).partial == [[slab.pfn]]


def test_deactivate_with_remote_frees(m: Machine, s: KmemCache) -> None:
    """With frees by others: to the end. The CPU's own free list comes before theirs."""
    a, b = groups(take(m, s, 2 * N))
    give(m, s, a[:1])
    flush(m, s)  # one is partial already
    give(m, s, [b[1]], cpu=1)
    flush(m, s, cpu=1)
    (c,) = groups(take(m, s, 1))
    give(m, s, c)
    flush(m, s)
    on_cpu(m, s.shrink)
    d = take(m, s, 1)
    rest = take(m, s, N - 1)
    before = picture(m, s).partial[0]
    mine = [address for address in [*d, *rest] if pfn_of(m, address) == picture(m, s).cpu[0]]
    events = Events(s)
    give(m, s, mine[:1], cpu=1)
    flush(m, s)
    new = events.new()
    assert new["deactivate_remote_frees"] == new["deactivate_to_tail"] == 1
    assert picture(m, s).partial[0] == [*before, pfn_of(m, mine[0])]


def test_deactivate_full(m: Machine, s: KmemCache) -> None:
    """Without a free object: to slabs_full."""
    a = take(m, s, N)
    events = Events(s)
    flush(m, s)
    assert events.new() == {"cpuslab_flush": 1, "deactivate_full": 1}
    assert picture(m, s).full == [pfns(m, [a])]


def test_deactivate_empty(m: Machine, s: KmemCache) -> None:
    """With nothing in use: to slabs_free; with enough of these, back to the buddy system."""
    slabs = groups(take(m, s, 7 * N))
    flush(m, s)
    for slab in slabs[:6]:
        give(m, s, slab)
    flush(m, s)
    assert len(picture(m, s).free[0]) == 6
    give(m, s, slabs[6][:1])
    assert take(m, s) == slabs[6][:1]
    give(m, s, slabs[6])
    assert picture(m, s).cpu[0] == pfn_of(m, slabs[6][0])
    events = Events(s)
    flush(m, s)
    assert events.new() == {"cpuslab_flush": 1, "deactivate_empty": 1, "free_slab": 1}
    assert s.node[0].nr_slabs == 6


def test_flush_all_reaches_every_cpu(m: Machine, s: KmemCache) -> None:
    """Every CPU gives up its slab and its partial list; a CPU that has nothing is left alone."""
    a = take(m, s, N + 1)
    b = take(m, s, N + 1, cpu=1)
    give(m, s, a[:1])
    give(m, s, b[:1], cpu=1)
    interrupts = [cpu.nr_interrupts for cpu in m.runtime.cpus]  # type: ignore[attr-defined]
    on_cpu(m, s.flush_all)
    seen = picture(m, s)
    assert (seen.cpu, seen.cpu_partial) == ([None, None], [[], []])
    assert len(seen.partial[0]) == 4
    after = [cpu.nr_interrupts for cpu in m.runtime.cpus]  # type: ignore[attr-defined]
    assert [y - x for x, y in zip(interrupts, after, strict=True)][:2] == [1, 1]
    assert sum(after) - sum(interrupts) == 2
    s.flush_all()  # nothing left, and from a thread that is no CPU
    assert sum(cpu.nr_interrupts for cpu in m.runtime.cpus) == sum(after)  # type: ignore[attr-defined]


# -- bulk


def test_bulk(m: Machine, s: KmemCache) -> None:
    """Many at once, in the same order; objects of one slab are freed with one step."""
    addresses = on_cpu(m, s.alloc_bulk, 2 * N)
    assert len(set(addresses)) == 2 * N
    events = Events(s)
    on_cpu(m, s.free_bulk, addresses[:N])
    assert events.new() == {"free_slowpath": 1, "cpu_partial_free": 1}
    on_cpu(m, s.free_bulk, addresses[N:])
    assert events.new() == {"free_fastpath": N}
    assert on_cpu(m, s.alloc_bulk, N) == addresses[N:]
    assert events.new() == {"alloc_fastpath": N}
    on_cpu(m, s.free_bulk, [])
    assert events.new() == {}


def test_bulk_with_zero(m: Machine, s: KmemCache) -> None:
    """__GFP_ZERO clears every object."""
    for address in (first := on_cpu(m, s.alloc_bulk, N)):
        m.memory.write(address, b"\xff" * s.object_size)
    on_cpu(m, s.free_bulk, first)
    again = on_cpu(m, s.alloc_bulk, N, GFP_KERNEL | 0x100)
    assert sorted(again) == sorted(first)
    assert not any(any(m.memory.read(address, s.object_size)) for address in again)


# -- slabs with one object


def one_object(m: Machine) -> KmemCache:
    """A cache whose slabs have one object, so that full and empty are one free apart."""
    s = create(m, size=20000)
    assert (s.objs_per_slab, s.order) == (1, 3)
    return s


def single_objects(m: Machine) -> None:
    """Objects that are whole slabs, through all lists."""
    s = one_object(m)
    addresses = take(m, s, 15)
    m.verify()
    assert len(picture(m, s).full[0]) == 14
    events = Events(s)
    give(m, s, addresses[:1])
    assert events.new() == {"free_slowpath": 1, "cpu_partial_free": 1}
    m.verify()
    flush(m, s)
    m.verify()
    assert picture(m, s).free == [[pfn_of(m, addresses[0])]]
    give(m, s, addresses[1:], cpu=1)
    m.verify()
    assert len(picture(m, s).cpu_partial[1]) <= s.cpu_partial_slabs == 12
    on_cpu(m, s.flush_all)
    m.verify()
    assert len(picture(m, s).free[0]) == s.min_partial == s.node[0].nr_slabs
    take(m, s, 8)
    m.verify()


def test_slabs_with_one_object(m: Machine) -> None:
    """A free makes the slab empty that was full a moment ago, and nothing is miscounted."""
    single_objects(m)


def test_an_empty_slab_taken_off_the_wrong_list_is_found() -> None:
    """It is found as soon as a slab has one object, and only then."""
    classes = find_bug("empty-slab-wrong-list").replaces
    with Machine(cpus=2, memory="32M", slab_merge=False, classes=classes) as m:
        s = create(m, "more", 8192)
        give(m, s, take(m, s, 5 * N))
        m.verify()
        with pytest.raises(SlabError, match=r"slabs counted on node 0's slabs_(partial|full)"):
            single_objects(m)
