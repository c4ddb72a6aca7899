"""The checked mode: accesses that are wrong are found where they are done."""

from __future__ import annotations

import re
from typing import Any

import pytest

from concmem import explore
from concmem.errors import BadArgument, BadFree, DoubleFree, InvalidAccess, MemoryCorruption
from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, ZERO
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU

from ..helpers import PAGE, alloc, free, on_cpu
from .helpers import reasons, the_report


def checked(**options: Any) -> Machine:
    return Machine(cpus=2, memory="32M", **{"kasan": True, **options})


def bad_access(m: Machine, address: int, nr_bytes: int = 1, write: bool = True) -> str:
    """The text of what an access raises."""

    def body() -> None:
        if write:
            m.memory.write(address, bytes(nr_bytes))
        else:
            m.memory.read(address, nr_bytes)

    with pytest.raises(InvalidAccess) as caught:
        on_cpu(m, body)
    return str(caught.value)


@pytest.mark.parametrize("size", [1, 7, 8, 13, 16, 40, 64, 100, 4096, 8192])
def test_every_byte_of_kmalloc_and_none_beside(size: int) -> None:
    """What was asked for may be used; the byte before and the byte behind may not."""
    with checked() as m:
        on_cpu(m, m.kmalloc, size)  # the first of the slab: before it is a page of somebody else
        address = on_cpu(m, m.kmalloc, size)
        assert address is not None
        m.memory.write(address, b"x" * size)
        assert m.memory.read(address, size) == b"x" * size
        for bad in (address - 1, address + size):
            for write in (False, True):
                assert "BUG: KASAN: slab-out-of-bounds" in bad_access(m, bad, write=write)
        bad_access(m, address, size + 1)  # begins well
        on_cpu(m, m.kfree, address)
        m.verify()


def test_use_after_free() -> None:
    """Both tracks, where in the object, and the shadow around it: the kernel's report."""
    with checked() as m:
        c = m.kmem_cache_create("thing", 40)
        address = on_cpu(m, c.alloc, cpu=0)
        assert address is not None
        on_cpu(m, c.free, address, cpu=1)
        text = bad_access(m, address + 3, write=False)
        report = the_report(m)
        assert report.text == text
        assert (report.kind, report.subject, report.reason) == (
            "kasan",
            "thing",
            "slab-use-after-free",
        )
        assert report.raised
        lines = text.splitlines()
        assert lines[0] == lines[-1] == "=" * 66
        assert re.fullmatch(
            r"BUG: KASAN: slab-use-after-free in bad_access\.<locals>\.body\+0x\w+/0x\w+", lines[1]
        )
        assert lines[2] == f"Read of size 1 at addr {address + 3:016x} by task cpu0/0"
        assert lines[4].startswith("CPU: 0 UID: 0 PID: 0 Comm: cpu0 Not tainted 6.12")
        order = [
            "Call Trace:",
            "Allocated by task 0:",
            "Freed by task 1:",
            f"The buggy address belongs to the object at {address:016x}",
            " which belongs to the cache thing of size 40",
            "The buggy address is located 3 bytes inside of",
            f" freed 40-byte region [{address:016x}, {address + 40:016x})",
            "The buggy address belongs to the physical page:",
            "page dumped because: kasan: bad access detected",
            "Memory state around the buggy address:",
        ]
        places = [lines.index(line) for line in order]
        assert places == sorted(places)
        (row,) = [line for line in lines if line.startswith(">")]
        assert address % 128 == 0
        assert row == f">{address:016x}: " + " ".join(["fb"] * 5 + ["fc"] * 11)
        assert lines[lines.index(row) + 1] == "^".rjust(len(f">{address:016x}: f"))
        m.verify()  # it was raised


def test_report_mode_goes_on() -> None:
    """The access is done, and `verify` raises what was found."""
    with checked(kasan="report") as m:
        address = on_cpu(m, m.kmalloc, 13)
        assert address is not None
        m.memory.write(address + 13, b"X")
        assert m.memory.read(address, 13) is not None
        assert reasons(m) == ["slab-out-of-bounds"]
        with pytest.raises(MemoryCorruption, match="KASAN: slab-out-of-bounds"):
            m.verify()
        m.verify()


def test_freed_objects_wait_in_quarantine() -> None:
    """An object is not handed out again at once, so that who still uses it is found; in the end it is."""
    with checked() as m:
        c = m.kmem_cache_create("thing", 1024)

        def body() -> tuple[int, int]:
            first = c.alloc()
            assert first is not None
            c.free(first)
            nr = 0
            while True:
                address = c.alloc()
                assert address is not None
                nr += 1
                if address == first:
                    return first, nr
                c.free(address)

        first, nr = on_cpu(m, body)
        # 32M / 32 / 2 CPUs is 512K: so many objects of a bit more than 1K are kept.
        assert 200 < nr < 1000
        m.memory.write(first, b"mine again")
        m.verify()
        assert not m.debug_reports


def test_bad_frees() -> None:
    """Twice, or of something else: reported and refused."""
    with checked() as m:
        address = on_cpu(m, m.kmalloc, 64)
        assert address is not None
        with pytest.raises(BadFree):
            on_cpu(m, m.kfree, address + 8)
        on_cpu(m, m.kfree, address)
        with pytest.raises(DoubleFree):
            on_cpu(m, m.kfree, address)
        assert reasons(m) == ["invalid-free", "double-free"]
        assert f"Free of addr {address:016x} by task cpu0/0" in m.debug_reports[1].text
        assert m.debug_reports[1].freed is not None
        m.verify()


