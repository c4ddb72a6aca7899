"""kmalloc and its relatives: which cache for which size, large blocks, vmalloc, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.errors import BadArgumentType, BadFree
from concmem.machine import Machine
from concmem.mm.gfp import ACCOUNT, GFP_ATOMIC, GFP_DMA, GFP_KERNEL, NOWARN, RECLAIMABLE, ZERO
from concmem.units import VMALLOC_START

from .helpers import nr_buddy_pages, nr_managed, on_cpu
from .slab_helpers import slab_of

SIZES = [8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192]
NAMES = ["8", "16", "32", "64", "96", "128", "192", "256", "512", "1k", "2k", "4k", "8k"]
ZERO_SIZE_PTR = 16


@pytest.fixture
def m() -> Iterator[Machine]:
    """Two CPUs; verified at the end."""
    with Machine(cpus=2, memory="64M") as machine:
        yield machine
        machine.verify()


def class_of(size: int) -> int:
    """The smallest class that is large enough, found by looking at all."""
    return min(each for each in SIZES if each >= size)


def name_of(m: Machine, address: int) -> str:
    """The cache that the object at *address* is of."""
    cache = m.mem_map.slabs[address >> 12].slab_cache
    assert cache is not None
    return cache.name


def test_every_size_has_its_class(m: Machine) -> None:
    """From 1 to 8192 bytes: the smallest class that holds it, and aligned as that class is."""

    def body() -> list[tuple[int, str, int]]:
        seen = []
        for size in range(1, 8193):
            address = m.kmalloc(size)
            assert address is not None
            seen.append((address, name_of(m, address), m.ksize(address)))
            m.kfree(address)
        return seen

    names = dict(zip(SIZES, NAMES, strict=True))
    for size, (address, name, usable) in enumerate(on_cpu(m, body), 1):
        wanted = class_of(size)
        assert (name, usable) == (f"kmalloc-{names[wanted]}", wanted)
        assert address % (wanted & -wanted) == 0


def test_the_caches(m: Machine) -> None:
    """Four sets of thirteen, from the start of the machine, none of them merged."""
    caches = {s.name: s for s in m.slab.caches()}
    prefixes = ["kmalloc-", "dma-kmalloc-", "kmalloc-rcl-", "kmalloc-cg-"]
    wanted = {
        f"{prefix}{name}": size
        for prefix in prefixes
        for size, name in zip(SIZES, NAMES, strict=True)
    }
    assert {name: s.object_size for name, s in caches.items()} == wanted
    assert all(not s.aliases for s in caches.values())
    assert {s.align for s in caches.values() if s.object_size == 96} == {32}
    assert {s.align for s in caches.values() if s.object_size == 192} == {64}


@pytest.mark.parametrize(
    ("flags", "prefix"),
    [
        (0, "kmalloc-"),
        (GFP_DMA, "dma-kmalloc-"),
        (RECLAIMABLE, "kmalloc-rcl-"),
        (ACCOUNT, "kmalloc-cg-"),
        (GFP_DMA | RECLAIMABLE, "dma-kmalloc-"),
        (RECLAIMABLE | ACCOUNT, "kmalloc-rcl-"),
        (GFP_DMA | RECLAIMABLE | ACCOUNT, "dma-kmalloc-"),
        (ZERO, "kmalloc-"),
        (ACCOUNT | ZERO, "kmalloc-cg-"),
    ],
)
@pytest.mark.parametrize("base", [GFP_KERNEL, GFP_ATOMIC])
def test_which_set(m: Machine, base: int, flags: int, prefix: str) -> None:
    """DMA before reclaimable before accounted; the pages are of the zone and type asked for."""
    address = on_cpu(m, m.kmalloc, 100, base | flags)
    assert name_of(m, address) == f"{prefix}128"
    page = m.virt_to_page(address)
    if flags & GFP_DMA:
        assert page.zone.name == "DMA"
    assert m.statistics().nodes[0].nr_slab_reclaimable == (prefix == "kmalloc-rcl-")
    if flags & ZERO:
        assert not any(m.memory.read(address, 100))
    on_cpu(m, m.kfree, address, cpu=1)


def test_nothing(m: Machine) -> None:
    """Nothing is a pointer of its own, that may be freed and has no size."""
    for fn in (m.kmalloc, m.kzalloc, m.kvmalloc):
        assert on_cpu(m, fn, 0) == ZERO_SIZE_PTR
    assert on_cpu(m, m.kmalloc_array, 0, 5) == on_cpu(m, m.kmalloc_array, 5, 0) == ZERO_SIZE_PTR
    for address in (None, 0, ZERO_SIZE_PTR):
        on_cpu(m, m.kfree, address)
        on_cpu(m, m.kvfree, address)
        assert on_cpu(m, m.ksize, address) == 0
    assert not m.mem_map.slabs


@pytest.mark.parametrize(
    ("size", "order"),
    [(8193, 2), (12288, 2), (16384, 2), (16385, 3), (100_000, 5), (1 << 20, 8), ((2 << 20) - 1, 9)],
)
def test_large_blocks(m: Machine, size: int, order: int) -> None:
    """Above 8 KiB: whole pages, naturally aligned, and all of them given back."""
    on_cpu(m, m.drain_all_pages)
    address = on_cpu(m, m.kmalloc, size)
    assert address % (4096 << order) == 0
    page = slab_of(m, address)
    assert (page.order, page.slab_cache, on_cpu(m, m.ksize, address)) == (
        order,
        None,
        4096 << order,
    )
    m.memory.write(address, b"x" * size)
    m.verify()
    on_cpu(m, m.kfree, address, cpu=1)
    assert not m.mem_map.slabs
    on_cpu(m, m.drain_all_pages)
    assert nr_buddy_pages(m) == nr_managed(m)


@pytest.mark.parametrize("size", [2 << 20, (2 << 20) + 1, 5_000_000])
def test_vmalloc_from_2_mib_on(m: Machine, size: int) -> None:
    """From 2 MiB on the memory is contiguous in virtual addresses only."""
    address = on_cpu(m, m.kmalloc, size)
    assert address >= VMALLOC_START
    assert m.vm_areas.is_vmalloc_addr(address)
    assert on_cpu(m, m.ksize, address) == -(-size // 4096) * 4096
    m.memory.write(address + size - 5, b"hello")
    assert m.memory.read(address + size - 5, 5) == b"hello"
    m.verify()
    on_cpu(m, m.kfree, address, cpu=1)
    assert m.vm_areas.find_vm_area(address) is None


def test_zeroed_memory(m: Machine) -> None:
    """kzalloc and kcalloc clear what somebody has written before, of every kind."""
    for size in (24, 8192, 50_000, 3 << 20):
        first = on_cpu(m, m.kmalloc, size)
        m.memory.write(first, b"\xee" * size)
        on_cpu(m, m.kfree, first)
        again = on_cpu(m, m.kzalloc, size)
        assert not any(m.memory.read(again, size))
        m.memory.write(again, b"\xee" * size)
        on_cpu(m, m.kfree, again)
        array = on_cpu(m, m.kcalloc, size // 8, 8)
        assert not any(m.memory.read(array, size))
        on_cpu(m, m.kfree, array)


@pytest.mark.parametrize(
    ("n", "size"),
    [(1 << 32, 1 << 32), ((1 << 64) - 1, 2), (2, (1 << 64) - 1), ((1 << 63) // 3, 7)],
)
def test_arrays_that_overflow(m: Machine, n: int, size: int) -> None:
    """A product that no size can hold is no memory, not a small block."""
    before = m.statistics().nodes
    assert on_cpu(m, m.kmalloc_array, n, size) is None
    assert on_cpu(m, m.kcalloc, n, size) is None
    assert m.statistics().nodes == before


def test_arrays(m: Machine) -> None:
    """n times size bytes."""
    address = on_cpu(m, m.kmalloc_array, 25, 40)
    assert name_of(m, address) == "kmalloc-1k"
    on_cpu(m, m.kfree, address)


def test_larger_than_memory(m: Machine) -> None:
    """What cannot be had is None, and nothing is taken."""
    before = m.statistics().nodes
    assert on_cpu(m, m.kmalloc, 1 << 30) is None
    assert on_cpu(m, m.kvmalloc, 1 << 40) is None
    assert m.statistics().nodes == before


def test_kvmalloc_falls_back(m: Machine) -> None:
    """When there is no block, a large allocation comes from vmalloc; a small one is just None."""
    blocks = on_cpu(m, lambda: [m.kvmalloc(1 << 20) for _ in range(70)])
    far = [a for a in blocks if a is not None and m.vm_areas.is_vmalloc_addr(a)]
    near = [a for a in blocks if a is not None and not m.vm_areas.is_vmalloc_addr(a)]
    assert near
    m.verify()
    for address in near + far:
        on_cpu(m, m.kvfree, address)
    pages = on_cpu(m, lambda: [m.alloc_pages(0, GFP_ATOMIC | NOWARN) for _ in range(20_000)])
    taken = [page for page in pages if page is not None]
    on_cpu(m, lambda: [m.free_pages(page) for page in taken[::2]])
    address = on_cpu(m, m.kvmalloc, 1 << 20)
    assert address is not None
    assert m.vm_areas.is_vmalloc_addr(address)
    assert on_cpu(m, m.kmalloc, 1 << 20, GFP_ATOMIC | NOWARN) is None
    on_cpu(m, m.kvfree, address)


def test_krealloc(m: Machine) -> None:
    """It stays while there is room, moves with its contents when not, and frees at 0."""
    address = on_cpu(m, m.krealloc, None, 50)
    assert name_of(m, address) == "kmalloc-64"
    m.memory.write(address, bytes(range(64)))
    assert on_cpu(m, m.krealloc, address, 64) == address
    assert on_cpu(m, m.krealloc, address, 5) == address
    previous = address
    for size, name in ((65, "kmalloc-96"), (5000, "kmalloc-8k")):
        address = on_cpu(m, m.krealloc, address, size)
        assert name_of(m, address) == name
        assert m.memory.read(address, 64) == bytes(range(64))
    with pytest.raises(Exception, match="not the start of an allocation"):
        on_cpu(m, m.ksize, previous)
    address = on_cpu(m, m.krealloc, address, 100_000)
    assert m.memory.read(address, 64) == bytes(range(64))
    address = on_cpu(m, m.krealloc, address, 3 << 20)
    assert m.memory.read(address, 64) == bytes(range(64))
    assert m.vm_areas.is_vmalloc_addr(address)
    assert on_cpu(m, m.krealloc, address, 0) == ZERO_SIZE_PTR
    assert on_cpu(m, m.krealloc, ZERO_SIZE_PTR, 10) is not None


def test_krealloc_without_memory(m: Machine) -> None:
    """The old block stays, with its contents."""
    address = on_cpu(m, m.kmalloc, 64)
    m.memory.write(address, b"keep" * 16)
    assert on_cpu(m, m.krealloc, address, 1 << 40) is None
    assert m.memory.read(address, 64) == b"keep" * 16
    on_cpu(m, m.kfree, address)


def test_kfree_of_an_object_of_any_cache(m: Machine) -> None:
    """kfree also frees objects of caches, as in the kernel."""
    s = on_cpu(m, m.kmem_cache_create, "mine", 100)
    address = on_cpu(m, s.alloc)
    assert on_cpu(m, m.ksize, address) == 104
    on_cpu(m, m.kfree, address)
    on_cpu(m, s.destroy)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 300), st.integers(0, 20_000), st.integers(0, 3 << 20)),
            st.integers(0, 1),
        ),
        max_size=12,
    )
)
def test_blocks_do_not_overlap(requests: list[tuple[int, int]]) -> None:
    """Blocks of any sizes are apart, keep their contents, and give all memory back."""
    m = SHARED[0]
    live = []
    for number, (size, cpu) in enumerate(requests, 1):
        address = on_cpu(m, m.kmalloc, size, cpu=cpu)
        assert address is not None
        if size:
            assert on_cpu(m, m.ksize, address) >= size
            m.memory.write(address, bytes([number]) * size)
            live.append((address, size, number))
    m.verify()
    for address, size, number in live:
        assert m.memory.read(address, size) == bytes([number]) * size
    for address, _, number in live:
        on_cpu(m, m.kfree, address, cpu=number % 2)
    m.verify()


SHARED: list[Machine] = []
"""The machine of the test above, whose examples would spend their time booting."""


@pytest.fixture(autouse=True, scope="module")
def shared() -> Iterator[None]:
    """One machine for all examples; what they leave behind is nothing."""
    with Machine(cpus=2, memory="64M") as m:
        SHARED.append(m)
        yield
        SHARED.clear()
        for s in m.slab.caches():
            on_cpu(m, s.shrink)
        assert not m.mem_map.slabs


def test_all_cpus_at_once() -> None:
    """Every CPU allocates all sizes and hands blocks to others to free; nothing is lost."""
    for runtime in ("free", "jitter"):
        with Machine(cpus=4, memory="64M", runtime=runtime, seed=2) as m:
            boxes = [m.runtime.cell((), f"box {cpu}") for cpu in range(4)]

            def body(m: Machine = m, boxes: list = boxes) -> None:  # type: ignore[type-arg]
                me = m.smp_processor_id()
                for turn in range(30):
                    size = (me + 3) * (turn % 13 + 1) * 50 * (20 if turn % 7 == 0 else 1)
                    address = m.kmalloc(size)
                    assert address
                    m.memory.write(address, bytes([me]) * size)
                    box = boxes[(me + turn) % 4]
                    old = box.value
                    if old and old[1] == me:
                        box.value = ()
                        assert m.memory.read(old[0], old[2]) == bytes([old[3]]) * old[2]
                        m.kfree(old[0])
                    if not box.value and (me + turn) % 4 == me:
                        box.value = (address, (me + 1) % 4, size, me)
                        continue
                    assert m.memory.read(address, size) == bytes([me]) * size
                    m.kfree(address)

            m.run([body] * 4)
            m.verify()
            for box in boxes:
                if box.value:
                    on_cpu(m, m.kfree, box.value[0])
            for s in m.slab.caches():
                on_cpu(m, s.shrink)
            assert not m.mem_map.slabs


@pytest.mark.parametrize("address", [False, 0.0, 16.0, [], "0"])
def test_what_only_looks_like_no_memory(m: Machine, address: object) -> None:
    """NULL and ZERO_SIZE_PTR are None, 0 and 16; nothing else is."""
    for use in (m.kfree, m.ksize, lambda a: m.krealloc(a, 8)):
        with pytest.raises(BadArgumentType, match=r"^address: "):
            on_cpu(m, use, address)


def test_gfp_flags_that_are_none(m: Machine) -> None:
    """Refused by all of them in the same words."""
    for use in (m.kmalloc, m.kzalloc, m.kvmalloc):
        with pytest.raises(BadArgumentType, match=r"^gfp: "):
            on_cpu(m, use, 10000, "x")
    with pytest.raises(BadArgumentType, match=r"^gfp: "):
        on_cpu(m, m.kcalloc, 1, 1, "x")


def test_what_must_not_sleep_takes_no_vmalloc(m: Machine) -> None:
    """vmalloc sleeps: without DIRECT_RECLAIM it is no way out, in an interrupt or not."""

    def body() -> list[int | None]:
        blocks = []
        # kswapd lowers boosted marks when it comes to it, and then there is more memory again.
        while (block := m.alloc_pages(1, GFP_ATOMIC | NOWARN)) is not None or any(
            zone.watermark_boost for zone in m.zones
        ):
            if block is not None:
                blocks.append(block)
            else:
                m.runtime.cpu_relax()
        results = [m.kvmalloc(8193, GFP_ATOMIC), m.kmalloc(2 << 20, GFP_ATOMIC)]
        results.append(m.call_on(0, lambda: m.kvmalloc(8193, GFP_ATOMIC)))
        for block in blocks:
            m.free_pages(block, 1)
        return results

    assert on_cpu(m, body) == [None, None, None]


def test_a_large_block_is_not_split(m: Machine) -> None:
    """It is one allocation, as is a slab."""
    for size in (9000, 100):
        address = on_cpu(m, m.kmalloc, size)
        with pytest.raises(BadFree, match="split_page"):
            on_cpu(m, m.split_page, slab_of(m, address))
        on_cpu(m, m.kfree, address)


def test_who_asked_for_vmalloc(m: Machine) -> None:
    """It is who called kmalloc, kzalloc or kvmalloc, not kmalloc."""

    def asks() -> list[int | None]:
        return [m.kmalloc(2 << 20), m.kzalloc(2 << 20), m.kvmalloc(2 << 20)]

    addresses = on_cpu(m, asks)
    areas = m.procfs.read("vmallocinfo").splitlines()
    assert sum("asks+0x" in line for line in areas) == 3
    for address in addresses:
        on_cpu(m, m.kfree, address)
