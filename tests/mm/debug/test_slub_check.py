"""Each thing that the checks of a debug cache find: what is reported, what is repaired, who is told."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from concmem.errors import BadFree, DoubleFree, KernelBug, MemoryCorruption
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.page import OBJECTS_SHIFT, Page

from ..helpers import on_cpu
from ..slab_helpers import slab_of
from .helpers import debug_cache, fixes, reasons, the_report

SIZE = 40
"""Of an object. FZPU: 8 left red zone, 40, 8 right red zone, 8 free pointer, 2 tracks of 32, 8 padding."""
TOTAL = 8 + 40 + 8 + 8 + 64 + 8


def two(m: Machine, c: KmemCache) -> tuple[int, int]:
    """The first object of a slab, in use, and the second, which was in use and is free."""

    def body() -> tuple[int, int]:
        first, second = c.alloc(), c.alloc()
        assert first is not None
        assert second is not None
        c.free(second)
        return first, second

    return on_cpu(m, body)


def test_layout_is_that_of_the_kernel() -> None:
    """Every byte around an object in use, one that was freed, and the rest of the slab."""
    with debug_cache() as (m, c):
        first, second = two(m, c)
        assert second - first == c.size == TOTAL
        before = m.memory.read(first - 8, TOTAL)
        assert before[:8] == b"\xcc" * 8
        assert before[8:48] == b"\x6b" * 39 + b"\xa5"
        assert before[48:56] == b"\xcc" * 8
        assert before[-8:] == b"\x5a" * 8
        after = m.memory.read(second - 8, TOTAL)
        assert after[:8] == after[48:56] == b"\xbb" * 8
        assert after[8:48] == b"\x6b" * 39 + b"\xa5"
        assert int.from_bytes(after[56:64], "little") == second + TOTAL  # what follows on the list
        base, rest = first - 8, 4096 % TOTAL
        assert m.memory.read(base + 4096 - rest, rest) == b"\x5a" * rest
        assert not m.debug_reports


@pytest.mark.parametrize(
    ("where", "what", "wrong", "right"),
    [
        (-1, "Left Redzone", 0x58, 0xCC),
        (-8, "Left Redzone", 0x58, 0xCC),
        (SIZE, "Right Redzone", 0x58, 0xCC),
        (SIZE + 7, "Right Redzone", 0x58, 0xCC),
        (SIZE + 8 + 8 + 64, "Object padding", 0x58, 0x5A),
    ],
)
def test_free_refuses_what_was_overwritten(where: int, what: str, wrong: int, right: int) -> None:
    """A byte beside an object in use: found by its free, restored, and freed the next time."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        m.memory.write(address + where, b"X")
        on_cpu(m, c.free, address)
        report = the_report(m)
        bad = address + where
        offset = bad - (address - 8)
        assert (report.kind, report.subject, report.address) == ("slab", "thing", bad)
        assert report.reason == f"{what} overwritten"
        assert report.text.splitlines()[0] == (
            f"[{what} overwritten] {bad:#018x}-{bad:#018x} @offset={offset}. "
            f"First byte {wrong:#x} instead of {right:#x}"
        )
        assert "BUG thing (Not tainted): Object corrupt" in report.text
        assert fixes(m) == [
            f"Restoring {what} {bad:#018x}-{bad:#018x}={right:#x}",
            f"Object at {address:#018x} not freed",
        ]
        assert m.memory.read(bad, 1) == bytes([right])
        assert address in slab_of(m, address).owners  # it is still somebody's
        on_cpu(m, c.free, address)
        assert len(m.debug_reports) == 1
        with pytest.raises(MemoryCorruption, match=f"{what} overwritten"):
            m.verify()
        m.verify()  # told once


@pytest.mark.parametrize(
    ("where", "what", "right"),
    [(0, "Poison", 0x6B), (SIZE - 2, "Poison", 0x6B), (SIZE - 1, "End Poison", 0xA5)],
)
def test_allocation_finds_a_write_to_a_free_object(where: int, what: str, right: int) -> None:
    """Poison is looked at before an object is handed out; the slab is not used any more."""
    with debug_cache() as (m, c):
        _, address = two(m, c)
        m.memory.write(address + where, b"\0")
        other = on_cpu(m, c.alloc)
        report = the_report(m)
        bad = address + where
        assert report.text.startswith(
            f"[{what} overwritten] {bad:#018x}-{bad:#018x} @offset={bad - (address - TOTAL - 8)}. "
            f"First byte 0x0 instead of {right:#x}\n"
        )
        assert fixes(m) == [
            f"Restoring {what} {bad:#018x}-{bad:#018x}={right:#x}",
            "Marking all objects used",
        ]
        assert other is not None
        assert slab_of(m, other) is not slab_of(m, address)
        (disabled,) = c.node[0].slabs_disabled
        assert disabled is slab_of(m, address)
        assert disabled.inuse == disabled.objects
        with pytest.raises(MemoryCorruption):
            m.verify()
        m.verify()


