"""Address spaces on one CPU: heap, mappings, stack, faults, limits and commit accounting."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from concmem.errors import BadArgument, BusError, OutOfMemory, SegmentationFault
from concmem.machine import Machine
from concmem.mm.mman import (
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_STACK,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    START_BRK,
)
from concmem.mm.process import Process

from .helpers import on_cpu
from .process_helpers import (
    ANON,
    FIXED,
    PAGE,
    SHARED,
    STACK_START,
    committed,
    free_pages,
    ranges,
    segfaults,
)

RW = PROT_READ | PROT_WRITE


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(cpus=2, memory="32M") as machine:
        yield machine
        machine.verify()


def run(m: Machine, body: object) -> None:
    on_cpu(m, body)  # type: ignore[arg-type]
    m.verify()


# -- the heap


def test_brk_moves_the_end_of_the_heap(m: Machine) -> None:
    """The heap grows, keeps what is in it, shrinks by whole pages, and comes back as zeros."""
    p = m.process()

    def body() -> None:
        assert p.brk(0) == START_BRK
        assert p.brk(START_BRK + 10) == START_BRK + 10
        assert p.mm.data_vm == 1
        assert p.brk(START_BRK + 3 * PAGE) == START_BRK + 3 * PAGE
        p.write(START_BRK + PAGE - 2, b"abcd")
        assert p.read(START_BRK + PAGE - 2, 4) == b"abcd"
        assert p.brk(START_BRK + PAGE) == START_BRK + PAGE
        assert p.read(START_BRK + PAGE - 2, 2) == b"ab"
        segfaults(p.read, START_BRK + PAGE, 1)
        p.brk(START_BRK + 2 * PAGE)
        assert p.read(START_BRK + PAGE, 2) == b"\0\0"
        assert p.brk(START_BRK) == START_BRK
        assert ranges(p) == []

    run(m, body)


def test_brk_is_refused_without_a_change(m: Machine) -> None:
    """Below its start, over a limit, or near another mapping, the heap stays as it is."""
    p = m.process(rlimit_data=8 * PAGE)

    def body() -> None:
        end = p.brk(START_BRK + PAGE)
        assert p.brk(START_BRK - 1) == end
        assert p.brk(START_BRK + 9 * PAGE) == end
        assert p.mmap(PAGE, RW, FIXED, START_BRK + 3 * PAGE) is not None
        assert p.brk(START_BRK + 3 * PAGE) == end  # there would be no page between
        assert p.brk(START_BRK + 2 * PAGE) == START_BRK + 2 * PAGE

    run(m, body)


def test_sbrk_returns_the_old_end(m: Machine) -> None:
    """As in C, so that the new memory starts at the result; None if it cannot be."""
    p = m.process(rlimit_data=PAGE)

    def body() -> None:
        assert p.sbrk(100) == START_BRK
        assert p.sbrk() == START_BRK + 100
        assert p.sbrk(PAGE) is None
        assert p.sbrk(-101) is None
        assert p.sbrk(-100) == START_BRK + 100

    run(m, body)


# -- where mappings go, and how they merge


def test_mappings_are_placed_downwards_and_merge(m: Machine) -> None:
    """Equal neighbours are one VMA; other rights make another one."""
    p = m.process()

    def body() -> None:
        first = p.mmap(PAGE)
        second = p.mmap(2 * PAGE)
        assert first == p.mm.mmap_base - PAGE
        assert second == first - 2 * PAGE
        assert ranges(p) == [(second, first + PAGE)]
        third = p.mmap(PAGE, PROT_READ)
        assert ranges(p) == [(second - PAGE, second), (second, first + PAGE)]
        p.mprotect(third, PAGE, RW)
        assert ranges(p) == [(third, first + PAGE)]

    run(m, body)


def test_highest_hole_that_fits_is_used(m: Machine) -> None:
    """A hole left by munmap is filled again, if large enough."""
    p = m.process()

    def body() -> None:
        base = p.mmap(10 * PAGE)
        assert p.munmap(base + 2 * PAGE, PAGE)
        assert p.munmap(base + 5 * PAGE, 2 * PAGE)
        assert p.mmap(2 * PAGE) == base + 5 * PAGE
        assert p.mmap(2 * PAGE) == base - 2 * PAGE
        assert p.mmap(PAGE) == base + 2 * PAGE
        assert ranges(p) == [(base - 2 * PAGE, base + 10 * PAGE)]

    run(m, body)


def test_hints_and_fixed_addresses(m: Machine) -> None:
    """A hint is taken if it is free; MAP_FIXED replaces; MAP_FIXED_NOREPLACE does not."""
    p = m.process()

    def body() -> None:
        at = 0x2000_0000
        assert p.mmap(2 * PAGE, addr=at + 5) == at + PAGE
        assert p.mmap(PAGE, addr=at + PAGE) == p.mm.mmap_base - PAGE
        p.write(at + PAGE, b"old")
        assert p.mmap(PAGE, RW, FIXED, at + PAGE) == at + PAGE
        assert p.read(at + PAGE, 3) == b"\0\0\0"
        noreplace = ANON | MAP_FIXED_NOREPLACE
        assert p.mmap(PAGE, RW, noreplace, at + 2 * PAGE) is None
        assert p.mmap(PAGE, RW, noreplace, at) == at
        assert ranges(p)[0] == (at, at + 3 * PAGE)

    run(m, body)


def test_munmap_splits(m: Machine) -> None:
    """Holes in the middle, at the ends, over several VMAs, and of nothing at all."""
    p = m.process()

    def body() -> None:
        base = p.mmap(8 * PAGE, flags=ANON | MAP_POPULATE)
        assert p.mm.rss_anon == 8
        assert p.munmap(base + 3 * PAGE, 1)
        assert ranges(p) == [(base, base + 3 * PAGE), (base + 4 * PAGE, base + 8 * PAGE)]
        assert p.munmap(base + 3 * PAGE, PAGE)
        assert p.munmap(base + 2 * PAGE, 3 * PAGE)
        assert ranges(p) == [(base, base + 2 * PAGE), (base + 5 * PAGE, base + 8 * PAGE)]
        assert p.mm.rss_anon == p.mm.data_vm == 5
        assert p.munmap(0, 1 << 40)
        assert p.munmap(base - 100 * PAGE, 200 * PAGE)
        assert ranges(p) == []

    run(m, body)


def test_max_map_count(m: Machine) -> None:
    """No more VMAs than that: splits are refused and change nothing."""
    p = m.process(max_map_count=3)

    def body() -> None:
        base = p.mmap(9 * PAGE)
        assert not p.mprotect(base + PAGE, PAGE, PROT_READ)
        assert p.munmap(base + PAGE, PAGE)
        assert not p.munmap(base + 3 * PAGE, PAGE)
        assert p.munmap(base + 8 * PAGE, PAGE)
        assert p.mm.map_count == 3

    run(m, body)


def test_neighbours_with_pages_merge(m: Machine) -> None:
    """Both may have pages of their own: neighbours share their anon_vma, so they can be one again."""
    p = m.process()

    def body() -> None:
        base = p.mmap(2 * PAGE)
        p.mprotect(base + PAGE, PAGE, PROT_READ)
        p.touch(base)
        p.mprotect(base, PAGE, PROT_READ)
        p.mprotect(base + PAGE, PAGE, RW)
        p.touch(base + PAGE)
        assert len(ranges(p)) == 2
        p.mprotect(base, PAGE, RW)
        assert len(ranges(p)) == 1
        assert p.mm.rss_anon == 2

    run(m, body)


def test_merging_keeps_the_anon_vma_of_either(m: Machine) -> None:
    """A VMA without pages that grows over one with pages owns those then."""
    p = m.process()

    def body() -> None:
        base = p.mmap(2 * PAGE)
        p.mprotect(base, PAGE, PROT_READ)
        p.touch(base + PAGE)
        p.mprotect(base, PAGE, RW)
        assert len(ranges(p)) == 1
        m.kernel.validate()
        p.touch(base)

    run(m, body)


# -- faults


def test_reads_of_untouched_memory_cost_nothing(m: Machine) -> None:
    """They see zeros and no page is used; the first write takes one."""
    p = m.process()

    def body() -> None:
        base = p.mmap(2 * PAGE)
        assert p.read(base, 2 * PAGE) == bytes(2 * PAGE)
        assert p.mm.rss_anon == 0
        p.write(base + 5, b"x")
        assert p.mm.rss_anon == 1
        assert p.read(base, 8) == b"\0\0\0\0\0x\0\0"
        p.write_u64(base + PAGE - 4, 0x0102030405060708)
        assert p.read_u64(base + PAGE - 4) == 0x0102030405060708
        assert p.mm.rss_anon == 2

    run(m, body)


def test_segmentation_faults_say_where(m: Machine) -> None:
    """Address, VMA or gap, kind of access and CPU are in the message."""
    p = m.process("prog")

    def body() -> None:
        base = p.mmap(PAGE, PROT_READ)
        message = segfaults(p.write, base, b"x")
        assert f"cpu1: prog[{p.pid}]: write to {base:#x}, which <vma {base:#x}" in message
        message = segfaults(p.read, base - 1, 1)
        assert f"read of {base - 1:#x}, which is in no VMA" in message
        segfaults(p.touch, 0)
        segfaults(p.touch, -1)
        segfaults(p.touch, 1 << 63)
        p.mprotect(base, PAGE, PROT_NONE)
        segfaults(p.read, base, 1)

    on_cpu(m, body, cpu=1)


def test_mprotect_keeps_what_is_in_the_pages(m: Machine) -> None:
    """Through no rights at all and back, and from reading to writing."""
    p = m.process()

    def body() -> None:
        base = p.mmap(3 * PAGE)
        p.write(base, b"one")
        p.read(base + PAGE, 1)
        for prot in (PROT_NONE, PROT_READ, RW):
            assert p.mprotect(base, 2 * PAGE, prot)
            m.kernel.validate()
            if prot != PROT_NONE:
                assert p.read(base, 3) == b"one"
            if prot != RW:
                segfaults(p.write, base, b"x")
        p.write(base, b"two")
        p.write(base + PAGE, b"two")
        assert ranges(p) == [(base, base + 3 * PAGE)]
        with pytest.raises(BadArgument, match="addr"):
            p.mprotect(base, 4 * PAGE, PROT_READ)
        assert p.read(base, 3) == b"two"

    run(m, body)


def test_the_stack_grows(m: Machine) -> None:
    """Down to its limit, and not into the guard gap above another mapping."""
    p = m.process(rlimit_stack=100 * PAGE)
    q = m.process()

    def body() -> None:
        p.write(STACK_START - 10 * PAGE, b"deep")
        assert p.mm.stack_vm == 43
        segfaults(p.write, STACK_START - 68 * PAGE, b"x")
        p.write(STACK_START - 67 * PAGE, b"x")
        below = q.mmap(PAGE, RW, FIXED, STACK_START - 300 * PAGE)
        assert below is not None
        segfaults(q.touch, below + 256 * PAGE)
        q.touch(below + 257 * PAGE)

    run(m, body)


def test_a_mapping_can_grow_down(m: Machine) -> None:
    """MAP_GROWSDOWN; new mappings stay out of its guard gap."""
    p = m.process()

    def body() -> None:
        base = p.mmap(PAGE, RW, ANON | MAP_GROWSDOWN | MAP_STACK)
        p.touch(base - 3 * PAGE)
        assert ranges(p) == [(base - 3 * PAGE, base + PAGE)]
        assert p.mmap(PAGE) == base - (3 + 256 + 1) * PAGE

    run(m, body)


def test_out_of_memory_is_an_error_of_the_fault() -> None:
    """What was resident stays usable, and exit gives everything back."""
    with Machine(cpus=1, memory="4M") as m:
        before = free_pages(m)
        p = m.process()

        def body() -> None:
            base = p.mmap(2000 * PAGE, flags=ANON | MAP_NORESERVE)
            p.write(base, b"kept")

            def touch_all() -> None:
                for index in range(1, 2000):
                    p.touch(base + index * PAGE)

            with pytest.raises(OutOfMemory, match="no memory for the page"):
                touch_all()
            assert p.read(base, 4) == b"kept"

        run(m, body)
        on_cpu(m, p.exit)
        m.verify()
        assert free_pages(m) == before


def test_populate_stops_where_memory_ends() -> None:
    """MAP_POPULATE never fails."""
    with Machine(cpus=1, memory="4M") as m:
        p = m.process()
        base = on_cpu(m, p.mmap, 2000 * PAGE, RW, ANON | MAP_NORESERVE | MAP_POPULATE)
        assert base is not None
        assert 100 < p.mm.rss_anon < 1024
        m.verify()


# -- shared memory


def test_processes_share_a_file(m: Machine) -> None:
    """One sees what the other writes; a private mapping sees it until it writes itself."""
    p, q = m.process(), m.process()
    file = m.shmem_create(3 * PAGE)
    assert file is not None

    def body() -> None:
        a = p.mmap(3 * PAGE, RW, MAP_SHARED, file=file)
        b = q.mmap(2 * PAGE, RW, MAP_SHARED, file=file, offset=PAGE)
        c = q.mmap(3 * PAGE, RW, MAP_PRIVATE, file=file)
        p.write(a + PAGE, b"one")
        assert q.read(b, 3) == q.read(c + PAGE, 3) == b"one"
        assert file.pages[1]._mapcount == 2
        q.write(c + PAGE + 1, b"X")
        p.write(a + PAGE, b"two")
        assert q.read(b, 3) == b"two"
        assert q.read(c + PAGE, 3) == b"oXe"
        assert (q.mm.rss_anon, q.mm.rss_shmem) == (1, 1)
        m.kernel.validate()
        file.close()
        p.exit()
        assert q.read(b, 3) == b"two"
        q.exit()

    before = free_pages(m)
    run(m, body)
    assert free_pages(m) == before
    assert committed(m) == 0


def test_the_end_of_a_file(m: Machine) -> None:
    """A page behind it can be mapped, but not used; a file that is gone cannot be mapped."""
    p = m.process()
    file = m.shmem_create(PAGE)
    assert file is not None

    def body() -> None:
        base = p.mmap(2 * PAGE, RW, MAP_SHARED, file=file)
        p.touch(base)
        with pytest.raises(BusError, match="page 1 of"):
            p.touch(base + PAGE)
        file.close()
        p.munmap(base, 2 * PAGE)
        was = committed(m)
        with pytest.raises(BadArgument, match="file"):
            p.mmap(PAGE, RW, MAP_PRIVATE, file=file)
        assert committed(m) == was

    run(m, body)


def test_shared_anonymous_memory_is_a_file_of_its_own(m: Machine) -> None:
    """Two such mappings side by side do not merge, and the pages go with the mapping."""
    p = m.process()

    def body() -> None:
        before = committed(m)
        a = p.mmap(PAGE, RW, SHARED)
        b = p.mmap(PAGE, RW, SHARED)
        p.write(a, b"a")
        p.write(b, b"b")
        assert len(ranges(p)) == 2
        assert committed(m) == before + 2
        p.munmap(b, 2 * PAGE)
        assert m.processes.context.shmem.files() == []
        assert committed(m) == before

    run(m, body)


# -- limits and promises


def test_limits_of_address_space_and_data(m: Machine) -> None:
    """RLIMIT_AS counts everything; RLIMIT_DATA private writable memory, also by mprotect."""
    p = m.process(rlimit_as=50 * PAGE)
    q = m.process(rlimit_data=10 * PAGE)

    def body() -> None:
        assert p.mmap(18 * PAGE) is None
        base = p.mmap(17 * PAGE)
        assert base is not None
        assert p.mmap(PAGE, RW, FIXED, base) == base  # replaces, so needs nothing more
        assert p.mmap(PAGE) is None
        assert q.mmap(11 * PAGE) is None
        base = q.mmap(20 * PAGE, PROT_READ)
        assert q.mprotect(base, 10 * PAGE, RW)
        assert not q.mprotect(base + 10 * PAGE, PAGE, RW)
        assert q.mmap(PAGE, RW, SHARED) is not None

    run(m, body)


def test_overcommit_modes(m: Machine) -> None:
    """0 refuses what memory never has, 1 nothing, 2 what goes over the limit in sum."""
    p = m.process()
    pages = 32 << 20 >> 12

    def body() -> None:
        assert p.mmap(2 * pages * PAGE) is None
        assert p.mmap(2 * pages * PAGE, RW, ANON | MAP_NORESERVE) is not None
        assert p.mmap(2 * pages * PAGE, PROT_READ) is not None
        half = p.mmap(pages // 2 * PAGE)
        assert half is not None
        m.set_overcommit(1)
        assert p.mmap(2 * pages * PAGE, addr=PAGE << 20) is not None
        p.munmap(PAGE << 20, 2 * pages * PAGE)
        m.set_overcommit(2)
        assert p.mmap(10 * PAGE) is None
        assert p.mmap(10 * PAGE, RW, ANON | MAP_NORESERVE) is None
        p.munmap(half, pages // 2 * PAGE)
        assert p.mmap(10 * PAGE) is not None
        assert m.shmem_create(pages * PAGE) is None
        limit = m.statistics().user
        assert limit is not None
        assert limit.commit_limit == sum(z.managed_pages for z in m.zones) // 2

    run(m, body)


def test_a_replaced_mapping_needs_no_second_promise(m: Machine) -> None:
    """MAP_FIXED over memory that is charged already, where two of them would be too much."""
    p = m.process()
    pages = sum(zone.managed_pages for zone in m.zones) // 3

    def body() -> None:
        m.set_overcommit(2)
        base = p.mmap(pages * PAGE)
        assert base is not None
        before = committed(m)
        assert p.mmap(pages * PAGE) is None
        assert p.mmap(pages * PAGE, RW, FIXED, base) == base
        assert committed(m) == before

    run(m, body)


def test_mprotect_charges_and_gives_back(m: Machine) -> None:
    """Memory that was never written is uncharged when it may not be written any more."""
    p = m.process()

    def body() -> None:
        before = committed(m)
        base = p.mmap(4 * PAGE, PROT_READ)
        assert committed(m) == before
        p.mprotect(base, 2 * PAGE, RW)
        assert committed(m) == before + 2
        p.mprotect(base, PAGE, PROT_READ)
        assert committed(m) == before + 1
        p.touch(base + PAGE)
        p.mprotect(base + PAGE, PAGE, PROT_READ)
        assert committed(m) == before + 1

    run(m, body)


# -- bad input


@pytest.mark.parametrize(
    ("call", "args", "name"),
    [
        ("brk", (-1,), "addr"),
        ("brk", (1.5,), "addr"),
        ("brk", (None,), "addr"),
        ("sbrk", ("1",), "increment"),
        ("mmap", (0,), "length"),
        ("mmap", (-1,), "length"),
        ("mmap", ("4096",), "length"),
        ("mmap", (PAGE, 8), "prot"),
        ("mmap", (PAGE, None), "prot"),
        ("mmap", (PAGE, RW, 0), "flags"),
        ("mmap", (PAGE, RW, MAP_SHARED | MAP_PRIVATE), "flags"),
        ("mmap", (PAGE, RW, MAP_PRIVATE), "file"),
        ("mmap", (PAGE, RW, MAP_PRIVATE, 0, "file"), "file"),
        ("mmap", (PAGE, RW, ANON, 0, "file"), "flags"),
        ("mmap", (PAGE, RW, ANON | 1 << 30), "flags"),
        ("mmap", (PAGE, RW, FIXED, 5), "addr"),
        ("mmap", (PAGE, RW, FIXED, PAGE), "addr"),
        ("mmap", (PAGE, RW, ANON | MAP_FIXED | MAP_FIXED_NOREPLACE, 1 << 20 | 1), "addr"),
        ("mmap", (PAGE, RW, ANON, 0, None, 5), "offset"),
        ("mmap", (PAGE, RW, ANON, -PAGE), "addr"),
        ("munmap", (PAGE, 0), "length"),
        ("munmap", (5, PAGE), "addr"),
        ("munmap", (1 << 47, PAGE), "addr"),
        ("munmap", (True, PAGE), "addr"),
        ("mprotect", (PAGE, PAGE, RW), "addr"),
        ("mprotect", (5, PAGE, RW), "addr"),
        ("mprotect", (PAGE, PAGE, 99), "prot"),
        ("read", (1 << 20, -1), "nr_bytes"),
        ("read", ("x", 1), "address"),
        ("read", (1 << 20, 1.5), "nr_bytes"),
        ("write", (1 << 20, "text"), "data"),
        ("write", (1 << 20, 5), "data"),
        ("write", (1.5, b"x"), "address"),
        ("write_u64", (1 << 20, -1), "value"),
        ("touch", (None,), "address"),
    ],
)
def test_bad_arguments_change_nothing(
    m: Machine, call: str, args: tuple[object, ...], name: str
) -> None:
    """The message starts with the argument's name; VMAs, pages and promises stay."""
    p = m.process()

    def body() -> None:
        base = p.mmap(3 * PAGE)
        p.touch(base)
        before = ranges(p), p.mm.rss_anon, p.mm.total_vm, committed(m)
        with pytest.raises(BadArgument, match=f"^{name}: "):
            getattr(p, call)(*args)
        assert before == (ranges(p), p.mm.rss_anon, p.mm.total_vm, committed(m))

    run(m, body)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"rlimit_as": -1}, "rlimit_as"),
        ({"rlimit_stack": 1.0}, "rlimit_stack"),
        ({"max_map_count": True}, "max_map_count"),
    ],
)
def test_bad_parameters_of_a_process(m: Machine, fields: dict[str, object], name: str) -> None:
    """No process is made."""
    with pytest.raises(BadArgument, match=f"^{name}: "):
        m.process(**fields)  # type: ignore[arg-type]
    assert m.processes.processes() == []
    with pytest.raises(BadArgument, match=r"^size: "):
        m.shmem_create(0)
    with pytest.raises(BadArgument, match=r"^mode: "):
        m.set_overcommit(3)


