"""Bad input to caches and kmalloc: a named error that says what is wrong, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    BadFree,
    CacheDestroyed,
    ConcmemError,
    DoubleFree,
    FreepointerCorrupt,
    NotACpu,
    ObjectHandedOutTwice,
    SlabError,
)
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache

from .helpers import alloc as alloc_pages
from .helpers import cached_pages, on_cpu
from .slab_helpers import create, picture, slab_of


@pytest.fixture
def m() -> Iterator[Machine]:
    """Two CPUs."""
    with Machine(cpus=2, memory="32M", slab_merge=False) as machine:
        yield machine


class Used:
    """A cache with live objects in a CPU slab, a CPU partial slab and a full slab."""

    def __init__(self, m: Machine, name: str = "used") -> None:
        self.s = s = create(m, name, 4000)
        self.mine = on_cpu(m, s.alloc_bulk, 8)
        self.freed = on_cpu(m, s.alloc_bulk, 12)
        self.mine += self.freed[1:4] + self.freed[5:]
        on_cpu(m, s.free, self.freed[4])  # in the CPU slab
        self.partial = self.mine.pop(0)
        on_cpu(m, s.free, self.partial)  # in a slab on the CPU partial list
        self.other = on_cpu(m, s.alloc, cpu=1)


@pytest.fixture
def used(m: Machine) -> Used:
    """That."""
    return Used(m)


def state(m: Machine) -> Any:
    """Everything that a refused call must leave alone."""
    slabs = set(m.mem_map.slabs.values())
    used = [s for s in m.slab.caches() if any(n.nr_slabs for n in s.node)]
    return (
        [(s.name, list(s.aliases), s.refcount) for s in m.slab.caches()],
        [(picture(m, s), [s.cpu_slab.of(cpu).freelist for cpu in (0, 1)]) for s in used],
        {slab.pfn: (dict(slab.owners), slab.freelist, slab.inuse) for slab in slabs},
        [zone.nr_free_pages.value for zone in m.zones],
        [cached_pages(m, cpu) for cpu in (0, 1)],
        m.vm_areas.statistics(),
    )


def refuses(
    m: Machine,
    error: type[ConcmemError] | tuple[type[ConcmemError], ...],
    match: str,
    fn: Callable[..., Any],
    *args: Any,
    cpu: int = 0,
) -> None:
    """The call raises *error*, and everything is as before."""
    before = state(m)
    with pytest.raises(error, match=match):
        on_cpu(m, fn, *args, cpu=cpu)
    m.verify()
    assert state(m) == before


# -- create


@pytest.mark.parametrize("size", [0, -1, -(1 << 40), (4 << 20) + 1, 1 << 70])
def test_create_refuses_size(m: Machine, size: int) -> None:
    """Only 1 byte to the largest block of pages can be objects."""
    refuses(m, BadArgument, "^size: ", m.kmem_cache_create, "new", size)


@pytest.mark.parametrize("size", [8.0, "8", None, True, [8]])
def test_create_refuses_size_types(m: Machine, size: Any) -> None:
    """A size is a whole number."""
    refuses(m, BadArgumentType, "^size: ", m.kmem_cache_create, "new", size)


@pytest.mark.parametrize("align", [3, 24, -8, -1, 8 << 20])
def test_create_refuses_align(m: Machine, align: int) -> None:
    """An alignment is a power of two, or 0, that pages can have."""
    refuses(m, BadArgument, "^align: ", m.kmem_cache_create, "new", 64, align)


@pytest.mark.parametrize("align", [8.0, "8", None, True])
def test_create_refuses_align_types(m: Machine, align: Any) -> None:
    """And a whole number."""
    refuses(m, BadArgumentType, "^align: ", m.kmem_cache_create, "new", 64, align)


@pytest.mark.parametrize("flags", [1, -1, 1 << 60, 0x200])
def test_create_refuses_flags(m: Machine, flags: int) -> None:
    """Bits that are no flag of a cache."""
    refuses(m, BadArgument, "^flags: ", m.kmem_cache_create, "new", 64, 0, flags)
    refuses(m, BadArgumentType, "^flags: ", m.kmem_cache_create, "new", 64, 0, "SLAB_ACCOUNT")


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "a\n", "\t", ".", "..", "a\0b", "x" * 201, "\x1b[1m"]
)
def test_create_refuses_names(m: Machine, name: str) -> None:
    """A name that no file of /proc or /sys could show."""
    refuses(m, BadArgument, "^name: ", m.kmem_cache_create, name, 64)


@pytest.mark.parametrize("name", [None, 5, b"bytes"])
def test_create_refuses_name_types(m: Machine, name: Any) -> None:
    """A name is text."""
    refuses(m, BadArgumentType, "^name: ", m.kmem_cache_create, name, 64)


def test_create_refuses_what_does_not_fit(m: Machine) -> None:
    """The free pointer behind the largest object is too much; and a ctor is a function."""
    largest = 4 << 20
    refuses(m, BadArgument, "^size: ", m.kmem_cache_create, "new", largest, 0, 0x80000)
    refuses(m, BadArgumentType, "^ctor: ", m.kmem_cache_create, "new", 64, 0, 0, "ctor")
    assert create(m, "new", largest).objs_per_slab == 1


def test_find_refuses(m: Machine) -> None:
    """A name that no cache has."""
    with pytest.raises(BadArgument, match=r"^name: there is no cache 'none'"):
        m.slab.find("none")


# -- alloc


@pytest.mark.parametrize("gfp", [-1, 0x200, 1 << 24, 1 << 70])
def test_alloc_refuses_gfp(m: Machine, used: Used, gfp: int) -> None:
    """Unknown bits, on the fast path, too."""
    refuses(m, BadArgument, "^gfp: ", used.s.alloc, gfp)
    refuses(m, BadArgument, "^gfp: ", used.s.alloc_bulk, 3, gfp)
    refuses(m, BadArgument, "^gfp: ", m.kmalloc, 64, gfp)
    refuses(m, BadArgument, "^gfp: ", m.kmalloc, 20_000, gfp)


@pytest.mark.parametrize("gfp", ["GFP_KERNEL", None, 1.5, [], b"\0"])
def test_alloc_refuses_gfp_types(m: Machine, used: Used, gfp: Any) -> None:
    """GFP flags of another type."""
    refuses(m, BadArgumentType, "^gfp: ", used.s.alloc, gfp)
    refuses(m, BadArgumentType, "^gfp: ", used.s.alloc_bulk, 3, gfp)
    refuses(m, BadArgumentType, "^gfp: ", m.kmalloc, 64, gfp)
    refuses(m, BadArgumentType, "^gfp: ", m.kmalloc, 20_000, gfp)


@pytest.mark.parametrize("node", [-1, 1, 1 << 40, "0", 0.0, True])
def test_alloc_refuses_node(m: Machine, used: Used, node: Any) -> None:
    """A node that there is not, or that is no number."""
    error = BadArgument if type(node) is int else BadArgumentType
    refuses(m, error, "^node: ", used.s.alloc, 0xCC0, node)
    refuses(m, error, "^node: ", m.kmalloc, 64, 0xCC0, node)
    refuses(m, error, "^node: ", m.kmalloc, 20_000, 0xCC0, node)


@pytest.mark.parametrize("nr", [0, -1, 1.0, "3", None, True])
def test_alloc_bulk_refuses_nr(m: Machine, used: Used, nr: Any) -> None:
    """A number of objects is a whole number from 1."""
    error = BadArgument if type(nr) is int else BadArgumentType
    refuses(m, error, "^nr: ", used.s.alloc_bulk, nr)


# -- free


@pytest.mark.parametrize("cpu", [0, 1])
def test_free_twice(m: Machine, used: Used, cpu: int) -> None:
    """Of an object of the CPU slab, of a partial slab, by the same or another CPU: by name."""
    for address in (used.freed[4], used.partial):
        match = f"^address: used: cpu{cpu} frees {address:#x}, but this object is free already"
        refuses(m, DoubleFree, match, used.s.free, address, cpu=cpu)
        refuses(m, DoubleFree, match, used.s.free_bulk, [address], cpu=cpu)
        refuses(m, DoubleFree, match, m.kfree, address, cpu=cpu)


def test_free_on_two_cpus_at_once() -> None:
    """Exactly one of two CPUs that free the same object succeeds."""
    for runtime in ("free", "jitter"):
        with Machine(cpus=2, memory="16M", runtime=runtime, seed=4, slab_merge=False) as m:
            s = create(m, size=1000)
            turn = [m.runtime.cell(0, f"turn {cpu}") for cpu in range(2)]

            def body(
                m: Machine = m,
                s: KmemCache = s,
                addresses: list[int] = on_cpu(m, s.alloc_bulk, 60),  # noqa: B008
                turn: list[Any] = turn,
            ) -> list[str]:
                me = m.smp_processor_id()
                results = []
                for number, address in enumerate(addresses, 1):
                    turn[me].value = number
                    while turn[1 - me].value < number:
                        m.runtime.cpu_relax()
                    try:
                        s.free(address)
                        results.append("freed")
                    except (DoubleFree, BadFree) as error:
                        results.append(type(error).__name__)
                return results

            zero, one = m.run([body, body])
            assert zero is not None
            assert one is not None
            for pair in zip(zero, one, strict=True):
                assert sorted(pair)[1] == "freed"
                assert sorted(pair)[0] in ("DoubleFree", "BadFree")
            m.verify()
            on_cpu(m, s.destroy)


@pytest.mark.parametrize("offset", [1, 8, 3999])
def test_free_inside_of_an_object(m: Machine, used: Used, offset: int) -> None:
    """An address that an object does not begin at, aligned or not, of a live object and a free one."""
    for cpu in (0, 1):
        for address in (used.mine[0], used.other, used.partial):
            match = (
                f"^address: used: cpu{cpu} frees {address + offset:#x}, which is {offset} bytes "
                f"inside of the object at {address:#x}"
            )
            refuses(m, BadFree, match, used.s.free, address + offset, cpu=cpu)
            refuses(m, BadFree, match, m.kfree, address + offset, cpu=cpu)
            refuses(m, BadFree, match, used.s.free_bulk, [address + offset], cpu=cpu)


def test_free_beside_the_objects(m: Machine) -> None:
    """In a slab, but before its first object, where its colour is, or after the last one."""
    s = create(m, size=3000)
    slabs = on_cpu(m, s.alloc_bulk, 20)
    base = min(slabs[10:]) - 64  # the second slab begins one colour further
    for address in (base, base + 63, base + 64 + 10 * 3000, base + 32767):
        refuses(
            m, BadFree, f"frees {address:#x}, which is in a slab, but in no object", s.free, address
        )


def test_free_elsewhere(m: Machine, used: Used) -> None:
    """Addresses that are in no slab: page memory, no memory, small numbers."""
    page = alloc_pages(m)
    for address in (
        m.page_address(page),
        0,
        1,
        -8,
        1 << 70,
        0xFFFF_8880_0000_0000,
        0xFFFF_C900_0000_0000,
    ):
        refuses(
            m,
            BadFree,
            f"^address: used: cpu0 frees {address:#x}, which is in no slab",
            used.s.free,
            address,
        )
        refuses(m, BadFree, "^address: used: cpu0 frees", used.s.free_bulk, [used.mine[0], address])
        if address and address < 0xFFFF_C900_0000_0000:
            refuses(
                m,
                BadFree,
                f"^address: cpu1 frees {address:#x}, which kmalloc has not",
                m.kfree,
                address,
                cpu=1,
            )


def test_free_to_another_cache(m: Machine, used: Used) -> None:
    """An object belongs to its cache, and a block of kmalloc to none of these."""
    other = Used(m, "other")
    for address in (other.mine[0], other.partial, other.other):
        match = f"^address: used: cpu0 frees {address:#x}, an object of cache other"
        refuses(m, BadFree, match, used.s.free, address)
        refuses(m, BadFree, match, used.s.free_bulk, [used.mine[0], address])
    large = on_cpu(m, m.kmalloc, 20_000)
    refuses(m, BadFree, "^address: used: cpu0 frees", used.s.free, large)
    refuses(m, BadFree, "^address: used: cpu0 frees", used.s.free_bulk, [large])


@pytest.mark.parametrize("address", [None, "0xffff888000400000", 1.5, b"", (), [1], {}])
def test_free_refuses_types(m: Machine, used: Used, address: Any) -> None:
    """What is no number is no address."""
    refuses(m, BadArgumentType, "^address: ", used.s.free, address)
    refuses(m, BadArgumentType, "^addresses: ", used.s.free_bulk, [address])
    refuses(m, BadArgumentType, "^addresses: ", used.s.free_bulk, [used.mine[0], address])
    if address:
        refuses(m, BadArgumentType, "^address: ", m.kfree, address)
        refuses(m, BadArgumentType, "^address: ", m.ksize, address)
        refuses(m, BadArgumentType, "^address: ", m.krealloc, address, 10)


@pytest.mark.parametrize("addresses", [None, 5, 1.5])
def test_free_bulk_refuses_types(m: Machine, used: Used, addresses: Any) -> None:
    """What is no list of addresses."""
    refuses(m, BadArgumentType, "^addresses: ", used.s.free_bulk, addresses)


def test_free_refuses_what_only_compares_equal(m: Machine) -> None:
    """A float may equal an address, and must not get on a free list for that."""
    s = create(m, size=2048)
    addresses = on_cpu(m, s.alloc_bulk, 20)
    alike = [address for address in addresses if float(address) == address]
    assert alike
    for address in alike:
        for cpu in (0, 1):
            refuses(m, BadArgumentType, "^address: ", s.free, float(address), cpu=cpu)
            refuses(m, BadArgumentType, "^addresses: ", s.free_bulk, [float(address)], cpu=cpu)
            refuses(m, BadArgumentType, "^address: ", m.kfree, float(address), cpu=cpu)
    on_cpu(m, s.free_bulk, addresses)
    on_cpu(m, s.destroy)


@pytest.mark.parametrize("bad", ["twice", "free", "inside", "foreign", "text"])
@pytest.mark.parametrize("place", [0, 1, 5, -1])
def test_free_bulk_is_all_or_nothing(m: Machine, used: Used, bad: str, place: int) -> None:
    """With one bad element, wherever it is, none of the others has been freed."""
    addresses: list[Any] = [*used.mine[:6], used.other]
    wrong: dict[str, Any] = {
        "twice": addresses[3],
        "free": used.partial,
        "inside": addresses[0] + 8,
        "foreign": on_cpu(m, m.kmalloc, 100),
        "text": "address",
    }
    addresses.insert(place if place >= 0 else len(addresses), wrong[bad])
    errors = (BadFree, DoubleFree, BadArgumentType)
    refuses(m, errors, "^address", used.s.free_bulk, addresses)
    refuses(m, errors, "^address", used.s.free_bulk, addresses, cpu=1)
    addresses.remove(wrong[bad])
    on_cpu(m, used.s.free_bulk, list({*addresses, *used.mine, *used.freed[:1], used.other}))
    on_cpu(m, used.s.destroy)


# -- destroyed caches


def test_use_of_a_destroyed_cache(m: Machine) -> None:
    """Everything says so, also when its per-CPU memory is another cache's by now."""
    s = create(m, "gone", 200)
    address = on_cpu(m, s.alloc)
    on_cpu(m, s.free, address)
    on_cpu(m, s.destroy)
    for _ in range(2):
        refuses(m, CacheDestroyed, "gone has been destroyed", s.alloc)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.alloc, 0xDC0)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.alloc, 0xCC0, 0)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.alloc_bulk, 3)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.shrink)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.flush_all)
        refuses(m, CacheDestroyed, "gone has been destroyed", s.destroy)
        refuses(m, (CacheDestroyed, BadFree), "gone", s.free, address)
        refuses(m, (CacheDestroyed, BadFree), "gone", s.free_bulk, [address])
        after = create(m, f"after-{len(m.slab.caches())}", 200)
        kept = on_cpu(m, after.alloc)
        refuses(m, (CacheDestroyed, BadFree), "gone", s.free, kept)
        on_cpu(m, after.free, kept)
        on_cpu(m, after.free_bulk, on_cpu(m, after.alloc_bulk, 50))