def test_whole_report() -> None:
    """The kernel's lines in the kernel's order, with both tracks and all bytes."""
    with debug_cache() as (m, c):
        _, address = two(m, c)
        m.memory.write(address, b"hello")
        on_cpu(m, c.alloc, cpu=1)
        base = address - 8 - TOTAL
        lines = the_report(m).text.splitlines()
        expected = [
            rf"\[Poison overwritten\] 0x{address:016x}-0x{address + 4:016x} @offset=144\. "
            r"First byte 0x68 instead of 0x6b",
            "={77}",
            r"BUG thing \(Not tainted\): Object corrupt",
            "-{77}",
            "",
            r"Allocated in two\.<locals>\.body\+0x[0-9a-f]+/0x[0-9a-f]+ age=\d+ cpu=0 pid=0",
            r" alloc\+.*",
            r" two\.<locals>\.body\+.* \(test_slub_check\.py:\d+\)",
            r"Freed in two\.<locals>\.body\+0x[0-9a-f]+/0x[0-9a-f]+ age=\d+ cpu=0 pid=0",
            r" free\+.*",
            r" two\.<locals>\.body\+.*",
            r"Slab 0xffffea[0-9a-f]{10} objects=30 used=2 fp=0x[0-9a-f]{16} flags=workingset",
            rf"Object 0x{address:016x} @offset={address - base} fp=0x{address + TOTAL:016x}",
            "",
            rf"Redzone  {address - 8:016x}: bb bb bb bb bb bb bb bb {{26}}\.{{8}}",
            rf"Object   {address:016x}: 68 65 6c 6c 6f( 6b){{11}}  hellok{{11}}",
            rf"Object   {address + 16:016x}: 6b( 6b){{15}}  k{{16}}",
            rf"Object   {address + 32:016x}: 6b( 6b){{6}} a5 {{26}}k{{7}}\.",
            rf"Redzone  {address + 40:016x}: bb bb bb bb bb bb bb bb {{26}}\.{{8}}",
            rf"Padding  {address + 120:016x}: 5a 5a 5a 5a 5a 5a 5a 5a {{26}}ZZZZZZZZ",
            r"CPU: 1 UID: 0 PID: 1 Comm: cpu1 Not tainted 6\.12.*",
            "Call Trace:",
            " <TASK>",
            r" alloc\+.*",
            " </TASK>",
            rf"FIX thing: Restoring Poison 0x{address:016x}-0x{address + 4:016x}=0x6b",
        ]
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(pattern, line), (line, pattern)


def test_tracks_are_for_programs_too() -> None:
    """Who allocated and who freed: CPU, function and stack."""
    with debug_cache() as (m, c):
        address = on_cpu(m, c.alloc, cpu=0)
        assert address is not None
        on_cpu(m, c.free, address, cpu=1)
        m.memory.write(address, b"X")
        on_cpu(m, c.alloc)
        report = the_report(m)
        assert report.allocated is not None
        assert report.freed is not None
        assert (report.allocated.cpu, report.freed.cpu, report.cpu) == (0, 1, 0)
        assert "TAINT" not in report.text


def test_overwritten_track_has_no_stack() -> None:
    """What lies behind the red zone can be damaged as well; the report says so, and does not fail."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        m.memory.write(address + SIZE, b"\xff" * 32)  # red zone, free pointer, half of a track
        on_cpu(m, c.free, address)
        assert "object allocation/free stack trace missing" in m.debug_reports[0].text
        assert reasons(m)[0] == "Right Redzone overwritten"


@pytest.mark.parametrize("hardened", [False, True])
def test_free_pointer_corrupt(hardened: bool) -> None:
    """A free pointer that leads nowhere: found when the object is looked at, and cut off."""
    with debug_cache(freelist_hardened=hardened) as (m, c):
        _, address = two(m, c)
        m.memory.write(address + c.offset, b"\x11" * 8)
        assert on_cpu(m, c.alloc) is not None
        assert reasons(m) == ["Freepointer corrupt"]
        assert "BUG thing (Not tainted): Freepointer corrupt" in the_report(m).text
        assert fixes(m) == ["Marking all objects used"]


def test_free_pointer_of_an_object_in_use_is_looked_at() -> None:
    """It lies behind the object: who overruns that far is found by the free."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        m.memory.write(address + c.offset, b"\x11" * 8)
        on_cpu(m, c.free, address)
        assert reasons(m) == ["Freepointer corrupt"]
        assert fixes(m) == [f"Object at {address:#018x} not freed"]
        on_cpu(m, c.free, address)  # mended


