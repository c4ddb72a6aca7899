"""Bad input: a named error that says what is wrong, and no structure changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from concmem.errors import (
    BadArgument,
    BadArgumentType,
    BadFree,
    BadPageState,
    ConcmemError,
    DoubleFree,
    KernelBug,
    NotACpu,
)
from concmem.machine import Machine

from .helpers import alloc, free, on_cpu, snapshot


@pytest.fixture
def m() -> Iterator[Machine]:
    """A machine that has been in use, so that hot paths are warm on both CPUs."""
    with Machine(cpus=2, memory="32M", cma="8M") as machine:
        for cpu in (0, 1):
            for gfp in (0xCC0, 0xCC8, 0x820, 0xCC1):
                for order in (0, 1, 4):
                    free(machine, alloc(machine, order, gfp, cpu), order, cpu)
        yield machine


def refuses(
    m: Machine, error: type[ConcmemError], match: str, fn: Callable[..., Any], *args: Any
) -> None:
    """The call raises *error*, and everything is as before."""
    m.verify()
    before = snapshot(m)
    with pytest.raises(error, match=match):
        on_cpu(m, fn, *args)
    assert snapshot(m) == before
    m.verify()


@pytest.mark.parametrize("order", [-1, 11, 1 << 70, 1.5, 0.0, "0", None, True, False, [0]])
def test_alloc_refuses_order(m: Machine, order: Any) -> None:
    """An order that is no whole number from 0 to 10 is refused by name, warm or cold."""
    error = BadArgument if type(order) is int else BadArgumentType
    refuses(m, error, "^order: ", m.alloc_pages, order)
    refuses(m, error, "^order: ", m.alloc_pages, order, 0xDC0)


@pytest.mark.parametrize("order", [-1, 11, 1.5, "0", None])
def test_free_refuses_order(m: Machine, order: Any) -> None:
    """A free with an order that cannot be is refused by name."""
    page = alloc(m)
    error = BadArgument if isinstance(order, int) else BadArgumentType
    refuses(m, error, "^order: ", m.free_pages, page, order)


@pytest.mark.parametrize(("order", "look_alike"), [(0, False), (0, 0.0), (1, True), (1, 1.0)])
def test_free_refuses_order_that_only_compares_equal(
    m: Machine, order: int, look_alike: Any
) -> None:
    """1.0 and True equal 1, but a free with them must not get as far as a list index."""
    page = alloc(m, order)
    refuses(m, BadArgumentType, "^order: ", m.free_pages, page, look_alike)
    free(m, page, order)


@pytest.mark.parametrize("gfp", [-1, -3264, 0x200, 1 << 24, 1 << 70, 0x18 | 0xCC0])
def test_alloc_refuses_gfp_bits(m: Machine, gfp: int) -> None:
    """Unknown bits, negative numbers and two mobilities at once are refused by name."""
    refuses(m, BadArgument, "^gfp: ", m.alloc_pages, 0, gfp)
    refuses(m, BadArgument, "^gfp: ", m.alloc_pages, 3, gfp)


@pytest.mark.parametrize("gfp", ["GFP_KERNEL", None, 1.5, [], {}, b"\0"])
def test_alloc_refuses_gfp_types(m: Machine, gfp: Any) -> None:
    """GFP flags of another type are refused by name."""
    refuses(m, BadArgumentType, "^gfp: ", m.alloc_pages, 0, gfp)
    refuses(m, BadArgumentType, "^gfp: ", m.alloc_pages, 3, gfp)


def test_no_number_is_mistaken_for_gfp_flags(m: Machine) -> None:
    """Numbers that the model uses for itself, such as ids of zones, are no GFP flags."""
    for gfp in range(-64, 0):
        refuses(m, BadArgument, "^gfp: ", m.alloc_pages, 0, gfp)


@pytest.mark.parametrize("node", [-1, 1, 64])
def test_alloc_refuses_node(m: Machine, node: int) -> None:
    """An unknown node is refused by name."""
    refuses(m, BadArgument, "^node: ", m.alloc_pages, 0, 0xCC0, node)


@pytest.mark.parametrize("node", ["0", 0.0, True])
def test_alloc_refuses_node_types(m: Machine, node: Any) -> None:
    """A node of another type is refused by name."""
    refuses(m, BadArgumentType, "^node: ", m.alloc_pages, 0, 0xCC0, node)


@pytest.mark.parametrize("order", [0, 1, 3, 4, 9, 10])
def test_free_twice(m: Machine, order: int) -> None:
    """A second free is a DoubleFree that names pfn and zone, whatever the order."""
    page = alloc(m, order)
    free(m, page, order)
    refuses(m, DoubleFree, f"pfn {page.pfn:#x} .*zone DMA", m.free_pages, page, order)


def test_free_twice_from_another_cpu(m: Machine) -> None:
    """The second free may come from a CPU that never saw the page."""
    page = alloc(m, cpu=0)
    free(m, page, cpu=1)
    refuses(m, DoubleFree, "free already", m.free_pages, page)


def test_free_of_a_merged_page(m: Machine) -> None:
    """A page that has become the tail of a free block is a double free, too."""
    page = alloc(m, 4)
    free(m, page, 4)
    m.drain_all_pages()
    tail = m.pfn_to_page(page.pfn + 3)
    refuses(m, DoubleFree, "free already", m.free_pages, tail, 0)


def test_free_of_a_tail_page(m: Machine) -> None:
    """A tail page is no allocation; the message names its head."""
    page = alloc(m, 3)
    tail = m.pfn_to_page(page.pfn + 5)
    refuses(
        m, BadFree, f"tail page of the order-3 block at pfn {page.pfn:#x}", m.free_pages, tail, 0
    )
    free(m, page, 3)


@pytest.mark.parametrize(("allocated", "freed"), [(0, 1), (1, 0), (3, 2), (4, 9), (10, 9), (9, 10)])
def test_free_with_wrong_order(m: Machine, allocated: int, freed: int) -> None:
    """The message has both orders."""
    page = alloc(m, allocated)
    refuses(m, BadFree, f"order {allocated}, freed with {freed}", m.free_pages, page, freed)
    free(m, page, allocated)


@pytest.mark.parametrize("what", [None, 7, "page", object(), []])
def test_free_of_something_else(m: Machine, what: Any) -> None:
    """Only pages can be freed, referenced, put and split."""
    for fn in (m.free_pages, m.put_page, m.get_page, m.split_page):
        refuses(m, BadArgumentType, "^page: ", fn, what)


@pytest.mark.parametrize("order", [0, 2, 10])
def test_page_of_another_machine(m: Machine, order: int) -> None:
    """A page of another machine is refused by both machines' structures staying as they are."""
    with Machine(cpus=1, memory="32M", cma="8M") as other:
        page = alloc(other, order)
        before = snapshot(other)
        refuses(m, BadFree, "another machine", m.free_pages, page, order)
        refuses(m, BadFree, "another machine", m.split_page, page)
        assert snapshot(other) == before
        other.verify()


