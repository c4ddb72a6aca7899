"""vmalloc and vfree: contents, guard pages, purges, exhaustion, interrupts, bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    BadFree,
    ConcmemError,
    DoubleFree,
    NotACpu,
    SleepInAtomic,
)
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.page_table import PageTable
from concmem.mm.reclaim import Shrinker
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_block import VmapBlocks
from concmem.mm.vmap_node import VmapNode
from concmem.mm.vmap_space import VmapSpace
from concmem.mm.workqueue import WorkQueue

from .helpers import PAGE, alloc, free, nr_buddy_pages, on_cpu, take_all

START = 0xFFFF_C900_0000_0000


@pytest.fixture(params=[1, 2])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """One CPU, and so one vmap node without a pool; or two."""
    with Machine(cpus=request.param, memory="16M") as machine:
        yield machine
        machine.workqueue.drain()
        machine.verify()


def allocated(m: Machine) -> int:
    """Pages that somebody has."""
    m.drain_all_pages()
    return sum(zone.managed_pages for zone in m.zones) - nr_buddy_pages(m)


def vmalloc(m: Machine, size: int, *args: Any) -> int:
    address = on_cpu(m, m.vmalloc, size, *args)
    assert address is not None
    return address


@pytest.mark.parametrize("size", [1, 8, 4095, 4096, 4097, 100_000, 3 << 20])
def test_every_byte_is_there(m: Machine, size: int) -> None:
    """From the first byte to the end of the last page, and not one byte before or after."""
    address = vmalloc(m, size)
    end = address + -(-size // PAGE) * PAGE
    assert address % PAGE == 0
    data = bytes(range(251)) * ((end - address) // 251 + 1)
    m.memory.write(address, data[: end - address])
    assert m.memory.read(address, end - address) == data[: end - address]
    for outside in (address - 1, end, end + PAGE - 1):
        with pytest.raises(BadArgument, match=r"^address: "):
            m.memory.read(outside, 1)
    on_cpu(m, m.vfree, address)
    with pytest.raises(BadArgument, match=r"^address: .* is not mapped"):
        m.memory.read(address, 1)


def test_lowest_addresses_with_guard_pages(m: Machine) -> None:
    """Areas follow each other from the start of the range, one unmapped page between them."""
    sizes = [1, 4096, 5000, 12288]
    addresses = [vmalloc(m, size) for size in sizes]
    assert addresses == [START, START + 2 * PAGE, START + 4 * PAGE, START + 7 * PAGE]
    m.verify()


def test_pages_come_and_go(m: Machine) -> None:
    """An allocation takes exactly its pages, a free gives them back, counted both times."""
    before = allocated(m)
    address = vmalloc(m, 10 * PAGE + 1)
    assert allocated(m) == before + 11
    assert m.statistics().vmalloc.nr_vmalloc_pages == 11  # type: ignore[union-attr]
    assert "VmallocUsed:          44 kB\n" in m.procfs.read("meminfo")
    on_cpu(m, m.vfree, address)
    assert allocated(m) == before
    assert m.statistics().vmalloc.nr_vmalloc_pages == 0  # type: ignore[union-attr]


def test_vzalloc(m: Machine) -> None:
    """Pages that others have filled come as zeros."""
    for _ in range(3):
        address = vmalloc(m, 300 * PAGE)
        m.memory.fill(address, 300 * PAGE, 0xFF)
        on_cpu(m, m.vfree, address)
        address = on_cpu(m, m.vzalloc, 300 * PAGE) or 0
        assert not any(m.memory.read(address, 300 * PAGE))
        m.memory.fill(address, 300 * PAGE, 0xEE)
        on_cpu(m, m.vfree, address)


def test_node() -> None:
    """Pages come from the node that was asked for, and the statistics say so."""
    with Machine(cpus=2, memory="32M", nodes=2) as m:
        for node in (0, 1):
            vm = m.vm_areas.find_vm_area(vmalloc(m, 5 * PAGE, 0xCC0, node))
            assert vm is not None
            assert {page.zone.zone_pgdat.node_id for page in vm.pages or ()} == {node}
        stats = m.statistics().vmalloc
        assert stats is not None
        assert sorted(area.numa for area in stats.areas) == [((0, 5),), ((1, 5),)]


def test_find_vm_area_and_page(m: Machine) -> None:
    """Any address inside leads to the area and its page; the guard page to no page."""
    address = vmalloc(m, 40 * PAGE)  # in the shares of several nodes
    for page in range(40):
        inside = address + page * PAGE + 7
        vm = m.vm_areas.find_vm_area(inside)
        assert vm is not None
        assert vm.addr == address
        assert vm.pages is not None
        assert m.vm_areas.vmalloc_to_page(inside) is vm.pages[page]
    assert m.vm_areas.find_vm_area(address + 40 * PAGE) is not None
    assert m.vm_areas.vmalloc_to_page(address + 40 * PAGE) is None
    assert m.vm_areas.find_vm_area(address + 41 * PAGE) is None
    assert m.vm_areas.find_vm_area(0) is None


# -- lazy purge


class EarlySpace(VmapSpace):
    """Purges when more than 64 pages wait."""

    def lazy_max_pages(self) -> int:
        return 64


class FlushLog(PageTable):
    """Keeps the ranges that were flushed."""

    def flush_tlb_kernel_range(self, start: int, end: int) -> None:
        super().flush_tlb_kernel_range(start, end)
        self.flushed = [*getattr(self, "flushed", []), (start, end)]


@pytest.mark.parametrize(("cpus", "pages"), [(1, 8192), (2, 16384), (3, 16384), (4, 24576)])
def test_lazy_max_pages(cpus: int, pages: int) -> None:
    """fls(CPUs) * 32 MiB."""
    with Machine(cpus=cpus, memory="8M") as m:
        assert m.vm_areas.space.lazy_max_pages() == pages


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_lazy_purge(cpus: int) -> None:
    """
    Freed addresses wait until they are too many, then one flush of their range frees all of them.

    Three pages each: 21 areas are 63 pages, the 22nd makes it 66.
    """
    classes: dict[type, type] = {VmapSpace: EarlySpace, PageTable: FlushLog}
    with Machine(cpus=cpus, memory="16M", classes=classes) as m:
        addresses = [vmalloc(m, 2 * PAGE) for _ in range(40)]
        table: Any = m.vm_areas.page_table
        for address in addresses[:21]:
            on_cpu(m, m.vfree, address)
        m.workqueue.drain()
        assert m.vm_areas.space.vmap_lazy_nr.value == 63
        assert table.nr_flushes == 0
        assert vmalloc(m, 2 * PAGE) == addresses[-1] + 3 * PAGE  # nothing freed is used again
        on_cpu(m, m.vfree, addresses[21])
        m.workqueue.drain()
        assert m.vm_areas.space.vmap_lazy_nr.value == 0
        assert table.flushed == [(addresses[0], addresses[21] + 3 * PAGE)]
        assert vmalloc(m, 2 * PAGE) in addresses[:22]
        m.verify()


def test_lazy_pages_stay_below_the_bound() -> None:
    """However many areas come and go, hardly more wait than may."""
    with Machine(cpus=2, memory="16M", classes={VmapSpace: EarlySpace}) as m:

        def body() -> int:
            most = 0
            for i in range(300):
                m.vfree(m.vmalloc((i % 5 + 1) * PAGE))
                most = max(most, m.vm_areas.space.vmap_lazy_nr.value)
                m.workqueue.drain()
            return most

        assert on_cpu(m, body) <= 64 + 6
        m.verify()


def test_small_areas_are_pooled() -> None:
    """After a purge a CPU gets an area of its own pool back, the one freed last; large ones never."""
    with Machine(cpus=2, memory="16M") as m:
        small = [vmalloc(m, PAGE) for _ in range(3)]
        large = vmalloc(m, 300 * PAGE)
        for address in (*small, large):
            on_cpu(m, m.vfree, address)
        on_cpu(m, m.vm_unmap_aliases)
        m.verify()
        nodes = m.vm_areas.space.nodes
        assert {nr: len(each) for nr, each in nodes[0].pool.items()} == {2: 3}
        assert not nodes[1].pool
        assert on_cpu(m, m.vmalloc, PAGE, cpu=1) not in small  # not CPU 1's
        assert vmalloc(m, PAGE) == small[2]
        m.verify()


def test_pools_decay() -> None:
    """Each purge gives a quarter of a pool back; a machine short of addresses takes all."""
    with Machine(cpus=2, memory="16M") as m:
        space = m.vm_areas.space
        left = []
        for address in [vmalloc(m, PAGE) for _ in range(16)]:
            on_cpu(m, m.vfree, address)
        for _ in range(4):
            on_cpu(m, m.vm_unmap_aliases)
            left.append(len(space.nodes[0].pool.get(2, ())))
        assert left == [16, 12, 9, 7]
        on_cpu(m, space.reclaim_and_purge_vmap_areas)
        assert not space.nodes[0].pool
        assert [(va.va_start, va.va_end) for va in space.free] == [(space.start, space.end)]


# -- short of something


def test_out_of_addresses() -> None:
    """
    All addresses can be handed out; then a purge is tried, and then the log says it.

    1 MiB is 256 pages: 128 areas of one page and a guard page.
    """
    with Machine(cpus=2, memory="16M", vmalloc_size="1M") as m:
        addresses = [vmalloc(m, PAGE) for _ in range(128)]
        assert sorted(addresses) == list(range(START, START + (1 << 20), 2 * PAGE))
        assert on_cpu(m, m.vmalloc, 1) is None
        text = "vmalloc_node_range for size 8192 failed: Address range restricted to "
        assert f"{text}0xffffc90000000000 - 0xffffc90000100000\n" in m.log.read()
        m.verify()
        for address in addresses:
            on_cpu(m, m.vfree, address)
        before = m.vm_areas.page_table.nr_flushes
        assert vmalloc(m, 200 * PAGE) == START  # only after a purge there is room
        assert m.vm_areas.page_table.nr_flushes == before + 1
        m.verify()


def test_out_of_addresses_without_a_word() -> None:
    """``__GFP_NOWARN`` keeps the log quiet."""
    with Machine(cpus=1, memory="16M", vmalloc_size="1M") as m:
        assert on_cpu(m, m.vmalloc, 1 << 20, 0xCC0 | 0x2000) is None
        assert m.log.read() == ""
        assert on_cpu(m, m.vmalloc, 1 << 20) is None
        assert "vm_struct allocation failed" in m.log.read()


@pytest.mark.parametrize("size", [16 << 20, 1 << 40, 1 << 70])
def test_more_than_there_is(m: Machine, size: int) -> None:
    """More pages than the machine has are refused before any is taken."""
    before = allocated(m)
    assert on_cpu(m, m.vmalloc, size) is None
    assert "exceeds total pages" in m.log.read()
    assert allocated(m) == before
    assert not m.statistics().vmalloc.areas  # type: ignore[union-attr]


def test_out_of_pages(m: Machine) -> None:
    """When the pages run out half-way, ``None``, and those taken already are back."""
    held = take_all(m, 3, 0xCC0 | 0x2000)
    for page in held[:4]:
        free(m, page, 3)
    before = allocated(m)
    assert on_cpu(m, m.vmalloc, 500 * PAGE) is None
    assert "vmalloc error: size 2048000, failed to allocate pages, mode:0xcc0(GFP_KERNEL)" in (
        m.log.read()
    )
    assert allocated(m) == before
    assert m.vm_areas.nr_vmalloc_pages.value == 0
    m.verify()
    assert on_cpu(m, m.vmalloc, 10 * PAGE) is not None


def test_a_raising_shrinker(m: Machine) -> None:
    """What reclaim raises in the middle of an allocation gets out, and nothing is lost."""

    def scan(_nr: int) -> int:
        raise ZeroDivisionError

    take_all(m, 5, 0xCC0 | 0x2000)
    m.register_shrinker(Shrinker(lambda: 1000, scan))
    before = allocated(m)
    with pytest.raises(ZeroDivisionError):
        on_cpu(m, m.vmalloc, 600 * PAGE)
    assert allocated(m) == before
    assert m.vm_areas.nr_vmalloc_pages.value == 0


# -- interrupts


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_vfree_in_an_interrupt(runtime: str) -> None:
    """A handler may free; it is done when the worker has had its turn."""
    with Machine(cpus=2, memory="16M", runtime=runtime) as m:
        before = allocated(m)

        def body() -> None:
            addresses = [m.vmalloc(3 * PAGE) for _ in range(10)]
            for i, address in enumerate(addresses):
                m.call_on(i % 2, lambda address=address: m.vfree(address), wait=False)

        m.run([body])
        m.workqueue.drain()
        assert m.vm_areas.nr_vmalloc_pages.value == 0
        assert allocated(m) == before
        m.verify()


def test_bad_vfree_in_an_interrupt(m: Machine) -> None:
    """A double free that the worker finds fails the run; the frees behind it are done."""

    def body() -> None:
        first, second = m.vmalloc(PAGE), m.vmalloc(PAGE)

        def handler() -> None:
            for address in (first, first, second):
                m.vfree(address)

        m.call_on(0, handler)
        m.workqueue.drain()

    with pytest.raises(ExceptionGroup) as caught:
        m.run([body])
    (failure,) = caught.value.exceptions
    assert isinstance(failure, DoubleFree)
    assert m.vm_areas.nr_vmalloc_pages.value == 0


def test_nothing_else_in_an_interrupt(m: Machine) -> None:
    """All that may sleep is refused in a handler; looking is not."""
    address = vmalloc(m, PAGE)
    page = alloc(m)
    calls: list[Callable[[], Any]] = [
        lambda: m.vmalloc(PAGE),
        lambda: m.vzalloc(PAGE),
        lambda: m.vmap([page]),
        lambda: m.vunmap(address),
        lambda: m.vm_map_ram([page]),
        lambda: m.vm_unmap_ram(address, 1),
        m.vm_unmap_aliases,
    ]
    for call in calls:
        with pytest.raises(SleepInAtomic, match="in an interrupt"):
            m.call_on(0, call)
    m.memory.write(address, b"here")
    assert m.call_on(0, lambda: m.memory.read(address, 4)) == b"here"
    assert m.call_on(0, lambda: m.vm_areas.find_vm_area(address)) is not None
    assert "vmalloc" in m.call_on(0, lambda: m.procfs.read("vmallocinfo"))


# -- vmap


def test_vmap(m: Machine) -> None:
    """Pages in any order, twice, and from the middle of a block appear where they were put."""
    first, block = alloc(m), alloc(m, 2)
    third = m.pfn_to_page(block.pfn + 2)
    pages: list[Page] = [third, first, block, first]
    address = on_cpu(m, m.vmap, pages)
    assert address is not None
    for i in range(4):
        m.memory.write(address + i * PAGE, bytes([i]))
    m.verify()
    assert m.memory.read(m.page_address(third), 1) == b"\0"
    assert m.memory.read(m.page_address(first), 1) == b"\3"
    assert m.memory.read(address + PAGE, 1) == b"\3"
    with pytest.raises(BadArgument):
        m.memory.read(address + 4 * PAGE, 1)
    on_cpu(m, m.vunmap, address)
    assert first.ref_count() == 1
    for page, order in ((first, 0), (block, 2)):
        free(m, page, order)


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_replaced_classes(runtime: str) -> None:
    """Every class that holds a rule of its own may be replaced, and the replacement is used."""
    bases = (PageTable, WorkQueue, VmapNode, VmapSpace, VmapBlocks, Vmalloc)
    classes: dict[type, type] = {base: type(f"My{base.__name__}", (base,), {}) for base in bases}
    with Machine(cpus=2, memory="16M", runtime=runtime, classes=classes) as m:
        areas = m.vm_areas
        made = {
            PageTable: areas.page_table,
            WorkQueue: m.workqueue,
            VmapNode: areas.space.nodes[1],
            VmapSpace: areas.space,
            VmapBlocks: areas.blocks,
            Vmalloc: areas,
        }
        assert all(isinstance(made[base], classes[base]) for base in bases)
        on_cpu(m, m.vfree, on_cpu(m, m.vmalloc, 5 * PAGE))
        m.verify()


# -- bad input


def refuses(
    m: Machine, error: type[ConcmemError], match: str, fn: Callable[..., Any], *args: Any
) -> None:
    """The call raises *error*, and no area has changed."""
    before = m.statistics().vmalloc, allocated(m)
    with pytest.raises(error, match=match):
        on_cpu(m, fn, *args)
    assert (m.statistics().vmalloc, allocated(m)) == before
    m.verify()


@pytest.mark.parametrize("size", [0, -1, -4096])
def test_sizes_that_cannot_be(m: Machine, size: int) -> None:
    """Less than a byte is no size."""
    refuses(m, BadArgument, "^size: ", m.vmalloc, size)
    refuses(m, BadArgument, "^size: ", m.vzalloc, size)


@pytest.mark.parametrize("size", [None, 1.5, "1", True, [1]])
def test_sizes_of_another_type(m: Machine, size: Any) -> None:
    """A size is a whole number."""
    refuses(m, BadArgumentType, "^size: ", m.vmalloc, size)


@pytest.mark.parametrize("gfp", [-1, 1 << 24, 0x18, "GFP_KERNEL", None, 1.0])
def test_gfp_that_cannot_be(m: Machine, gfp: Any) -> None:
    """GFP flags are checked before anything is reserved."""
    refuses(m, BadArgument, "^gfp: ", m.vmalloc, PAGE, gfp)
    refuses(m, BadArgument, "^gfp: ", m.vzalloc, PAGE, gfp)


@pytest.mark.parametrize("node", [-1, 1, True, "0", 0.0])
def test_nodes_that_cannot_be(m: Machine, node: Any) -> None:
    """There is node 0 only."""
    refuses(m, BadArgument, "^node: ", m.vmalloc, PAGE, 0xCC0, node)


def test_addresses_that_cannot_be_freed(m: Machine) -> None:
    """Freed twice, from the middle, from elsewhere, of another kind, or no address at all."""
    words = r"Trying to {}\(\) nonexistent vm area \(-?0x"
    freed, live = vmalloc(m, 3 * PAGE), vmalloc(m, 3 * PAGE)
    page = alloc(m)
    mapped, ram = on_cpu(m, m.vmap, [page]), on_cpu(m, m.vm_map_ram, [page])
    on_cpu(m, m.vfree, freed)
    vfree, vunmap = words.format("vfree"), words.format("vunmap")
    refuses(m, DoubleFree, vfree + f"{freed:x}", m.vfree, freed)
    refuses(m, DoubleFree, vfree, m.vfree, START + (1 << 40))
    for bad in (live + PAGE, live + 1, live + 3 * PAGE, mapped, ram, 4096, -4096, 1 << 70):
        refuses(m, BadFree, vfree, m.vfree, bad)
    refuses(m, BadFree, vfree, m.vfree, m.page_address(page))
    for bad in (live, (mapped or 0) + PAGE, ram, 1):
        refuses(m, BadFree, vunmap, m.vunmap, bad)
    refuses(m, DoubleFree, vunmap, m.vunmap, freed)
    for wrong in (1.0, "x", True, [live]):
        refuses(m, BadArgumentType, "^addr: ", m.vfree, wrong)
        refuses(m, BadArgumentType, "^addr: ", m.vunmap, wrong)
    for nothing in (0, None):
        on_cpu(m, m.vfree, nothing)
        on_cpu(m, m.vunmap, nothing)


def test_pages_that_cannot_be_mapped(m: Machine) -> None:
    """No pages, no list, free pages, pages of another machine."""
    page, gone = alloc(m), alloc(m)
    free(m, gone)
    with Machine(cpus=1, memory="16M") as other:
        stranger = alloc(other)
        for fn in (m.vmap, m.vm_map_ram):
            refuses(m, BadArgument, "^pages: expected at least", fn, [])
            refuses(m, BadArgument, "^pages: .* another machine", fn, [page, stranger])
            refuses(m, BadArgument, "^pages: .* is not allocated", fn, [page, gone])
            for wrong in (None, 3, page, [page, None], {page}, "page"):
                refuses(m, BadArgumentType, "^pages: ", fn, wrong)


def test_from_a_thread_that_is_no_cpu(m: Machine) -> None:
    """Everything that allocates or frees needs a CPU."""
    address = vmalloc(m, PAGE)
    page = alloc(m)
    for call in (
        lambda: m.vmalloc(PAGE),
        lambda: m.vfree(address),
        lambda: m.vmap([page]),
        lambda: m.vm_map_ram([page]),
        m.vm_unmap_aliases,
    ):
        with pytest.raises(NotACpu):
            call()
    m.verify()


@pytest.mark.parametrize("size", [0, 1 << 19, (1 << 20) + 1, 33 << 40, "64T", -1])
def test_ranges_that_cannot_be(size: Any) -> None:
    """The vmalloc range is 1 MiB to 32 TiB of whole pages."""
    with pytest.raises(BadArgument, match=r"^vmalloc_size: "):
        Machine(cpus=1, memory="8M", vmalloc_size=size)