def test_freechain_corrupt() -> None:
    """A free list that breaks off in the middle: what follows is lost, and counted as in use."""
    with debug_cache() as (m, c):
        address, second = two(m, c)
        m.memory.write(second + c.offset, b"\x11" * 8)
        on_cpu(m, c.free, address)
        assert reasons(m)[0] == "Freechain corrupt"
        assert reasons(m)[1].startswith("Wrong object count. Counter is 1 but counted were 29")
        assert "Object count adjusted" in fixes(m)
        slab = slab_of(m, address)
        assert address not in slab.owners
        assert slab.inuse == 28
        with pytest.raises(MemoryCorruption):
            m.verify()
        m.verify()


def test_freelist_of_a_slab_leads_nowhere() -> None:
    """The head of a free list that is no object: the list is dropped."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        pair = slab_of(m, address).freelist_counters
        pair.set(0x1234, pair.second)
        assert c.validate() == 1
        assert reasons(m) == ["Freepointer corrupt"]
        assert fixes(m) == ["Freelist cleared"]
        assert slab_of(m, address).inuse == 30
        with pytest.raises(MemoryCorruption):
            m.verify()
        m.verify()


def test_allocation_from_a_free_list_that_leads_nowhere() -> None:
    """The same, found by an allocation first, which goes elsewhere."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        pair = slab_of(m, address).freelist_counters
        pair.set(address + 3, pair.second)
        other = on_cpu(m, c.alloc)
        assert reasons(m) == ["Freelist Pointer check fails"]
        assert f"Invalid pointer {address + 3:#018x}" in the_report(m).text
        assert other is not None
        assert slab_of(m, other) is not slab_of(m, address)


def refused(m: Machine, free: Callable[[int], None], address: int) -> KernelBug:
    """What a free raises, which changes nothing."""
    with pytest.raises(KernelBug) as caught:
        on_cpu(m, free, address)
    return caught.value


def test_double_free() -> None:
    """Reported with both tracks, raised in who did it, and so not raised by verify again."""
    with debug_cache() as (m, c):
        _, address = two(m, c)
        error = refused(m, c.free, address)
        assert type(error) is DoubleFree
        assert reasons(m) == ["Object already free"]
        report = the_report(m)
        assert report.raised
        assert report.freed is not None
        assert "BUG thing (Not tainted): Object already free" in report.text
        assert fixes(m) == [f"Object at {address:#018x} not freed"]
        m.verify()


@pytest.mark.parametrize("offset", [8, -3, SIZE])
def test_free_of_no_object(offset: int) -> None:
    """An address in a slab that is none of an object."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        error = refused(m, c.free, address + offset)
        assert type(error) is BadFree
        assert reasons(m) == [f"Invalid object pointer {address + offset:#018x}"]
        m.verify()


def test_free_to_the_wrong_cache() -> None:
    """The owner is named, with who allocated."""
    with debug_cache(letters="FU") as (m, c):
        other = on_cpu(m, m.kmem_cache_create, "other", 200)
        address = on_cpu(m, other.alloc)
        assert address is not None
        assert type(refused(m, c.free, address)) is BadFree
        assert the_report(m).text.startswith(
            "cache_from_obj: Wrong slab cache. thing but object is from other\n"
        )
        assert type(refused(m, c.free, 0xFFFF_8880_0000_0000 + (20 << 20))) is BadFree
        assert reasons(m)[1] == "Object is not a Slab page!"
        on_cpu(m, other.free, address)
        m.verify()


def test_slab_that_another_cache_has_by_now() -> None:
    """What is found under list_lock when the slab has changed hands before."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        other = on_cpu(m, m.kmem_cache_create, "other", 200)
        slab = slab_of(m, address)
        slab.slab_cache = other
        check = m.kernel.slab.debug.check
        assert not on_cpu(m, check.free_consistency_checks, c, slab, address, False)
        slab.slab_cache = c
        assert reasons(m) == ["page slab pointer corrupt."]


