"""The life of caches: created, merged, shrunk, destroyed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from concmem.errors import (
    BadArgument,
    CacheBusy,
    CacheDestroyed,
    DoubleFree,
    KernelBug,
    SleepInAtomic,
)
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import Page
from concmem.mm.slab_flags import (
    SLAB_ACCOUNT,
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_HWCACHE_ALIGN,
    SLAB_NO_MERGE,
    SLAB_PANIC,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.slab_sysfs import SlabSysfs

from .helpers import nr_buddy_pages, nr_managed, on_cpu
from .slab_helpers import create, nr_live, picture


@pytest.fixture
def m() -> Iterator[Machine]:
    """Two CPUs; verified at the end."""
    with Machine(cpus=2, memory="32M") as machine:
        yield machine
        machine.verify()


def nothing(_address: int) -> None:
    """A constructor."""


# -- merging


def test_caches_that_are_alike_are_merged(m: Machine) -> None:
    """The second is the first under another name; sizes grow to the larger one."""
    a = create(m, "a", 100)
    b = create(m, "b", 103)
    c = create(m, "c", 97)
    assert a is b is c
    assert (a.name, a.aliases, a.refcount) == ("a", ["b", "c"], 3)
    assert (a.object_size, a.inuse, a.size) == (103, 104, 104)
    assert all(m.slab.find(name) is a for name in "abc")
    assert m.slab.caches()[0] is a


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"size": 104}, {"size": 96}),  # a word is too much
        ({"size": 96}, {"size": 104}),  # too small
        ({"size": 104}, {"size": 104, "flags": SLAB_NO_MERGE}),
        ({"size": 104, "flags": SLAB_NO_MERGE}, {"size": 104}),
        ({"size": 104}, {"size": 104, "flags": SLAB_TYPESAFE_BY_RCU}),
        ({"size": 96, "flags": SLAB_TYPESAFE_BY_RCU}, {"size": 104}),
        ({"size": 104}, {"size": 104, "flags": SLAB_RECLAIM_ACCOUNT}),
        ({"size": 104}, {"size": 104, "flags": SLAB_CACHE_DMA}),
        ({"size": 104}, {"size": 104, "flags": SLAB_CACHE_DMA32}),
        ({"size": 104, "flags": SLAB_ACCOUNT}, {"size": 104}),
        ({"size": 104}, {"size": 104, "ctor": nothing}),
        ({"size": 104, "ctor": nothing}, {"size": 112}),
        ({"size": 104}, {"size": 104, "align": 16}),
        ({"size": 104}, {"size": 104, "flags": SLAB_HWCACHE_ALIGN}),
    ],
)
def test_caches_that_differ_stay_apart(
    m: Machine, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Another size class, alignment, kind of memory or a constructor keeps caches apart."""
    a, b = create(m, "a", **first), create(m, "b", **second)
    assert a is not b
    assert not a.aliases


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"size": 128, "flags": SLAB_HWCACHE_ALIGN}, {"size": 122}),
        ({"size": 128}, {"size": 128, "flags": SLAB_HWCACHE_ALIGN}),
        ({"size": 104}, {"size": 104, "flags": SLAB_PANIC}),
        ({"size": 104, "flags": SLAB_ACCOUNT}, {"size": 104, "flags": SLAB_ACCOUNT}),
        ({"size": 96}, {"size": 90, "align": 32}),
    ],
)
def test_what_does_not_keep_caches_apart(
    m: Machine, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Flags that say nothing about memory, and alignments that the size keeps anyway."""
    assert create(m, "a", **first) is create(m, "b", **second)


@pytest.mark.parametrize("size", [128, 192, 320, 384, 640, 960, 1152, 3200])
@pytest.mark.parametrize("align", [8, 32, 64, 128, 256, 512, 1024])
def test_objects_are_aligned_whatever_is_merged(size: int, align: int) -> None:
    """Colours included, merged or not, an object is where its own cache wants it."""
    with Machine(cpus=2, memory="16M") as m:
        create(m, "a", size)
        b = create(m, "b", size, align=align)
        for _ in range(4):
            addresses = on_cpu(m, b.alloc_bulk, b.objs_per_slab)
            assert {address % align for address in addresses} == {0}


def test_size_classes_are_kept_apart(m: Machine) -> None:
    """What may be copied to user space says so: nothing is merged with a kmalloc cache."""
    assert create(m, "mine", 64) is not m.slab.find("kmalloc-64")
    assert m.slab.create("copied", 64, usersize=64) is not m.slab.find("mine")


def test_no_merging_at_all() -> None:
    """slab_merge=False keeps every cache by itself."""
    with Machine(cpus=1, memory="16M", slab_merge=False) as m:
        assert create(m, "a", 104) is not create(m, "b", 104)


def test_merged_caches_live_as_long_as_their_last_user(m: Machine) -> None:
    """Destroying an alias takes a name away, and only the last one the cache."""
    a = create(m, "a", 104)
    b = create(m, "b", 104)
    address = on_cpu(m, a.alloc)
    on_cpu(m, b.destroy)
    assert (a.refcount, a.aliases) == (1, [])
    with pytest.raises(BadArgument, match="name: there is no cache 'b'"):
        m.slab.find("b")
    on_cpu(m, a.free, address)
    assert create(m, "b", 104) is a
    on_cpu(m, a.destroy)
    on_cpu(m, a.destroy)
    assert a not in m.slab.caches()
    for name in "ab":
        with pytest.raises(BadArgument, match=f"name: there is no cache '{name}'"):
            m.slab.find(name)


# -- create


def test_names_are_taken_once(m: Machine) -> None:
    """By caches and by aliases; they are free again afterwards."""
    a = create(m, "a", 104)
    create(m, "b", 104)
    for name in ("a", "b", "kmalloc-64"):
        with pytest.raises(BadArgument, match=f"^name: a cache '{name}' exists already"):
            create(m, name, 200)
    on_cpu(m, a.destroy)
    on_cpu(m, a.destroy)
    assert create(m, "a", 200).object_size == 200
    assert create(m, "b", 300).object_size == 300


def test_newest_first(m: Machine) -> None:
    """caches() begins with the newest, as /proc/slabinfo does."""
    made = [create(m, name, size) for name, size in (("x", 40), ("y", 400), ("z", 4000))]
    assert m.slab.caches()[:3] == made[::-1]


def test_created_on_all_cpus_at_once() -> None:
    """One of those who want the same name gets it; alike caches are shared, no count is lost."""
    with Machine(cpus=4, memory="16M", runtime="jitter", seed=3) as m:

        def body() -> list[bool]:
            me = m.smp_processor_id()
            got = []
            for turn in range(6):
                m.kmem_cache_create(f"own-{me}-{turn}", 104)
                try:
                    m.kmem_cache_create(f"same-{turn}", 1000)
                    got.append(True)
                except BadArgument:
                    got.append(False)
            return got

        results = m.run([body] * 4)
        assert [sum(column) for column in zip(*map(list, results), strict=True)] == [1] * 6  # type: ignore[arg-type]
        own = m.slab.find("own-0-0")
        assert own.refcount == 24 == len(own.aliases) + 1
        same = m.slab.find("same-0")
        assert same.refcount == 6

        def end() -> None:
            for _ in range(6):
                own.destroy()

        m.run([end] * 4)
        assert own not in m.slab.caches()
        assert "own-0-0" not in {name for s in m.slab.caches() for name in (s.name, *s.aliases)}
        m.verify()


# -- destroy


def test_destroy_gives_everything_back(m: Machine) -> None:
    """CPU slabs, partial lists and empty slabs of all CPUs go back to the buddy system."""
    on_cpu(m, m.drain_all_pages)
    s = create(m, size=8192)
    for cpu in (0, 1):
        addresses = on_cpu(m, s.alloc_bulk, 30, cpu=cpu)
        on_cpu(m, s.free_bulk, addresses, cpu=1 - cpu)
    assert s.node[0].nr_slabs > 0
    on_cpu(m, s.destroy)
    assert s not in m.slab.caches()
    assert not m.mem_map.slabs
    on_cpu(m, m.drain_all_pages)
    assert nr_buddy_pages(m) == nr_managed(m)


def test_destroy_with_live_objects(m: Machine) -> None:
    """It is refused, with a report that names the objects, and the cache works on."""
    s = create(m, "busy", 8192)
    addresses = on_cpu(m, s.alloc_bulk, 6)
    other = on_cpu(m, s.alloc, cpu=1)
    on_cpu(m, s.free, addresses.pop(1))
    with pytest.raises(
        CacheBusy, match=r"^cache: busy still has 6 objects \(0xffff.*\.\.\.\): Objects"
    ):
        on_cpu(m, s.destroy)
    log = m.log.read()
    assert "BUG busy (Not tainted): Objects remaining on __kmem_cache_shutdown()" in log
    reported = re.findall(r"Object (0x[0-9a-f]+) @offset=(\d+)", log)
    assert {int(address, 16) for address, _ in reported} == {*addresses, other}
    for address, offset in reported:
        assert int(address, 16) % 32768 == int(offset)
    slabs = re.findall(r"Slab (0x[0-9a-f]+) objects=(\d+) used=(\d+) fp=(0x[0-9a-f]+) flags=", log)
    assert sorted(int(used) for _, _, used, _ in slabs) == [1, 2, 3]
    assert {objects for _, objects, _, _ in slabs} == {"4"}
    m.verify()
    assert m.slab.find("busy") is s
    assert (s.refcount, nr_live(s)) == (1, 6)
    more = on_cpu(m, s.alloc_bulk, 5)
    m.verify()
    on_cpu(m, s.free_bulk, [*addresses, other, *more])
    on_cpu(m, s.destroy)
    assert not m.mem_map.slabs


def test_destroy_twice_at_once() -> None:
    """Of two CPUs that destroy the same cache, one does, and the other is told so."""
    for seed in range(12):
        with Machine(cpus=2, memory="16M", runtime="jitter", seed=seed) as m:
            s = create(m, "once", 104)
            on_cpu(m, s.free, on_cpu(m, s.alloc))

            def body(s: KmemCache = s) -> str:
                try:
                    s.destroy()
                except CacheDestroyed as error:
                    return str(error)
                return ""

            results = m.run([body, body])
            assert sorted(map(str, results)) == ["", "cache: once has been destroyed"]
            m.verify()


def test_a_name_can_be_used_again_at_once(m: Machine) -> None:
    """Create and destroy under one name, with objects, many times."""
    for turn in range(30):
        s = create(m, "again", 100 + 8 * turn)
        on_cpu(m, s.free, on_cpu(m, s.alloc, cpu=turn % 2))
        on_cpu(m, s.destroy)
    assert not m.mem_map.slabs


def test_create_and_destroy_on_all_cpus() -> None:
    """Caches come and go on every CPU while others use theirs."""
    with Machine(cpus=4, memory="32M", runtime="jitter", seed=5, slab_merge=False) as m:
        lasting = create(m, "lasting", 300)

        def body() -> None:
            me = m.smp_processor_id()
            for turn in range(8):
                s = m.kmem_cache_create(f"c{me}-{turn}", 200 + 64 * turn)
                mine = s.alloc_bulk(20)
                others = lasting.alloc_bulk(7)
                s.free_bulk(mine)
                s.destroy()
                lasting.free_bulk(others)

        m.run([body] * 4)
        m.verify()
        assert m.slab.caches()[0] is lasting
        on_cpu(m, lasting.destroy)
        assert not m.mem_map.slabs


# -- shrink


def slabs_with_free(m: Machine, s: KmemCache, free: list[int]) -> list[Page]:
    """Slabs of *s* on the partial list, so many objects of each free."""
    per = s.objs_per_slab
    addresses = on_cpu(m, s.alloc_bulk, per * len(free))
    groups = [addresses[i * per : (i + 1) * per] for i in range(len(free))]
    on_cpu(m, s.flush_all)
    for group, nr in zip(groups, free, strict=True):
        on_cpu(m, s.free_bulk, group[:nr])
    on_cpu(m, s.flush_all)
    return [m.mem_map.slabs[group[0] >> 12] for group in groups]


def test_shrink_sorts_and_discards() -> None:
    """Empty slabs go, the fullest come first; those with many free objects stay at the end."""
    with Machine(cpus=1, memory="32M", slab_merge=False) as m:
        s = create(m, size=64)
        assert s.objs_per_slab == 64
        free = [40, 3, 64, 32, 1, 33, 63, 2, 64, 31]
        slabs = dict(zip(free, slabs_with_free(m, s, free), strict=True))
        assert len(picture(m, s).free[0]) == 2
        assert on_cpu(m, s.shrink) == 8
        (partial,) = picture(m, s).partial
        assert partial[:5] == [slabs[nr].pfn for nr in (1, 2, 3, 31, 32)]
        assert sorted(partial[5:]) == sorted(slabs[nr].pfn for nr in (33, 40, 63))
        assert picture(m, s).free == [[]]
        assert s.node[0].nr_slabs == 8
        m.verify()


def test_shrink_while_others_work() -> None:
    """Shrinks and flushes go on beside allocations on all CPUs."""
    with Machine(cpus=4, memory="32M", runtime="jitter", seed=7, slab_merge=False) as m:
        s = create(m, size=2000)

        def work() -> None:
            for turn in range(25):
                s.free_bulk(s.alloc_bulk(1 + turn % 20))

        def tidy() -> None:
            for turn in range(12):
                (s.shrink, s.flush_all)[turn % 2]()

        m.run([work, tidy, work, tidy])
        m.verify()
        on_cpu(m, s.shrink)
        assert s.node[0].nr_slabs == 0


@pytest.mark.parametrize("order", ["abc", "bca", "cba", "acb"])
def test_merged_caches_are_destroyed_by_name(m: Machine, order: str) -> None:
    """Whichever goes, the others stay, and its name is free again."""
    shared, *_ = (create(m, name, 48) for name in "abc")
    for gone, name in enumerate(order, 1):
        on_cpu(m, shared.destroy, name)
        with pytest.raises(BadArgument, match=r"^name: there is no cache"):
            m.slab.find(name)
        for left in order[gone:]:
            assert m.slab.find(left) is shared
            assert left in {shared.name, *shared.aliases}
    assert create(m, "a", 48) is not shared


def test_destroy_by_a_name_that_is_another(m: Machine) -> None:
    """Nothing happens."""
    a = create(m, "a", 48)
    other = create(m, "other", 480)
    for name in ("other", "nobody"):
        with pytest.raises(BadArgument, match=r"^name: cache a has no name"):
            on_cpu(m, a.destroy, name)
    assert m.slab.find("a") is a
    assert m.slab.find("other") is other


def test_nothing_that_sleeps_in_an_interrupt(m: Machine) -> None:
    """Whichever CPUs have slabs: flush, shrink and destroy say so."""
    cache = create(m, "a", 48)
    on_cpu(m, lambda: cache.free(cache.alloc()))  # type: ignore[arg-type]
    for use in (cache.flush_all, cache.shrink, cache.destroy):
        with pytest.raises(SleepInAtomic):
            m.call_on(0, use)
    on_cpu(m, cache.destroy)


def test_a_cpu_that_goes(m: Machine) -> None:
    """The nodes get its slabs of all caches, and only its; used again it takes new ones."""
    caches = [create(m, name, size) for name, size in (("one", 640), ("two", 1280), ("idle", 2560))]

    def body() -> None:
        for cache in caches[:2]:
            assert cache.alloc() is not None

    for cpu in (0, 1):
        on_cpu(m, body, cpu=cpu)
    on_cpu(m, m.slab.cpu_dead, 1)
    assert [[c.page is None for c in cache.cpu_slab.all()[:2]] for cache in caches[:2]] == [
        [False, True],
        [False, True],
    ]
    assert not caches[2].is_up
    for bad in (2, -1, "1", True):
        with pytest.raises(BadArgument, match="cpu: "):
            on_cpu(m, m.slab.cpu_dead, bad)
    m.verify()
    on_cpu(m, body, cpu=1)
    m.verify()


def test_user_space_is_told_of_new_caches(m: Machine) -> None:
    """By their creator, who holds nothing then: the helper may make caches, too."""
    told: list[str] = []

    def helper(name: str) -> None:
        told.append(name)
        if name == "objects":
            m.kmem_cache_create("of-the-helper", 64)

    m.slab.sysfs.uevent_helper = helper
    m.kmem_cache_create("objects", 64)
    assert told == ["objects", "of-the-helper"]


def test_directories_in_sysfs(m: Machine) -> None:
    """Each cache has one, those of the boot included, until it is destroyed; only what has one can drop it."""
    s = create(m, "objects", 640)
    for cache in m.slab.caches():
        if cache is not s:
            m.slab.sysfs.release(cache)  # was there
    on_cpu(m, s.destroy)
    with pytest.raises(KernelBug, match="'objects': is not initialized, yet kobject_put"):
        m.slab.sysfs.release(s)


def test_a_cache_that_goes_before_sysfs_comes(m: Machine) -> None:
    """It has no directory, and drops none."""
    m.slab.sysfs = SlabSysfs(m.runtime)
    early, late = create(m, "early", 640), create(m, "late", 1280)
    on_cpu(m, early.destroy)
    on_cpu(m, m.slab.late_init)
    on_cpu(m, late.destroy)
    assert m.slab.sysfs.is_up


def test_a_cache_is_released_once(m: Machine) -> None:
    """What it is made of is poisoned then."""
    s = create(m, "objects", 640)
    on_cpu(m, s.destroy)
    with pytest.raises(DoubleFree, match="objects has been released already"):
        m.slab._release(s)