def test_a_file_of_another_machine(m: Machine) -> None:
    """Its pages are in other memory."""
    p = m.process()
    with Machine(cpus=1, memory="4M") as other:
        file = other.shmem_create(PAGE)
        with pytest.raises(BadArgument, match=r"^file: .* another machine"):
            on_cpu(m, p.mmap, PAGE, RW, MAP_SHARED, 0, file)


def test_too_much_is_none(m: Machine) -> None:
    """What could be asked for but cannot be had is no error."""
    p = m.process()

    def body() -> None:
        assert p.mmap(1 << 47) is None
        assert p.mmap(1 << 60) is None
        assert p.mmap(PAGE, RW, FIXED, (1 << 47) - PAGE) is None
        assert p.mmap(PAGE, RW, FIXED, (1 << 47) - 2 * PAGE) is not None

    run(m, body)


def test_after_exit(m: Machine) -> None:
    """Everything is given back, the memory is not there any more, and a second exit is an error."""
    before = free_pages(m), committed(m)
    p: Process = m.process()

    def body() -> None:
        base = p.mmap(40 * PAGE, flags=ANON | MAP_POPULATE)
        p.brk(START_BRK + PAGE)
        p.touch(START_BRK)
        p.touch(STACK_START)
        assert committed(m) == before[1] + 33 + 40 + 1
        p.exit()
        assert "exited" in segfaults(p.touch, base)
        with pytest.raises(BadArgument, match="has exited"):
            p.mmap(PAGE)
        with pytest.raises(BadArgument, match="has exited already"):
            p.exit()
        assert p.brk(START_BRK + PAGE) != START_BRK + 2 * PAGE

    run(m, body)
    assert (free_pages(m), committed(m)) == before
    assert m.processes.processes() == []


def test_a_fault_in_an_interrupt_is_refused(m: Machine) -> None:
    """It may sleep."""
    p = m.process()
    base = on_cpu(m, p.mmap, PAGE)
    with pytest.raises(Exception, match=r"sleep|atomic") as caught:
        m.call_on(0, lambda: p.touch(base))
    assert not isinstance(caught.value, SegmentationFault)
    m.verify()
