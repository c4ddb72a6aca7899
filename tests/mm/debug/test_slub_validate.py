"""``cache.validate()``, and what is said of a cache that is destroyed with objects in use."""

from __future__ import annotations

import pytest

from concmem.errors import BadArgument, CacheBusy, MemoryCorruption
from concmem.machine import Machine
from concmem.mm.debug.report import MAX_REPORTS

from ..helpers import on_cpu
from ..slab_helpers import create
from .helpers import debug_cache, reasons, the_report


def test_looks_at_partial_full_and_empty_slabs() -> None:
    """All of them, and nothing is wrong."""
    with debug_cache() as (m, c):
        assert c.validate() == 0
        addresses = on_cpu(m, c.alloc_bulk, 61)  # two full slabs, and one with one object
        assert c.validate() == 3
        on_cpu(m, c.free_bulk, addresses)
        assert c.validate() == 3  # kept, empty
        assert not m.debug_reports


def test_finds_a_write_to_a_free_object_in_any_slab() -> None:
    """Nobody has to allocate it."""
    with debug_cache() as (m, c):
        addresses = on_cpu(m, c.alloc_bulk, 31)
        on_cpu(m, c.free, addresses[-1])
        m.memory.write(addresses[-1], b"X")
        m.memory.write(addresses[3] - 1, b"X")
        c.validate()
        assert sorted(reasons(m)) == ["Left Redzone overwritten", "Poison overwritten"]
        c.validate()  # both are restored
        assert len(m.debug_reports) == 2


def test_verify_validates_debug_caches() -> None:
    """What is wrong is raised there, with the text of the first report and how many more there are."""
    with debug_cache() as (m, c):
        addresses = on_cpu(m, c.alloc_bulk, 31)  # in two slabs; of one, the first is reported
        for address in addresses[0], addresses[-1]:
            m.memory.write(address + 40, b"X")
        with pytest.raises(
            MemoryCorruption, match=r"(?s)^thing: Right Redzone.*\(1 more in the kernel"
        ):
            m.verify()
        m.verify()


def test_reports_that_somebody_has_cleared_are_not_raised() -> None:
    """Whoever has looked may say so."""
    with debug_cache() as (m, c):
        address = on_cpu(m, c.alloc)
        assert address is not None
        m.memory.write(address + 40, b"X")
        c.validate()
        m.debug_reports.clear()
        m.verify()


def test_list_lengths_that_are_wrong() -> None:
    """The kernel's two lines."""
    with debug_cache() as (m, c):
        on_cpu(m, c.alloc_bulk, 31)
        n = c.node[0]
        n.nr_partial += 1
        n.nr_slabs_counter.inc()
        c.validate()
        assert [report.text for report in m.debug_reports] == [
            "SLUB thing: 1 partial slabs counted but counter=2",
            "SLUB: thing 2 slabs counted but counter=3",
        ]
        n.nr_partial -= 1
        n.nr_slabs_counter.dec()


def test_only_debug_caches_can_be_validated() -> None:
    """Others change without list_lock: nobody can look at them."""
    with Machine(cpus=1, memory="32M") as m:
        plain = create(m, "plain")
        with pytest.raises(BadArgument, match=r"^cache: plain is no debug cache"):
            plain.validate()


@pytest.mark.parametrize("letters", ["FZPU", "-"])
def test_objects_remaining(letters: str) -> None:
    """Each live object is listed, with who allocated it if that is known."""
    with debug_cache(letters) as (m, c):
        address = on_cpu(m, c.alloc)
        assert address is not None
        with pytest.raises(CacheBusy, match=f"^cache: thing still has 1 objects.*{address:#x}"):
            on_cpu(m, c.destroy)
        text = the_report(m).text
        assert "BUG thing (Not tainted): Objects remaining on __kmem_cache_shutdown()\n" in text
        offset = 8 if letters == "FZPU" else 0
        assert f"\nObject {address:#018x} @offset={offset}" in text
        assert ("Allocated in" in text) == (letters == "FZPU")
        on_cpu(m, c.free, address)
        on_cpu(m, c.destroy)
        m.verify()


@pytest.mark.parametrize("letters", ["FZPU", "Z", "P", "F"])
def test_verify_finds_nothing_where_nothing_is(letters: str) -> None:
    """Whatever lies before the first object of a slab."""
    with debug_cache(letters) as (m, c):
        addresses = on_cpu(m, c.alloc_bulk, 31)
        m.verify()
        on_cpu(m, c.free_bulk, addresses)
        m.verify()


def test_what_there_was_no_room_for_is_raised_too() -> None:
    """Reports are kept up to a number; that there was one more is not lost."""
    with debug_cache() as (m, c):
        address = on_cpu(m, c.alloc)
        assert address is not None
        for _ in range(MAX_REPORTS):
            m.memory.write(address + 40, b"X")
            c.validate()
        with pytest.raises(MemoryCorruption, match=r"(?s)Right Redzone.*999 more"):
            m.verify()
        m.memory.write(address - 1, b"X")
        with pytest.raises(MemoryCorruption, match="Left Redzone"):
            m.verify()
        assert len(m.debug_reports) == MAX_REPORTS
        m.verify()
