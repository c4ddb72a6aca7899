"""
Planted faults, as users of memory make them, while the other CPU works: each is found, by what is there to.

No odds: what is written is in memory, and memory is looked at. When it is looked at is up to the checker: at
the access itself, at a free, at the next allocation, or at the latest when the machine is verified.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest

from concmem.errors import InvalidAccess, MemoryCorruption
from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache

SIZES = (8, 13, 64, 200, 1000)

Fault = Callable[[Machine, KmemCache, int], int]
"""Does it to an object in use of so many bytes, and gives the address that is wrong."""


def after_free(m: Machine, c: KmemCache, address: int) -> int:
    """
    The other CPU gets the object, frees it, and still writes to it.

    In one interrupt, while this CPU waits: nobody can be given the object in between, and to write
    to what somebody has is no fault that anybody could see.
    """
    bad = address + c.object_size // 2

    def handler() -> None:
        c.free(address)
        m.memory.write(bad, b"\0")

    m.call_on(1, handler)
    return bad


def one_too_many(m: Machine, c: KmemCache, address: int) -> int:
    """One byte behind the end."""
    m.memory.write(address + c.object_size, b"\0")
    return address + c.object_size


def one_before(m: Machine, c: KmemCache, address: int) -> int:
    """One byte before the start."""
    m.memory.write(address - 1, b"\0")
    return address - 1


FAULTS: dict[str, tuple[Fault, dict[str, str]]] = {
    "use after free": (
        after_free,
        {"slab": "Poison overwritten", "kasan": "slab-use-after-free"},
    ),
    "one too many": (
        one_too_many,
        {"slab": "Right Redzone overwritten", "kasan": "slab-out-of-bounds"},
    ),
    "one before": (
        one_before,
        {"slab": "Left Redzone overwritten", "kasan": "slab-out-of-bounds"},
    ),
}
"""And what each checker says of it."""

CHECKERS: dict[str, dict[str, Any]] = {
    "slab": {"slab_debug": "FZPU"},
    "kasan": {"kasan": True},
}


class Found(NamedTuple):
    address: int
    reasons: list[str]
    addresses: list[int]


def plant(fault: Fault, size: int, seed: int, options: dict[str, Any]) -> Found:
    """Two CPUs use a cache correctly, and CPU 0 makes one mistake at some time."""
    with Machine(cpus=2, memory="32M", seed=seed, runtime="jitter", **options) as m:
        c = m.kmem_cache_create("victim", size)
        wrong: list[int] = []

        def work(cpu: int) -> None:
            rng = Random(f"{seed}/{cpu}")
            held: list[int] = []
            turns = 60
            mistake = rng.randrange(10, turns) if cpu == 0 else -1
            for turn in range(turns):
                if held and rng.random() < 0.4:
                    c.free(held.pop(rng.randrange(len(held))))
                address = c.alloc()
                assert address is not None
                m.memory.write(address, bytes(size))
                if turn == mistake:
                    try:
                        wrong.append(fault(m, c, address))
                    except InvalidAccess:
                        wrong.append(m.debug_reports[0].address)
                    return  # what is held stays so: nobody frees it any more
                held.append(address)

        m.run([lambda: work(0), lambda: work(1)])
        try:
            m.verify()
        except MemoryCorruption:
            assert not m.debug_reports[0].raised
        else:
            assert all(report.raised for report in m.debug_reports)
        reports = list(m.debug_reports)
    return Found(wrong[0], [r.reason for r in reports], [r.address for r in reports])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(name: str, checker: str, size: int, seed: int) -> None:
    """Under its name and at its address; what else there is comes from what was done about it."""
    fault, expected = FAULTS[name]
    found = plant(fault, size, seed, CHECKERS[checker])
    assert found.reasons[0] == expected[checker]
    assert found.addresses[0] == found.address
    # Objects of a slab whose free list is not trusted any more are not taken back.
    assert set(found.reasons[1:]) <= {"Slab disabled since SLUB metadata consistency check failed"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"page_poison": True, "page_owner": True}, "pagealloc: memory corruption"),
        ({"kasan": True}, "use-after-free"),
    ],
)
def test_write_to_a_page_that_another_cpu_has_freed(
    options: dict[str, Any], expected: str, seed: int
) -> None:
    """While pages are allocated and freed on both."""
    with Machine(cpus=2, memory="32M", seed=seed, runtime="jitter", **options) as m:

        def churn() -> None:
            for _ in range(30):
                page = m.alloc_pages(0)
                assert page is not None
                m.memory.write(m.page_address(page), b"mine")
                m.free_pages(page)

        def mistake() -> None:
            page = m.alloc_pages(1)
            assert page is not None
            churn()
            m.call_on(1, lambda: m.free_pages(page, 1))
            try:
                m.memory.write(m.page_address(page) + 4096 + seed, b"late")
            except InvalidAccess:
                assert options == {"kasan": True}

        m.run([mistake, churn])
        if "kasan" in options:
            m.verify()
        else:
            with pytest.raises(MemoryCorruption, match=r"page last free pid 1 tgid 1 stack trace"):
                m.verify()
        assert [report.reason for report in m.debug_reports] == [expected]


def test_without_debugging_nobody_notices() -> None:
    """The same faults on a machine without: so it is debugging that finds them."""
    for fault, _ in FAULTS.values():
        if (
            fault is not after_free
        ):  # which overwrites a free pointer, found by the free list's rules
            found = plant(fault, 64, 0, {})
            assert found.reasons == []