def test_a_size_class_is_never_destroyed(m: Machine) -> None:
    """Neither by name nor by accident."""
    s = m.slab.find("kmalloc-64")
    refuses(m, BadArgument, "kmalloc-64", s.destroy)


# -- kmalloc


@pytest.mark.parametrize("size", [-1, -(1 << 70), 1 << 64, 1 << 70])
def test_kmalloc_refuses_size(m: Machine, size: int) -> None:
    """A size is what 64 bits can hold."""
    for fn in (m.kmalloc, m.kzalloc, m.kvmalloc):
        refuses(m, BadArgument, "^size: ", fn, size)
    refuses(m, BadArgument, "^n: ", m.kmalloc_array, size, 8)
    refuses(m, BadArgument, "^size: ", m.kcalloc, 8, size)
    address = on_cpu(m, m.kmalloc, 64)
    refuses(m, BadArgument, "^new_size: ", m.krealloc, address, size)


@pytest.mark.parametrize("size", [8.0, 8.5, "8", None, True, [8]])
def test_kmalloc_refuses_size_types(m: Machine, size: Any) -> None:
    """And a whole number."""
    for fn in (m.kmalloc, m.kzalloc, m.kvmalloc):
        refuses(m, BadArgumentType, "^size: ", fn, size)
    refuses(m, BadArgumentType, "^n: ", m.kmalloc_array, size, 8)
    address = on_cpu(m, m.kmalloc, 64)
    refuses(m, BadArgumentType, "^new_size: ", m.krealloc, address, size)