def test_cma_page_of_another_machine(m: Machine) -> None:
    """cma_release looks at the page, not only at its number."""
    ours = on_cpu(m, m.cma_alloc, 4)
    with Machine(cpus=1, memory="32M", cma="8M") as other:
        page = on_cpu(other, other.cma_alloc, 4)
        assert page.pfn == ours.pfn
        refuses(m, BadFree, "another machine", m.cma_release, page, 4)


@pytest.mark.parametrize("nr", [0, -1, 2049, 1.5, "1", None, True])
def test_cma_alloc_refuses_numbers(m: Machine, nr: Any) -> None:
    """A number of pages that the area cannot have is refused by name."""
    error = BadArgument if type(nr) is int else BadArgumentType
    refuses(m, error, "^nr_pages: ", m.cma_alloc, nr)


@pytest.mark.parametrize("nr", [0, -1, 5, 1.5, "4", None, True])
def test_cma_release_refuses_numbers(m: Machine, nr: Any) -> None:
    """Releasing more, or less than one, is refused."""
    page = on_cpu(m, m.cma_alloc, 4)
    error: type[ConcmemError] = BadFree if type(nr) is int else BadArgumentType
    refuses(m, error, ".", m.cma_release, page, nr)
    on_cpu(m, m.cma_release, page, 4)


def test_cma_release_twice(m: Machine) -> None:
    """What was released is not allocated any more."""
    page = on_cpu(m, m.cma_alloc, 4)
    on_cpu(m, m.cma_release, page, 4)
    refuses(m, BadFree, "not allocated", m.cma_release, page, 4)
    refuses(m, BadFree, "not in this CMA area", m.cma_release, alloc(m), 1)


def test_cma_without_area() -> None:
    """A machine without CMA says how to get one."""
    with Machine(cpus=1, memory="8M") as m:
        refuses(m, BadArgument, "^cma: .*boot it with", m.cma_alloc, 1)
        refuses(m, BadArgument, "^cma: .*boot it with", m.cma_release, alloc(m), 1)