def test_bulk() -> None:
    """Objects of a bulk allocation are watched as others; a bad list frees nothing."""
    with checked() as m:
        c = m.kmem_cache_create("thing", 40)
        addresses = on_cpu(m, c.alloc_bulk, 5)
        for address in addresses:
            m.memory.write(address, bytes(40))
        with pytest.raises(DoubleFree):
            on_cpu(m, c.free_bulk, [addresses[0], addresses[0]])
        with pytest.raises(BadFree):
            on_cpu(m, c.free_bulk, [addresses[0], addresses[1] + 8])
        m.memory.write(addresses[0], bytes(40))
        on_cpu(m, c.free_bulk, addresses)
        for address in addresses:
            assert "slab-use-after-free" in bad_access(m, address)
        m.verify()


def test_pages() -> None:
    """Free pages may not be used, those of others next to one's own neither."""
    with checked(page_owner=True) as m:
        page = alloc(m, 1)
        address = m.page_address(page)
        m.memory.write(address, bytes(2 * PAGE))
        free(m, page, 1)
        text = bad_access(m, address + PAGE)
        assert "BUG: KASAN: use-after-free in" in text
        assert "page_owner tracks the page as freed" in text
        assert alloc(m, 1, GFP_KERNEL | ZERO) is page
        assert m.memory.read(address, 2 * PAGE) == bytes(2 * PAGE)
        m.verify()


def test_large_blocks_of_kmalloc() -> None:
    """Of whole pages only what was asked for may be used."""
    with checked() as m:
        address = on_cpu(m, m.kmalloc, 3 * PAGE + 5)
        assert address is not None
        m.memory.write(address, bytes(3 * PAGE + 5))
        assert "out-of-bounds" in bad_access(m, address + 3 * PAGE + 5)
        on_cpu(m, m.kfree, address)
        assert "use-after-free" in bad_access(m, address)


def test_krealloc_moves_the_end() -> None:
    """Within an object, smaller and larger."""
    with checked() as m:
        address = on_cpu(m, m.kmalloc, 60)
        assert address is not None
        m.memory.write(address, b"a" * 60)
        assert on_cpu(m, m.krealloc, address, 20) == address
        bad_access(m, address + 20)
        assert on_cpu(m, m.krealloc, address, 64) == address
        m.memory.write(address + 20, b"b" * 44)
        moved = on_cpu(m, m.krealloc, address, 65)
        assert moved is not None
        assert m.memory.read(moved, 64) == b"a" * 20 + b"b" * 44
        bad_access(m, moved + 65)
        bad_access(m, address)


def test_constructors_may_use_their_objects_only() -> None:
    """While an object is made; afterwards nobody may until it is allocated."""

    def ctor(address: int) -> None:
        m.memory.write(address, b"made")

    with checked() as m:
        c = on_cpu(m, m.kmem_cache_create, "made", 40, 0, 0, ctor)
        address = on_cpu(m, c.alloc)
        assert address is not None
        assert m.memory.read(address, 4) == b"made"
        bad_access(m, address + 64)  # the next object, which nobody has had yet


def test_objects_that_readers_may_still_use_are_not_watched() -> None:
    """SLAB_TYPESAFE_BY_RCU: freed objects may be read."""
    with checked() as m:
        c = m.kmem_cache_create("rcu", 40, flags=SLAB_TYPESAFE_BY_RCU)
        address = on_cpu(m, c.alloc)
        assert address is not None
        on_cpu(m, c.free, address)
        m.memory.read(address, 40)
        assert not m.debug_reports
        m.verify()


def test_caches_can_be_destroyed_with_objects_in_quarantine() -> None:
    """They are freed for good first, those of the other CPU, too."""
    with checked() as m:
        c = m.kmem_cache_create("thing", 40)
        for cpu in (0, 1):
            for address in on_cpu(m, c.alloc_bulk, 3, cpu=cpu):
                on_cpu(m, c.free, address, cpu=cpu)
        on_cpu(m, c.destroy)
        m.verify()


def test_with_debug_caches() -> None:
    """Both at once: each with its own bytes; neither finds anything where nothing is."""
    with checked(slab_debug="FZPU", page_poison=True) as m:
        for size in (1, 13, 40, 100, 8192):
            address = on_cpu(m, m.kmalloc, size)
            assert address is not None
            m.memory.write(address, bytes(size))
            bad_access(m, address + size)
            on_cpu(m, m.kfree, address)
        assert {report.kind for report in m.debug_reports} == {"kasan"}
        m.verify()


@pytest.mark.parametrize("value", ["yes", 2, None])
def test_bad_value(value: Any) -> None:
    with pytest.raises(BadArgument, match=r"^kasan: "):
        Machine(cpus=1, memory="32M", kasan=value)


def test_a_cache_is_destroyed_while_its_object_leaves_quarantine() -> None:
    """Whoever destroys it waits for the CPU that frees the object for good, at every moment of that."""

    def program(rt: ControlledRuntime) -> Program:
        m = Machine(memory="4M", kasan=True, runtime=rt)
        kasan = m.kernel.debug.kasan
        gone, other = m.kmem_cache_create("gone", 4096), m.kmem_cache_create("other", 4096)

        def fill() -> int:
            oldest = gone.alloc()
            addresses = [other.alloc() for _ in range(15)]
            assert oldest is not None
            gone.free(oldest)
            for address in addresses[1:]:
                assert address is not None
                other.free(address)
            # 64 KiB are what a CPU keeps: one more, and it leaves.
            assert kasan is not None
            assert len(kasan.quarantine.addresses) == 64 * 1024 // gone.size
            assert oldest in kasan.quarantine.addresses
            assert addresses[0] is not None
            return addresses[0]

        last = on_cpu(m, fill)
        return Program([lambda: other.free(last), gone.destroy], verify=m.verify)

    outcome = explore.check(program, "pct", 60, cpus=2)
    assert outcome.failure is None, outcome.failure