@pytest.mark.parametrize("size", [64, 8192, 20_000, 1 << 20, 3 << 20])
def test_kfree_twice(m: Machine, size: int) -> None:
    """Of each kind of memory, by the same CPU and another one."""
    address = on_cpu(m, m.kmalloc, size)
    spare = [on_cpu(m, m.kmalloc, size) for _ in range(2)]
    on_cpu(m, m.kfree, address)
    for cpu in (0, 1):
        refuses(m, (BadFree, DoubleFree), f"{address:#x}", m.kfree, address, cpu=cpu)
        refuses(m, BadFree, f"{address:#x} is not the start of an allocation", m.ksize, address)
        refuses(m, (BadFree, DoubleFree), f"{address:#x}", m.krealloc, address, 10, cpu=cpu)
    for each in spare:
        on_cpu(m, m.kfree, each)


@pytest.mark.parametrize("size", [64, 8192, 20_000, 1 << 20, 3 << 20])
@pytest.mark.parametrize("offset", [1, 8, 4096, 5000])
def test_kfree_inside(m: Machine, size: int, offset: int) -> None:
    """Of an object, a block of pages, an area: by the address that it should have been."""
    offset = offset % size or 7
    address = on_cpu(m, m.kmalloc, size)
    refuses(m, (BadFree, BadArgument), f"{address + offset:#x}", m.kfree, address + offset)
    refuses(m, BadFree, f"{address + offset:#x}", m.ksize, address + offset)
    refuses(m, BadFree, f"{address + offset:#x}", m.krealloc, address + offset, 10)
    on_cpu(m, m.kfree, address)