def test_calls_from_a_thread_that_is_no_cpu(m: Machine) -> None:
    """The main thread has no per-CPU data: every call that needs some refuses, and says where to go."""
    page = alloc(m, 1)
    contiguous = on_cpu(m, m.cma_alloc, 3)
    m.verify()
    before = snapshot(m)
    for call in (
        lambda: m.alloc_pages(0),
        lambda: m.alloc_pages(4, 0x820),
        lambda: m.free_pages(page, 1),
        lambda: m.put_page(page),
        lambda: m.smp_processor_id(),
        lambda: m.cma_alloc(3),
        lambda: m.cma_release(contiguous, 3),
    ):
        with pytest.raises(NotACpu, match="is no CPU of this machine"):
            call()
        assert snapshot(m) == before
    m.verify()
    on_cpu(m, m.cma_release, contiguous, 3)
    free(m, page, 1)


@pytest.mark.parametrize("cpu", [-1, 2, 257])
def test_unknown_cpu(m: Machine, cpu: int) -> None:
    """An unknown CPU is refused by name; nothing is queued."""
    before = snapshot(m)
    with pytest.raises(BadArgument, match=r"^cpu: there is no CPU"):
        m.submit(cpu, m.alloc_pages, 0)
    with pytest.raises(BadArgument, match=r"^cpu: there is no CPU"):
        m.call_on(cpu, lambda: None)
    with pytest.raises(BadArgument, match=r"^bodies: "):
        m.run([None] * 3)
    assert snapshot(m) == before


@pytest.mark.parametrize("cpu", ["0", 1.0, None, True])
def test_cpu_of_another_type(m: Machine, cpu: Any) -> None:
    """A CPU number of another type is refused by name."""
    with pytest.raises(BadArgumentType, match=r"^cpu: "):
        m.submit(cpu, m.alloc_pages, 0)
    with pytest.raises(BadArgumentType, match=r"^cpu: "):
        m.call_on(cpu, lambda: None)


@pytest.mark.parametrize("pfn", [-1, 8192, 1 << 60])
def test_pfn_outside_of_memory(m: Machine, pfn: int) -> None:
    """A page frame that does not exist is refused by name, with the range."""
    refuses(m, BadArgument, "^pfn: .*outside of memory", m.pfn_to_page, pfn)
    refuses(m, BadArgument, "^pfn: .*outside of memory", m.compound_head, pfn)
    with pytest.raises(BadArgument, match="outside of memory"):
        m.virt_to_page(0xFFFF_8880_0000_0000 + pfn * 4096)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flags": 1}, "PAGE_FLAGS_CHECK_AT_FREE"),
        ({"mapping": "file"}, "non-NULL mapping"),
        ({"_mapcount": 0}, "nonzero mapcount"),
    ],
)
@pytest.mark.parametrize("order", [0, 2, 5])
def test_free_of_a_page_in_use(m: Machine, order: int, fields: dict[str, Any], reason: str) -> None:
    """A last reference to a page that is locked or mapped is not dropped."""
    page = alloc(m, order)
    clean = {name: getattr(page, name) for name in fields}
    for name, value in fields.items():
        setattr(page, name, value)
    refuses(m, BadPageState, f"(?s)pfn:{page.pfn:05x}.*{reason}", m.free_pages, page, order)
    for name, value in clean.items():
        setattr(page, name, value)
    free(m, page, order)
    m.verify()


def test_reference_of_a_locked_page_can_be_dropped(m: Machine) -> None:
    """Who locks a page keeps a reference; others may drop theirs meanwhile."""
    page = alloc(m)
    on_cpu(m, m.get_page, page)
    on_cpu(m, m.lock_page, page)
    on_cpu(m, m.put_page, page, cpu=1)
    assert page.ref_count() == 1
    on_cpu(m, m.unlock_page, page)
    free(m, page)
    m.verify()


def test_references_of_a_free_page(m: Machine) -> None:
    """Nobody can have a reference to a free page."""
    page = alloc(m)
    free(m, page)
    refuses(m, DoubleFree, "is free", m.get_page, page)
    refuses(m, DoubleFree, "free already", m.put_page, page)
    refuses(m, KernelBug, ".", m.split_page, page)


def test_split_page_with_other_references(m: Machine) -> None:
    """Only the sole owner may split."""
    page = alloc(m, 2)
    m.get_page(page)
    refuses(m, BadFree, "^split_page", m.split_page, page)
    on_cpu(m, m.put_page, page)
    free(m, page, 2)