def test_alignment_padding() -> None:
    """Without red zones, what fills an object up to a word is looked at."""
    with debug_cache("FP", size=37) as (m, c):
        address, _ = two(m, c)
        assert m.memory.read(address + 37, 3) == b"\x5a" * 3
        m.memory.write(address + 38, b"\1\2")
        on_cpu(m, c.free, address)
        report = the_report(m)
        assert report.reason == "Alignment padding overwritten"
        assert "First byte 0x1 instead of 0x5a" in report.text
        assert "Redzone" not in report.text


def test_bytes_before_are_shown_without_red_zones() -> None:
    """``Bytes b4``: 16 of them, but not before the slab."""
    with debug_cache("FP") as (m, c):
        first, second = two(m, c)
        m.memory.write(second, b"X")
        on_cpu(m, c.alloc)
        assert f"\nBytes b4 {second - 16:016x}: " in the_report(m).text
        m.memory.write(first + 40 + 8, b"X")  # padding of the first object
        on_cpu(m, c.free, first)
        assert all("Bytes b4" not in each.text for each in m.debug_reports[1:])


def test_padding_of_a_slab() -> None:
    """Behind the last object: found by any check of the slab, and restored; the free is done."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        base = address - 8
        start, end = base + 30 * TOTAL + 2, base + 30 * TOTAL + 5
        m.memory.write(start, b"\0\0\0\1")
        on_cpu(m, c.free, address)
        report = the_report(m)
        assert (
            report.reason
            == f"Padding overwritten. {start:#018x}-{end:#018x} @offset={start - base}"
        )
        assert report.address == start
        assert f"\nPadding {base + 30 * TOTAL:016x}: 5a 5a 00 00 00 01 5a 5a" in report.text
        assert fixes(m) == [f"Restoring slab padding {start:#018x}-{end:#018x}=0x5a"]
        assert address not in slab_of(m, address).owners


def test_slab_whose_page_says_that_it_is_none() -> None:
    """The page type is wrong."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        slab = slab_of(m, address)
        kept, slab._mapcount = slab._mapcount, -1
        on_cpu(m, c.free, address)
        assert reasons(m) == ["Not a valid slab page"]
        assert fixes(m) == [f"Object at {address:#018x} not freed"]
        slab._mapcount = kept
        on_cpu(m, c.free, address)


@pytest.mark.parametrize(
    ("objects", "inuse", "reason"),
    [(31, 1, "objects 31 > max 30"), (30, 31, "inuse 31 > max 30")],
)
def test_counters_that_cannot_be(objects: int, inuse: int, reason: str) -> None:
    """More objects than fit, more in use than there are: nothing is freed."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        pair = slab_of(m, address).freelist_counters
        kept = pair.first, pair.second
        pair.set(kept[0], objects << OBJECTS_SHIFT | inuse)
        on_cpu(m, c.free, address)
        assert reasons(m) == [reason]
        pair.set(*kept)
        on_cpu(m, c.free, address)


def set_counters(c: KmemCache, slab: Page, objects: int, inuse: int) -> None:
    """Have a slab's counters say so, and its node's lists agree with them."""
    n = c.node[0]
    with n.list_lock:
        n.set_slab(slab, slab.freelist_counters.first, objects << OBJECTS_SHIFT | inuse)


@pytest.mark.parametrize("inuse", [0, 2, 3, 30])
def test_count_that_is_wrong(inuse: int) -> None:
    """The free list is counted, and the counter is set to that."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        pair = slab_of(m, address).freelist_counters
        right = pair.second
        set_counters(c, slab_of(m, address), 30, inuse)
        c.validate()
        assert reasons(m) == [f"Wrong object count. Counter is {inuse} but counted were 1"]
        assert fixes(m) == ["Object count adjusted"]
        assert pair.second == right
        with pytest.raises(MemoryCorruption):
            m.verify()
        m.verify()


def test_number_of_objects_that_is_wrong() -> None:
    """It is set to what fits into the slab; the object that no list has any more counts as in use."""
    with debug_cache() as (m, c):
        address, _ = two(m, c)
        before_last = address + 28 * TOTAL
        m.memory.write(before_last + c.offset, bytes(8))
        pair = slab_of(m, address).freelist_counters
        c.node[0].total_objects_counter.add(-1)
        set_counters(c, slab_of(m, address), 29, 1)
        c.validate()
        assert reasons(m) == [
            "Wrong number of objects. Found 29 but should be 30",
            "Wrong object count. Counter is 1 but counted were 2",
        ]
        assert fixes(m) == ["Number of objects adjusted", "Object count adjusted"]
        assert pair.second == 30 << OBJECTS_SHIFT | 2
        with pytest.raises(MemoryCorruption):
            m.verify()
        m.verify()