# -- a thread that is no CPU


def test_no_cpu_no_memory(m: Machine, used: Used) -> None:
    """What needs a CPU says so on a thread that is none, before it has changed anything."""
    s = used.s
    empty = create(m, "empty", 4000)
    on_cpu(m, empty.free_bulk, on_cpu(m, empty.alloc_bulk, 20))
    small, large, far = (on_cpu(m, m.kmalloc, size) for size in (100, 20_000, 3 << 20))
    uses: list[Callable[[], Any]] = [
        s.alloc,
        lambda: s.alloc(0xDC0),
        lambda: s.alloc(0xCC0, 0),
        lambda: s.alloc_bulk(3),
        lambda: s.free(used.mine[0]),
        lambda: s.free(used.partial),
        lambda: s.free_bulk(used.mine),
        s.shrink,
        s.destroy,
        empty.shrink,
        empty.destroy,
        lambda: m.kmalloc(100),
        lambda: m.kmalloc(20_000),
        lambda: m.kmalloc(3 << 20),
        lambda: m.kfree(small),
        lambda: m.kfree(large),
        lambda: m.kfree(far),
        lambda: m.krealloc(small, 1000),
        lambda: m.krealloc(large, 100_000),
        lambda: m.kvfree(far),
    ]
    m.verify()
    before = state(m)
    for use in uses:
        with pytest.raises(NotACpu):
            use()
        m.verify()
        assert state(m) == before
    for address in (small, large, far):
        on_cpu(m, m.kfree, address)
    on_cpu(m, s.free_bulk, [*used.mine, used.other, *used.freed[:1]])
    on_cpu(m, s.destroy)
    on_cpu(m, empty.destroy)


