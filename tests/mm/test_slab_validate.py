"""verify() finds what was corrupted in a cache, says what and where, and only looks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import SlabError
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import FROZEN, PAGE_TYPE_LARGE_KMALLOC, PG_WORKINGSET, Page
from concmem.mm.slab_flags import SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU

from .helpers import on_cpu
from .slab_helpers import create, picture

N = 4
"""Objects of 8 KiB in a slab."""


class Setup:
    """A cache with a slab of every kind: full, partial, free, CPU slab, CPU partial list of two."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.s = s = create(m, "checked", 8192, flags=SLAB_RECLAIM_ACCOUNT)
        self.held = on_cpu(m, s.alloc_bulk, 2, cpu=1)
        a, b, _, d, e = on_cpu(m, lambda: [s.alloc_bulk(N) for _ in range(5)])
        flush = m.slab.cpu_slabs.flush_cpu_slab
        on_cpu(m, flush, s)  # all full
        on_cpu(m, s.free_bulk, a)
        on_cpu(m, s.free_bulk, b[:2])
        on_cpu(m, flush, s)  # one empty, one partial
        on_cpu(m, s.free_bulk, [d[0], e[0]])  # both on the CPU partial list
        seen = picture(m, s)
        assert list(map(len, (*seen.cpu_partial, *seen.partial, *seen.free, *seen.full))) == [
            *(2, 0),
            *(1, 1, 1),
        ]
        n = s.node[0]
        self.n = n
        self.full = self.first(n.slabs_full)
        self.partial = self.first(n.slabs_partial)
        self.free = self.first(n.slabs_free)
        self.c = s.cpu_slab.of(1)
        assert self.c.page is not None
        self.cpu = self.c.page
        self.cpu_partial = s.cpu_slab.of(0).partial
        m.verify()

    @staticmethod
    def first(slabs: Iterator[Page]) -> Page:  # type: ignore[type-arg, misc]
        return next(iter(slabs))


@pytest.fixture
def w() -> Iterator[Setup]:
    """That, on two CPUs."""
    with Machine(cpus=2, memory="32M", slab_merge=False) as m:
        yield Setup(m)


def reports(w: Setup, match: str) -> None:
    """verify() raises SlabError with that text, twice, so it has changed nothing."""
    for _ in range(2):
        with pytest.raises(SlabError, match=match) as caught:
            w.m.verify()
        assert caught.type is SlabError


def counters(slab: Page, add: int) -> None:
    """Change inuse, objects or frozen of a slab."""
    pair = slab.freelist_counters
    pair.set(pair.first, pair.second + add)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nr_partial", r"checked: \d+ slabs counted on node 0's slabs_partial, but there are \d+"),
        ("nr_free_slabs", r"checked: \d+ slabs counted on node 0's slabs_free, but there are 1"),
        ("nr_full", r"checked: \d+ slabs counted on node 0's slabs_full, but there are 1"),
    ],
)
def test_list_lengths(w: Setup, name: str, match: str, by: int) -> None:
    """A list that is counted one too long or too short."""
    setattr(w.n, name, getattr(w.n, name) + by)
    reports(w, match)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("name", ["nr_slabs", "total_objects", "free_objects"])
def test_counters_of_a_node(w: Setup, name: str, by: int) -> None:
    """A counter that a lost update has made wrong."""
    getattr(w.n, f"{name}_counter").add(by)
    reports(w, rf"checked: {name} of node 0 is \d+, but it is \d+")


@pytest.mark.parametrize("reclaimable", [True, False])
def test_counters_of_pages(w: Setup, reclaimable: bool) -> None:
    """nr_slab_reclaimable and nr_slab_unreclaimable."""
    w.m.nodes[0].account_slab(reclaimable, 8)
    reports(w, rf"node 0: \d+ pages of slabs counted \(reclaimable: {reclaimable}\), but there are")


def test_partly_used_slab_on_the_free_list(w: Setup) -> None:
    """An object that is counted in use in an empty slab."""
    counters(w.free, 1)
    reports(w, "checked: <slab .*> does not belong on node 0's slabs_free")


@pytest.mark.parametrize("to", [0, N])
def test_slab_that_does_not_belong_on_the_partial_list(w: Setup, to: int) -> None:
    """Empty and full slabs on slabs_partial."""
    counters(w.partial, to - w.partial.inuse)
    reports(w, "checked: <slab .*> does not belong on node 0's slabs_partial")


def test_slab_that_does_not_belong_on_the_full_list(w: Setup) -> None:
    """A slab with a free object on slabs_full."""
    counters(w.full, -1)
    reports(w, "checked: <slab .*> does not belong on node 0's slabs_full")


