"""Freed pages are filled, and looked at when they are allocated; and who had them is known."""

from __future__ import annotations

import re

import pytest

from concmem.errors import BadArgument, BadPageState, MemoryCorruption
from concmem.machine import Machine
from concmem.mm.gfp import GFP_KERNEL, MOVABLE, ZERO

from ..helpers import PAGE, alloc, free, on_cpu
from .helpers import reasons, the_report


def machine(**options: object) -> Machine:
    return Machine(cpus=2, memory="32M", page_poison=True, page_owner=True, **options)  # type: ignore[arg-type]


def test_freed_pages_are_filled() -> None:
    """All pages of the block, 0xaa; asked for cleared, they are 0 again."""
    with machine() as m:
        page = alloc(m, 2)
        address = m.page_address(page)
        m.memory.write(address, b"mine" * PAGE)
        free(m, page, 2)
        assert m.memory.read(address, 4 * PAGE) == b"\xaa" * 4 * PAGE
        again = alloc(m, 2, GFP_KERNEL | ZERO)
        assert again is page
        assert m.memory.read(address, 4 * PAGE) == bytes(4 * PAGE)
        m.verify()


def test_write_to_a_freed_page() -> None:
    """Found by who gets it next, with who allocated and who freed it, each with its stack."""
    with machine() as m:
        page = alloc(m, cpu=1)
        address = m.page_address(page)
        free(m, page, cpu=1)
        m.memory.write(address + 100, b"late")
        m.memory.write(address + 110, b"er")
        assert alloc(m, cpu=1) is page
        report = the_report(m)
        assert (report.kind, report.address) == ("page", address + 100)
        text = report.text.splitlines()
        assert text[0] == "pagealloc: memory corruption"
        assert text[1] == (
            f"{address + 100:016x}: 6c 61 74 65 aa aa aa aa aa aa 65 72{'':14}late......er"
        )
        assert "pagealloc: corrupted page details" in report.text
        assert "page_owner tracks the page as freed" in text
        (allocated,) = [line for line in text if line.startswith("page last allocated via order 0")]
        assert re.search(
            r"migratetype Unmovable, gfp_mask 0xcc0\(GFP_KERNEL\), pid 1, tgid 1 \(cpu1\), ts \d+, free_ts",
            allocated,
        )
        assert "page last free pid 1 tgid 1 stack trace:" in text
        assert report.allocated is not None
        assert report.allocated.cpu == 1
        assert report.freed is not None
        assert report.freed.cpu == 1
        with pytest.raises(MemoryCorruption, match="pagealloc: memory corruption"):
            m.verify()
        m.verify()


def test_single_bit() -> None:
    """One flipped bit is said to be one; that is more likely the host's memory."""
    with machine() as m:
        page = alloc(m)
        free(m, page)
        m.memory.write(m.page_address(page) + 5, b"\xa8")
        assert alloc(m) is page
        assert reasons(m) == ["pagealloc: single bit error"]


def test_verify_looks_at_pages_that_are_free() -> None:
    """Without an allocation; what is found is filled again."""
    with machine() as m:
        page = alloc(m)
        address = m.page_address(page)
        free(m, page)
        m.memory.write(address + PAGE - 1, b"\0")
        with pytest.raises(
            MemoryCorruption, match=r"(?s)pagealloc: .*page_owner tracks the page as freed"
        ):
            m.verify()
        assert m.memory.read(address, PAGE) == b"\xaa" * PAGE
        m.verify()
        assert alloc(m) is page
        assert len(m.debug_reports) == 1


def test_write_to_a_page_that_was_never_used() -> None:
    """It is 0 there, as the host gave it, and looked at all the same."""
    with machine() as m:
        page = alloc(m)
        other = m.pfn_to_page(page.pfn + 1)
        m.memory.write(m.page_address(other), b"X")
        pages = [alloc(m) for _ in range(4)]
        assert other in pages
        assert reasons(m) == ["pagealloc: memory corruption"]
        assert "page_owner info is not present (never set?)" in the_report(m).text