def test_fewer_in_use_than_are_to_be_freed() -> None:
    """What a bulk free would leave below nothing."""
    with debug_cache() as (m, c):
        addresses = on_cpu(m, c.alloc_bulk, 2)
        pair = slab_of(m, addresses[0]).freelist_counters
        pair.set(pair.first, pair.second - 1)
        on_cpu(m, c.free_bulk, addresses)
        assert reasons(m) == ["Slab has 1 allocated objects but 2 are to be freed"]
        pair.set(pair.first, pair.second + 1)
        on_cpu(m, c.free_bulk, addresses)


def test_what_kmalloc_was_not_asked_for_is_red_zone() -> None:
    """13 bytes of kmalloc-16: the 14th is not one's own."""
    with Machine(cpus=1, memory="32M", slab_debug="FZPU,kmalloc-16") as m:
        address = on_cpu(m, m.kmalloc, 13)
        assert address is not None
        assert m.memory.read(address, 16) == b"\x6b" * 12 + b"\xa5" + b"\xcc" * 3
        m.memory.write(address + 13, b"\0")
        on_cpu(m, m.kfree, address)
        assert the_report(m).reason == "kmalloc Redzone overwritten"
        on_cpu(m, m.kfree, address)
        assert on_cpu(m, m.ksize, on_cpu(m, m.kmalloc, 9)) == 16


def test_ksize_gives_the_rest_away() -> None:
    """Who asks how large an object is may use all of it."""
    with Machine(cpus=1, memory="32M", slab_debug="FZPU,kmalloc-16") as m:
        address = on_cpu(m, m.kmalloc, 13)
        assert address is not None
        assert on_cpu(m, m.ksize, address) == 16
        m.memory.write(address, bytes(16))
        on_cpu(m, m.kfree, address)
        assert not m.debug_reports


def test_constructed_objects_are_not_poisoned() -> None:
    """What the constructor did stays, while free and when handed out; red zones are there."""

    def ctor(address: int) -> None:
        m.memory.write(address, b"constructed")

    with Machine(cpus=1, memory="32M", slab_debug="FZPU,made") as m:
        c = on_cpu(m, m.kmem_cache_create, "made", 40, 0, 0, ctor)
        address = on_cpu(m, c.alloc)
        assert address is not None
        assert m.memory.read(address, 11) == b"constructed"
        on_cpu(m, c.free, address)
        assert m.memory.read(address, 11) == b"constructed"
        assert m.memory.read(address - 8, 8) == b"\xbb" * 8
        m.verify()


def test_trace() -> None:
    """``T``: each allocation and each free in the log, with its stack."""
    with debug_cache("T") as (m, c):
        address = on_cpu(m, c.alloc)
        assert address is not None
        on_cpu(m, c.free, address)
        lines = [line.partition("] ")[2] for line in m.log.read().splitlines()]
        following = address + c.size
        assert f"TRACE thing alloc {address:#018x} inuse=1 fp={following:#018x}" in lines
        assert f"TRACE thing free {address:#018x} inuse=1 fp={following:#018x}" in lines
        assert lines.count("Call Trace:") == 2
        assert not m.debug_reports


def test_without_checks_nothing_is_looked_at() -> None:
    """``P`` alone fills, and finds nothing; a bad free is still refused."""
    with debug_cache("P") as (m, c):
        _, address = two(m, c)
        m.memory.write(address, b"X")
        assert on_cpu(m, c.alloc) == address
        on_cpu(m, c.free, address)
        assert type(refused(m, c.free, address)) is DoubleFree
        assert not m.debug_reports


def test_debug_caches_keep_nothing_on_cpus() -> None:
    """No CPU slabs, no partial lists: everything is on the node's lists."""
    with debug_cache() as (m, c):
        addresses = [on_cpu(m, c.alloc, cpu=cpu) for cpu in (0, 1)]
        assert len({slab_of(m, address or 0) for address in addresses}) == 1
        parts: list[KmemCacheCpu] = list(c.cpu_slab.all())
        assert all(part.page is None and part.partial is None for part in parts)
        assert c.node[0].nr_slabs == c.node[0].nr_partial == 1