@pytest.mark.parametrize("which", ["partial", "free", "full"])
def test_workingset(w: Setup, which: str) -> None:
    """PG_workingset says that a slab is on slabs_partial or slabs_free, and nothing else."""
    slab: Page = getattr(w, which)
    slab.flags ^= PG_WORKINGSET
    reports(w, f"is on the wrong list: on node 0's slabs_{which}")


def test_corrupted_links(w: Setup) -> None:
    """A neighbour that does not point back."""
    w.partial.prev = w.partial
    reports(w, "checked: list corruption")


def test_slab_in_two_places(w: Setup) -> None:
    """A CPU slab that another CPU has, too."""
    other = w.s.cpu_slab.of(0)
    other.page = w.cpu
    other.freelist_tid.set(w.c.freelist_tid.first, other.tid)
    reports(w, "is the slab of cpu1 and also the slab of cpu0")


def test_slab_of_a_list_that_a_cpu_has(w: Setup) -> None:
    """A slab on a node's list that was not taken off when a CPU took it."""
    other = w.s.cpu_slab.of(0)
    other.page = w.full
    reports(w, "is the slab of cpu0 and also on node 0's slabs_full")


def test_lost_slab(w: Setup) -> None:
    """A slab that nobody has any more."""
    other = w.s.cpu_slab.of(0)
    other.partial = None
    w.n.nr_slabs_counter.add(-2)
    w.n.total_objects_counter.add(-2 * N)
    w.n.free_objects_counter.add(-2)
    reports(w, "checked: <slab .*> is on no list and no CPU's: it is lost")


def test_lost_slab_of_an_rcu_cache(w: Setup) -> None:
    """It may wait for a grace period, but not with objects in use."""
    s = create(w.m, "typesafe", 8192, flags=SLAB_TYPESAFE_BY_RCU)
    on_cpu(w.m, s.alloc)
    c = s.cpu_slab.of(0)
    c.take_away()
    s.node[0].nr_slabs_counter.dec()
    s.node[0].total_objects_counter.add(-s.objs_per_slab)
    reports(w, "typesafe: <slab .*> is on no list and no CPU's: it is lost")


def test_free_list_without_slab(w: Setup) -> None:
    """A CPU that forgot its slab, but not its free list."""
    w.c.page = None
    reports(w, r"checked: cpu1 has a free list \(0x[0-9a-f]+\) but no slab")


def test_tid_of_another_cpu(w: Setup) -> None:
    """The tid modulo 256 is the CPU."""
    pair = w.c.freelist_tid
    pair.set(pair.first, pair.second + 1)
    reports(w, r"checked: the tid of cpu1, \d+, is that of another CPU")


@pytest.mark.parametrize("by", [1, -1])
def test_length_of_a_cpu_partial_list(w: Setup, by: int) -> None:
    """A head that says there are more or fewer slabs than there are."""
    assert w.cpu_partial is not None
    w.cpu_partial.private += by
    reports(
        w,
        r"slabs are left on the partial list of cpu0|the partial list of cpu0 ends \d slabs too early",
    )


def test_cpu_partial_list_that_ends_too_early(w: Setup) -> None:
    """The rest of it got lost."""
    assert w.cpu_partial is not None
    w.cpu_partial.next = None
    reports(w, "checked: the partial list of cpu0 ends 1 slabs too early")


@pytest.mark.parametrize("what", ["full", "workingset"])
def test_slab_that_does_not_belong_on_a_cpu_partial_list(w: Setup, what: str) -> None:
    """One without a free object, or one that a node's list has."""
    assert w.cpu_partial is not None
    if what == "full":
        counters(w.cpu_partial, N - w.cpu_partial.inuse)
    else:
        w.cpu_partial.flags |= PG_WORKINGSET
    reports(w, "checked: <slab .*> does not belong on cpu0's partial list")


@pytest.mark.parametrize("which", ["cpu", "cpu_partial"])
def test_frozen(w: Setup, which: str) -> None:
    """Frozen are the CPU slabs, and no others."""
    slab: Page = getattr(w, which)
    counters(slab, -FROZEN if slab.frozen else FROZEN)
    reports(w, "checked: <slab .*>, .* is frozen: (True|False)")


def test_slab_of_no_slab_type(w: Setup) -> None:
    """A CPU slab whose page says that it is none."""
    w.cpu._mapcount = PAGE_TYPE_LARGE_KMALLOC
    reports(w, "is no slab of this cache")


def test_slab_of_another_cache(w: Setup) -> None:
    """A slab that went to the wrong cache."""
    other = create(w.m, "other", 8192)
    w.full.slab_cache = other
    reports(w, "is no slab of this cache")


@pytest.mark.parametrize("what", ["gone", "another"])
def test_pages_that_lead_elsewhere(w: Setup, what: str) -> None:
    """A tail page that does not lead to its head."""
    number = next(n for n, slab in w.m.mem_map.slabs.items() if slab is w.full) + 3
    if what == "gone":
        del w.m.mem_map.slabs[number]
    else:
        w.m.mem_map.slabs[number] = w.partial
    reports(w, "is not what its pages lead to")