def test_log_is_rate_limited() -> None:
    """At most ten in five seconds of the model's time; all are kept as reports."""
    with machine() as m:
        pages = [alloc(m) for _ in range(14)]
        for page in pages:
            free(m, page)
            m.memory.write(m.page_address(page), b"X")
        for _ in pages:
            alloc(m)
        assert len(m.debug_reports) == 14
        assert m.log.read().count("pagealloc: memory corruption") <= 10


def test_shared_page_is_filled_by_the_last() -> None:
    """While somebody has a reference, its bytes stay."""
    with machine() as m:
        page = alloc(m)
        on_cpu(m, m.get_page, page)
        m.memory.write(m.page_address(page), b"kept")
        free(m, page)
        assert m.memory.read(m.page_address(page), 4) == b"kept"
        free(m, page)
        assert m.memory.read(m.page_address(page), 4) == b"\xaa" * 4


def test_bad_page_state_tells_who_had_it() -> None:
    """The report of a page freed while it is mapped has its owner, too."""
    with machine() as m:
        page = alloc(m)
        page._mapcount = 0
        with pytest.raises(
            BadPageState, match=r"(?s)^BUG: Bad page state.*page_owner tracks the page as"
        ):
            free(m, page)
        page._mapcount = -1
        free(m, page)
        m.verify()  # it was raised in who did it


def test_page_owner_text() -> None:
    """One paragraph for each allocation, in the order of memory; none for what is free."""
    with machine() as m:
        block, single = alloc(m, 3, MOVABLE | GFP_KERNEL), alloc(m)
        owner = m.kernel.debug.page_owner
        assert owner is not None
        paragraphs = owner.render().split("\n\n")[:-1]
        firsts = [paragraph.splitlines()[:2] for paragraph in paragraphs]
        pfns = [int(second.split()[1], 16) for _, second in firsts]
        assert pfns == sorted(pfns)
        assert {block.pfn, single.pfn} <= set(pfns)
        first, second = firsts[pfns.index(block.pfn)]
        assert re.fullmatch(
            r"Page allocated via order 3, mask 0x[0-9a-f]+\(.*\), pid 0, tgid 0 \(cpu0\), ts \d+ ns",
            first,
        )
        assert second.startswith(f"PFN {block.pfn:#x} type Movable Block {block.pfn >> 9} type ")
        free(m, block, 3)
        assert f"PFN {block.pfn:#x} " not in owner.render()
        record = owner.record(block.pfn + 7)
        assert record is not None
        assert not record.allocated
        assert record.free_pid == 0


def test_split_pages_have_the_same_owner() -> None:
    """Each by itself, order 0."""
    with machine() as m:
        page = alloc(m, 1)
        on_cpu(m, m.split_page, page)
        owner = m.kernel.debug.page_owner
        assert owner is not None
        records = [owner.record(page.pfn + i) for i in range(2)]
        assert [record and (record.order, record.allocated) for record in records] == [
            (0, True)
        ] * 2
        for i in range(2):
            free(m, m.pfn_to_page(page.pfn + i))
        m.verify()


def test_cma_pages_are_looked_at_and_owned() -> None:
    """They do not come from the fast path."""
    with machine(cma="4M") as m:
        first = on_cpu(m, m.cma_alloc, 4)
        assert first is not None
        owner = m.kernel.debug.page_owner
        assert owner is not None
        record = owner.record(first.pfn + 3)
        assert record is not None
        assert record.allocated
        on_cpu(m, m.cma_release, first, 4)
        assert m.memory.read(m.page_address(first), PAGE) == b"\xaa" * PAGE
        m.verify()


@pytest.mark.parametrize("name", ["page_poison", "page_owner"])
def test_not_a_bool(name: str) -> None:
    """The message names the argument."""
    with pytest.raises(BadArgument, match=f"^{name}: expected True or False, got 'yes'"):
        Machine(cpus=1, memory="32M", **{name: "yes"})  # type: ignore[arg-type]