def test_flush_all_needs_no_cpu(m: Machine, used: Used) -> None:
    """It works from anywhere: the flush itself runs on the CPUs."""
    used.s.flush_all()
    m.verify()
    assert picture(m, used.s).cpu == [None, None]


# -- constructors


def test_a_constructor_that_raises(m: Machine) -> None:
    """The caller gets the error, the pages go back, and the next allocation starts anew."""
    left = [2]

    def ctor(_address: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise ValueError("from the constructor")

    s = create(m, "built", 1000, ctor=ctor)
    on_cpu(m, m.drain_all_pages)
    free = sum(zone.nr_free_pages.value for zone in m.zones)
    with pytest.raises(ValueError, match="from the constructor"):
        on_cpu(m, s.alloc)
    m.verify()
    assert not m.mem_map.slabs
    on_cpu(m, m.drain_all_pages)
    assert sum(zone.nr_free_pages.value for zone in m.zones) == free
    address = on_cpu(m, s.alloc)
    on_cpu(m, s.free, address)
    on_cpu(m, s.destroy)


def test_a_constructor_that_raises_in_bulk(m: Machine) -> None:
    """What a bulk allocation has got so far goes back."""
    left = [20]

    def ctor(_address: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError

    cache = m.slab.create("fragile", 1000, ctor=ctor)
    with pytest.raises(ZeroDivisionError):
        on_cpu(m, cache.alloc_bulk, 100)
    on_cpu(m, cache.destroy)


def test_zero_would_undo_the_constructor(m: Machine) -> None:
    """Free objects stay constructed: __GFP_ZERO is refused."""
    cache = m.slab.create("constructed", 100, ctor=lambda _: None)
    for use in (cache.alloc, lambda gfp: cache.alloc_bulk(1, gfp)):
        with pytest.raises(BadArgument, match=r"^gfp: __GFP_ZERO"):
            on_cpu(m, use, 0xCC0 | 0x100)


def test_kernel_threads_of_a_large_machine() -> None:
    """Their numbers are above what a transaction id has room for."""
    with Machine(cpus=256, memory="32M") as m:
        cache = m.kmem_cache_create("a", 100)
        address = on_cpu(m, cache.alloc)
        m.rcu.call_rcu(lambda: cache.free(address))
        on_cpu(m, m.rcu.rcu_barrier)
        m.verify()
        assert sum(cache.statistics().events["alloc_fastpath"]) == 0


@pytest.mark.parametrize("bulk", [False, True])
def test_a_free_object_that_somebody_wrote_to(bulk: bool) -> None:
    """The free list leads nowhere: it is said so, and what was taken off it before is not lost."""
    with Machine(cpus=1, memory="16M") as m:
        cache = m.kmem_cache_create("a", 100)
        first, second = on_cpu(m, lambda: [cache.alloc(), cache.alloc()])
        on_cpu(m, lambda: [cache.free(second), cache.free(first)])
        m.memory.write_u64(second + cache.offset, 0x4141414141414141)
        with pytest.raises(
            FreepointerCorrupt, match=r"^a: a free list leads to 0x4141414141414141"
        ):
            on_cpu(m, lambda: cache.alloc_bulk(3) if bulk else [cache.alloc() for _ in range(3)])
        with pytest.raises(SlabError, match="0x4141414141414141"):
            m.verify()


def test_an_object_on_the_free_list_twice_in_bulk(m: Machine) -> None:
    """The error names it; those before it go back, and the list is not bent into a circle."""
    cache = m.kmem_cache_create("a", 100)
    taken = on_cpu(m, cache.alloc_bulk, 3)
    on_cpu(m, cache.free_bulk, taken[:2])
    slab = slab_of(m, taken[0])
    slab.owners[taken[1]] = 0  # as if somebody had been given it
    with pytest.raises(ObjectHandedOutTwice, match=hex(taken[1])):
        on_cpu(m, cache.alloc_bulk, 2)
    del slab.owners[taken[1]]
    m.verify()


def test_a_free_list_that_leads_into_another_object() -> None:
    """Nothing tells at once, as in Linux; verify() names what was handed out and is no object."""
    with Machine(cpus=1, memory="16M") as m:
        cache = m.kmem_cache_create("a", 200)
        first, second = on_cpu(m, lambda: [cache.alloc(), cache.alloc()])
        on_cpu(m, lambda: [cache.free(second), cache.free(first)])
        m.memory.write_u64(first + cache.offset, first + 8)
        m.memory.write_u64(first + 8 + cache.offset, 0)
        assert on_cpu(m, lambda: [cache.alloc(), cache.alloc()]) == [first, first + 8]
        with pytest.raises(SlabError, match=f"{first + 8:#x} was handed out, but is no object"):
            m.verify()