def test_more_objects_than_fit(w: Setup) -> None:
    """A colour that pushes the last object over the end."""
    w.full.s_mem += 64
    reports(w, "has more objects than fit")


def test_a_colour_that_there_is_not(w: Setup) -> None:
    """Two colours; a third one would fit, but is not to be used."""
    s = w.m.kmem_cache_create("coloured", 8160)
    assert s.colour == 2
    on_cpu(w.m, s.alloc)
    page = s.cpu_slab.of(0).page
    assert page is not None
    page.s_mem += s.colour * s.colour_off
    reports(w, "has a colour that the cache does not have")


def test_count_of_free_objects(w: Setup) -> None:
    """inuse that disagrees with the free list."""
    assert w.partial.inuse == 2
    counters(w.partial, 1)
    reports(w, r"has \d objects on its free list")


def set_next(w: Setup, address: int, following: int) -> None:
    """Overwrite a free pointer, as a use after free would."""
    w.m.memory.write_u64(address + w.s.offset, following)


def test_free_pointer_to_nowhere(w: Setup) -> None:
    """A use after free that has overwritten the free pointer."""
    assert w.partial.freelist is not None
    set_next(w, w.partial.freelist, 0xDEAD_BEEF)
    reports(w, "the free list leads to 0xdeadbeef, which is no object")


def test_free_pointer_between_objects(w: Setup) -> None:
    """One that points into an object."""
    assert w.c.freelist is not None
    set_next(w, w.c.freelist, w.c.freelist + 8)
    reports(w, f"the free list leads to {w.c.freelist + 8:#x}, which is no object")


def test_free_list_with_a_loop(w: Setup) -> None:
    """A naive double free that was not noticed."""
    assert w.free.freelist is not None
    set_next(w, w.free.freelist, w.free.freelist)
    reports(w, f"the free list comes to {w.free.freelist:#x} twice")


def test_free_object_that_somebody_has(w: Setup) -> None:
    """An object handed out, but still on a free list: the slab's, and the CPU's."""
    address = w.partial.freelist
    assert address is not None
    w.partial.owners[address] = 0
    reports(w, f"object {address:#x} is on the slab's free list, and somebody has it")
    del w.partial.owners[address]
    w.m.verify()
    address = w.c.freelist
    assert address is not None
    w.cpu.owners[address] = 0
    reports(w, f"object {address:#x} is on the CPU's free list, and somebody has it")


def test_object_on_both_lists(w: Setup) -> None:
    """An object freed to the slab that the CPU's list still has."""
    address = w.c.freelist
    assert address is not None
    following = w.m.memory.read_u64(address + w.s.offset)
    pair = w.cpu.freelist_counters
    pair.set(address, pair.second - (1 if not following else 2))
    reports(w, "is on both free lists")


def test_lost_object(w: Setup) -> None:
    """An object that nobody has and no list."""
    address = w.held[0]
    del w.cpu.owners[address]
    reports(w, rf"1 objects in use, 0 free, 2 on the CPU's free list; lost: {address:#x}$")


def test_owner_of_no_object(w: Setup) -> None:
    """Somebody who has what is no object."""
    w.full.owners[5] = 0
    reports(w, "0x5 was handed out, but is no object")


@pytest.mark.parametrize("hardened", [False, True])
def test_hardened_pointers_are_decoded(hardened: bool) -> None:
    """A bit that flips in a stored pointer is found in either encoding."""
    with Machine(cpus=1, memory="16M", slab_merge=False, freelist_hardened=hardened) as m:
        s: KmemCache = create(m, "bits", 512)
        address = on_cpu(m, s.alloc)
        on_cpu(m, s.free, address)
        m.verify()
        m.memory.write_u64(address + s.offset, m.memory.read_u64(address + s.offset) ^ 2)
        with pytest.raises(
            SlabError, match=r"bits: .*the free list leads to 0x[0-9a-f]+, which is no"
        ):
            m.verify()


def test_which_node() -> None:
    """The message names the node."""
    with Machine(cpus=2, memory="32M", nodes=2, slab_merge=False) as m:
        s = create(m, "nodes", 512)
        on_cpu(m, s.alloc, cpu=1)
        s.node[1].total_objects_counter.inc()
        with pytest.raises(SlabError, match="nodes: total_objects of node 1 is 17, but it is 16"):
            m.verify()


def test_what_a_cpu_keeps_beside_its_slab(w: Setup) -> None:
    """Its owners and its node are those of its slab."""
    w.c.node = 5
    reports(w, r"checked: the owners or the node that cpu1 keeps are not its slab's")


def test_refcount_off(w: Setup) -> None:
    """It counts the cache and its aliases."""
    w.s.refcount += 1
    reports(w, r"checked: refcount 2, but its aliases are \[\]")
