"""When memory is short: watermarks, kswapd, direct reclaim, and failing with a report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from concmem.errors import BadArgument, SleepInAtomic
from concmem.machine import Machine
from concmem.mm.page import Page
from concmem.mm.reclaim import Shrinker
from concmem.runtime.cpu import Cpu

from .helpers import WAIT, alloc, exact_counters, free, free_all, nr_buddy_pages, on_cpu, take_all

GFP_KERNEL = 0xCC0
GFP_ATOMIC = 0x820
GFP_NOWAIT = 0x2800
NOWARN = 0x2000
NORETRY = 0x10000
NOFAIL = 0x8000
NOMEMALLOC = 0x80000
MOVABLE = 0x08


@pytest.fixture(autouse=True)
def no_boost(monkeypatch: pytest.MonkeyPatch) -> None:
    """``vm.watermark_boost_factor = 0``: marks stay where they are when types mix."""
    monkeypatch.setattr("concmem.mm.zone.WATERMARK_BOOST_FACTOR", 0)


def one_zone(**parameters: Any) -> Machine:
    """16 MiB in one zone, with a reserve of 512 kB: min 128, low 160, high 192 pages."""
    m = Machine(
        **({"cpus": 2, "memory": "16M", "min_free_kbytes": 512, "pagesets": False} | parameters)
    )
    assert m.zones[0].watermark[:3] == (128, 160, 192)
    exact_counters(m)
    return m


class Cache:
    """A cache of single pages that a shrinker can empty."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.pages: list[Page] = []
        self.scanned_by: list[int] = []
        self.shrinker = Shrinker(lambda: len(self.pages), self.scan, "cache")

    def scan(self, nr: int) -> int:
        self.scanned_by.append(self.m.smp_processor_id())
        freed = 0
        while freed < nr:
            try:
                page = self.pages.pop()
            except IndexError:
                break
            self.m.free_pages(page, 0)
            freed += 1
        return freed


def wait_for(m: Machine, condition: Callable[[], bool]) -> None:
    """On the main thread: let the machine's threads run until *condition* holds."""
    done = threading.Event()
    for _ in range(100_000):
        if condition():
            return
        done.wait(0.0005)
    raise AssertionError("never happened")


def park_kswapd(m: Machine) -> None:
    """Make kswapd believe that reclaim is hopeless, so that nothing happens behind the test."""
    for node in m.nodes:
        node.kswapd_failures = 16


# -- watermarks


@pytest.mark.parametrize(
    ("gfp", "left"),
    [
        # A zone refuses when free <= mark. GFP_ATOMIC: half of min, and of that three quarters;
        # GFP_NOWAIT is not __GFP_HIGH, so it stops at min, as GFP_KERNEL does.
        (GFP_KERNEL | NOWARN | NORETRY, 128),
        (GFP_NOWAIT, 128),
        (GFP_ATOMIC | NOWARN, 48),
        (0x20 | 0xC00 | NOWARN | NORETRY, 64),  # __GFP_HIGH but may sleep
        (GFP_KERNEL | 0x20000 | NOWARN | NORETRY, 0),  # __GFP_MEMALLOC: no marks at all
        (GFP_KERNEL | 0x20000 | NOMEMALLOC | NOWARN | NORETRY, 128),
    ],
)
def test_how_far_down_each_kind_may_go(gfp: int, left: int) -> None:
    """Single pages can be had until exactly the mark of their kind is left."""
    with one_zone() as m:
        park_kswapd(m)
        pages = take_all(m, 0, gfp)
        assert nr_buddy_pages(m) == left
        free_all(m, pages)
        m.verify()


def test_a_larger_order_counts_in_full() -> None:
    """An order-4 request is refused when the pages it takes are what the mark needs."""
    with one_zone() as m:
        park_kswapd(m)
        pages = take_all(m, 4, GFP_KERNEL | NOWARN)
        assert 128 < nr_buddy_pages(m) <= 128 + 15 + 16
        assert pages


def test_fragmentation_refuses_orders_although_pages_are_free() -> None:
    """With every second page in use, half of memory is free and order 1 cannot be had."""
    with one_zone() as m:
        park_kswapd(m)
        pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        by_pfn = sorted(pages, key=lambda page: page.pfn)
        free_all(m, [page for page in by_pfn if page.pfn % 2])
        more = take_all(m, 1, GFP_ATOMIC | NOWARN)
        assert nr_buddy_pages(m) > 1500
        assert alloc(m, 1, GFP_KERNEL | NOWARN) is None
        assert len(more) < 200  # what was never taken
        m.verify()


def test_zones_below_keep_a_reserve_from_requests_that_could_go_higher() -> None:
    """Of zone DMA, GFP_DMA may use all but min; others leave lowmem_reserve besides."""
    with Machine(cpus=1, memory="1G", pagesets=False) as m:
        park_kswapd(m)
        exact_counters(m)
        dma = m.zones[0]
        reserve = (m.zones[1].managed_pages) // 256
        assert reserve > 500
        take_all(m, 10, GFP_KERNEL | NOWARN)
        pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        assert dma.nr_free_pages_snapshot() == dma.watermark.min + reserve
        assert m.zones[1].nr_free_pages_snapshot() == m.zones[1].watermark.min
        assert pages
        more = take_all(m, 0, 0xCC1 | NOWARN)
        assert dma.nr_free_pages_snapshot() == dma.watermark.min
        assert len(more) == reserve


def test_the_fullest_zone_is_tried_first() -> None:
    """Without zone flags the highest zone serves; DMA only when it is exhausted."""
    with Machine(cpus=1, memory="64M") as m:
        assert alloc(m).zone.name == "DMA32"
        assert alloc(m, 0, 0xCC1).zone.name == "DMA"
        assert alloc(m, 0, 0xCC4).zone.name == "DMA32"
        assert {page.zone.name for page in take_all(m, 5, GFP_KERNEL | NOWARN)} == {"DMA32", "DMA"}


# -- NUMA


@pytest.mark.parametrize("nodes", [2, 4])
def test_local_memory_first(nodes: int) -> None:
    """Each CPU gets pages of its own node, as long as there are any."""
    with Machine(cpus=4, memory="256M", nodes=nodes) as m:
        for cpu in range(4):
            page = alloc(m, 0, cpu=cpu)
            assert page.zone.zone_pgdat.node_id == cpu * nodes // 4
        assert alloc(m, 0, cpu=0, node=nodes - 1).zone.zone_pgdat.node_id == nodes - 1


@pytest.mark.parametrize("nodes", [2, 4])
def test_remote_memory_when_the_node_is_full(nodes: int) -> None:
    """Nodes are filled one after the other, nearest first; THISNODE does not leave its own."""
    with Machine(cpus=4, memory="128M", nodes=nodes) as m:
        for node in m.nodes:
            node.kswapd_failures = 16
        own = take_all(m, 8, GFP_KERNEL | 0x200000 | NOWARN, cpu=3)
        assert {page.zone.zone_pgdat.node_id for page in own} == {nodes - 1}
        rest = take_all(m, 8, GFP_KERNEL | NOWARN, cpu=3)
        visited = list(dict.fromkeys(page.zone.zone_pgdat.node_id for page in rest))
        assert visited == [*range(nodes - 1)]
        free_all(m, own + rest, 8, cpu=0)
        m.drain_all_pages()
        m.verify()


def test_a_node_without_memory_of_the_zone() -> None:
    """GFP_DMA on a node that has no such zone goes to the one that has; with THISNODE it fails."""
    with Machine(cpus=2, memory="64M", nodes=2) as m:
        assert alloc(m, 0, 0xCC1, cpu=1).zone.name == "DMA"
        assert alloc(m, 0, 0xCC1 | 0x200000 | NOWARN, cpu=1) is None


# -- kswapd


def test_kswapd_is_woken_at_low_and_frees_up_to_high() -> None:
    """An allocation that finds the zone at low wakes kswapd, which shrinks until high is passed."""
    with one_zone() as m:
        cache = Cache(m)
        zone = m.zones[0]

        def fill() -> None:
            while zone.nr_free_pages_snapshot() > 161:
                page = m.alloc_pages(0, GFP_KERNEL)
                assert page is not None
                cache.pages.append(page)

        on_cpu(m, fill)
        m.register_shrinker(cache.shrinker)
        assert m.nodes[0].kswapd_wakeups == 0
        page = alloc(m, 0, GFP_ATOMIC)
        assert page is not None
        assert m.nodes[0].kswapd_wakeups == 0  # 161 > low
        assert alloc(m, 0, GFP_ATOMIC) is not None  # 160 is not above low
        wait_for(m, lambda: m.events.sum()["pageoutrun"] > 0)
        assert nr_buddy_pages(m) > zone.watermark.high
        # Rounds of 32 pages: it stops as soon as high is passed.
        assert nr_buddy_pages(m) <= zone.watermark.high + 32
        assert set(cache.scanned_by) == {2}  # kswapd's number: it comes after the CPUs
        assert not zone.below_high()
        m.verify()


def test_kswapd_gives_up_after_16_runs_in_vain() -> None:
    """With nothing to reclaim, kswapd is not woken for ever; progress elsewhere revives it."""
    with one_zone() as m:
        cache = Cache(m)
        cache.pages = take_all(m, 0, GFP_ATOMIC | NOWARN)
        node = m.nodes[0]
        for _ in range(40):
            before = m.events.sum()["pageoutrun"]
            assert alloc(m, 0, GFP_ATOMIC | NOWARN) is None
            if node.kswapd_failures >= 16:
                break
            wait_for(m, lambda before=before: m.events.sum()["pageoutrun"] > before)
        assert node.kswapd_failures == 16
        wakeups = m.events.sum()["kswapd_wakeups"]
        assert alloc(m, 0, GFP_ATOMIC | NOWARN) is None
        assert m.events.sum()["kswapd_wakeups"] == wakeups
        m.register_shrinker(cache.shrinker)
        assert alloc(m, 0, GFP_KERNEL) is not None
        assert node.kswapd_failures < 16


def test_what_a_shrinker_allocates_on_kswapd_does_not_reclaim() -> None:
    """kswapd reclaims on behalf of others, so an allocation in a shrinker must not recurse."""
    with one_zone() as m:
        cache = Cache(m)
        depth = 0
        deepest = 0
        ran = threading.Event()

        def scan(nr: int) -> int:
            nonlocal depth, deepest
            depth += 1
            deepest = max(deepest, depth)
            page = m.alloc_pages(4, GFP_KERNEL | NOWARN)
            if page is not None:
                m.free_pages(page, 4)
            depth -= 1
            ran.set()
            return cache.scan(nr) if depth == 0 else 0

        cache.pages = take_all(m, 0, GFP_ATOMIC | NOWARN)
        m.register_shrinker(Shrinker(lambda: len(cache.pages), scan, "allocates"))
        m.nodes[0].kswapd_failures = 0
        m.nodes[0].wakeup_kswapd(0, 2)
        assert ran.wait(WAIT)
        wait_for(m, lambda: nr_buddy_pages(m) > 192 and m.events.sum()["pageoutrun"] > 0)
        assert deepest == 1


def test_mixing_types_wakes_kswapd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A boosted watermark is announced by the allocation that caused it, on the fast path, too."""
    monkeypatch.setattr("concmem.mm.zone.WATERMARK_BOOST_FACTOR", 15000)
    with Machine(cpus=1, memory="64M", pagesets=False) as m:
        node = m.nodes[0]
        movable = take_all(m, 0, GFP_KERNEL | MOVABLE | NORETRY | NOWARN)
        before = m.events.sum()["kswapd_wakeups"]
        by_pfn = sorted(movable, key=lambda page: page.pfn)
        # Of every 8 pages free 7: no page block is free, most of memory is.
        free_all(m, [page for page in by_pfn if page.pfn % 8])
        node.kswapd_failures = 0
        assert alloc(m, 1, GFP_KERNEL) is not None
        wait_for(m, lambda: m.events.sum()["kswapd_wakeups"] > before)


def test_single_pages_for_who_cannot_wait_ignore_a_boost() -> None:
    """A boosted mark makes GFP_KERNEL reclaim, but does not keep GFP_ATOMIC from a page."""
    with one_zone() as m:
        park_kswapd(m)
        with m.zones[0].lock:
            m.zones[0].watermark_boost = 512
            m.zones[0].update_fast_mark()
        take_all(m, 0, GFP_KERNEL | NOWARN)
        assert nr_buddy_pages(m) == 128 + 512
        take_all(m, 0, GFP_ATOMIC | NOWARN)
        assert nr_buddy_pages(m) == 48


# -- direct reclaim


def test_direct_reclaim_on_the_allocating_cpu() -> None:
    """A blocking allocation that finds no page shrinks by itself, in rounds of 32 pages."""
    with one_zone() as m:
        park_kswapd(m)
        cache = Cache(m)
        cache.pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        held = len(cache.pages)
        m.register_shrinker(cache.shrinker)
        page = alloc(m, 0, GFP_KERNEL, cpu=1)
        assert page is not None
        assert cache.scanned_by[0] == 1
        assert held - len(cache.pages) >= 32
        assert m.events.sum()["pgsteal_direct"] >= 32
        m.verify()


def test_atomic_allocations_never_reclaim() -> None:
    """GFP_ATOMIC and GFP_NOWAIT fail at once: shrinkers are not asked."""
    with one_zone() as m:
        park_kswapd(m)
        cache = Cache(m)
        cache.pages = take_all(m, 0, GFP_ATOMIC | NOWARN)
        m.register_shrinker(cache.shrinker)
        for gfp in (GFP_ATOMIC | NOWARN, GFP_NOWAIT):
            assert alloc(m, 0, gfp) is None
        assert cache.scanned_by == []


def test_pages_that_page_sets_keep_are_fetched_before_failing() -> None:
    """Free pages of other CPUs' sets are drained rather than reported missing."""
    with one_zone(pagesets=True) as m:
        park_kswapd(m)
        pages = take_all(m, 0, GFP_KERNEL | NOWARN, cpu=1)
        kept = pages[:60]
        free_all(m, kept, cpu=1)
        assert alloc(m, 0, GFP_KERNEL, cpu=0) is not None
        m.verify()


def test_reclaimed_pages_are_not_lost_in_page_sets() -> None:
    """What reclaim frees lands in this CPU's set first; every round fetches it from there."""
    with one_zone(pagesets=True, cpus=1) as m:
        park_kswapd(m)
        cache = Cache(m)
        pages = take_all(m, 0, GFP_ATOMIC | NOWARN)
        m.drain_all_pages()
        missing = 128 + 8 - nr_buddy_pages(m)
        assert 32 < missing < 128  # more than one round
        cache.pages = pages[:missing]
        m.register_shrinker(cache.shrinker)
        assert alloc(m, 0, GFP_KERNEL) is not None
        m.verify()


def test_shrinkers_come_and_go() -> None:
    """An unregistered shrinker is not asked any more; a stranger cannot be unregistered."""
    with one_zone() as m:
        park_kswapd(m)
        cache = Cache(m)
        cache.pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        m.register_shrinker(cache.shrinker)
        m.unregister_shrinker(cache.shrinker)
        assert alloc(m, 0, GFP_KERNEL | NOWARN) is None
        assert cache.scanned_by == []
        with pytest.raises(BadArgument, match=r"^shrinker: 'cache' is not registered"):
            m.unregister_shrinker(cache.shrinker)


def test_unregister_waits_for_a_running_shrinker() -> None:
    """When unregister_shrinker returns, the shrinker does not run on any CPU."""
    with one_zone() as m:
        park_kswapd(m)
        cache = Cache(m)
        cache.pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        entered, leave = threading.Event(), threading.Event()
        running = False

        def scan(nr: int) -> int:
            nonlocal running
            running = True
            entered.set()
            assert leave.wait(WAIT)
            freed = cache.scan(nr)
            running = False
            return freed

        shrinker = Shrinker(lambda: len(cache.pages), scan, "slow")
        m.register_shrinker(shrinker)
        reclaimer = m.submit(0, m.alloc_pages, 0, GFP_KERNEL)
        assert entered.wait(WAIT)
        gone = m.submit(1, lambda: (m.unregister_shrinker(shrinker), running)[1])
        leave.set()
        assert gone.result(WAIT) is False
        assert reclaimer.result(WAIT) is not None


def test_an_interrupt_handler_may_not_reclaim() -> None:
    """A handler that needs a sleep is a bug, said by name; GFP_ATOMIC is the way."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_KERNEL | NOWARN)
        with pytest.raises(SleepInAtomic):
            m.call_on(0, lambda: m.alloc_pages(0, GFP_KERNEL | NOWARN))
        assert m.call_on(0, lambda: m.alloc_pages(0, GFP_ATOMIC)) is not None
        m.verify()


# -- failing


def test_failure_report() -> None:
    """The report names CPU, order, mode and the marks of each zone, as the kernel's does."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_KERNEL | NOWARN)
        assert m.log.read() == ""
        assert alloc(m, 3, GFP_KERNEL, cpu=1) is None
        log = m.log.read()
        assert "cpu1: page allocation failure: order:3, mode:0xcc0(GFP_KERNEL)\n" in log
        assert "Node 0 DMA free:" in log
        assert "min:512kB low:640kB high:768kB managed:16380kB" in log
        assert m.events.sum()["page_alloc_failed"] >= 1


def test_failure_report_of_an_atomic_allocation() -> None:
    """The mode is printed with its names, in the kernel's order."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_ATOMIC | NOWARN)
        assert alloc(m, 0, GFP_ATOMIC | 0x100) is None
        assert "order:0, mode:0x920(GFP_ATOMIC|__GFP_ZERO)" in m.log.read()


def test_nowarn_is_silent() -> None:
    """NOWARN fails without a word, but is counted."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_KERNEL | NOWARN)
        assert alloc(m, 10, GFP_KERNEL | NOWARN) is None
        assert m.log.read() == ""
        assert m.events.sum()["page_alloc_failed"] >= 2


def test_noretry_reclaims_once() -> None:
    """NORETRY asks shrinkers for one round of 32 pages and gives up."""
    with one_zone() as m:
        park_kswapd(m)
        pages = take_all(m, 0, GFP_ATOMIC | NOWARN)
        cache = Cache(m)
        cache.pages = pages
        m.register_shrinker(cache.shrinker)
        # 48 pages are free and 128 must stay: one round is not enough, three are.
        assert alloc(m, 0, GFP_KERNEL | NORETRY | NOWARN) is None
        assert len(cache.scanned_by) == 1
        assert alloc(m, 0, GFP_KERNEL) is not None


# -- NOFAIL and OOM


@pytest.mark.parametrize("order", [0, 3, 4, 10])
@pytest.mark.parametrize("extra", [0, NORETRY, 0x4000])
def test_nofail_waits_until_somebody_frees(order: int, extra: int) -> None:
    """NOFAIL never returns None, whatever the order and the other flags."""
    with one_zone() as m:
        park_kswapd(m)
        blocks = take_all(m, 10, GFP_KERNEL | NOWARN)
        rest = take_all(m, 0, GFP_ATOMIC | NOWARN)
        failures = m.events.sum()["page_alloc_failed"]
        waiter = m.submit(0, m.alloc_pages, order, GFP_KERNEL | NOFAIL | extra)
        wait_for(m, lambda: m.events.sum()["allocstall_dma"] > 3)
        assert not waiter.done()
        free_all(m, [blocks.pop(), blocks.pop()], 10, cpu=1)
        page = waiter.result(WAIT)
        assert page is not None
        assert m.events.sum()["page_alloc_failed"] == failures
        free(m, page, order)
        free_all(m, rest)
        free_all(m, blocks, 10)
        m.verify()


def test_nofail_may_use_the_reserve() -> None:
    """Rather than wait, NOFAIL goes down to half of min, as GFP_ATOMIC may."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_KERNEL | NOWARN)
        assert nr_buddy_pages(m) == 128
        assert alloc(m, 0, GFP_KERNEL | NOFAIL) is not None
        assert nr_buddy_pages(m) == 127


def test_oom_notifier_frees_in_the_last_moment() -> None:
    """Before an allocation fails for good, notifiers may free pages; then it goes on."""
    with one_zone() as m:
        park_kswapd(m)
        pages = take_all(m, 0, GFP_KERNEL | NOWARN)
        calls = []

        def notify() -> int:
            calls.append(m.smp_processor_id())
            if len(calls) > 1:
                return 0
            for _ in range(100):
                m.free_pages(pages.pop(), 0)
            return 100

        m.register_oom_notifier(notify)
        assert alloc(m, 0, GFP_KERNEL, cpu=1) is not None
        assert calls == [1]
        taken = take_all(m, 0, GFP_KERNEL | NOWARN)
        assert len(calls) == 2  # in vain, so the last one of these failed
        assert len(taken) == 99
        m.verify()


@pytest.mark.parametrize("gfp", [NORETRY, 0x4000, 0x200000])
def test_oom_notifiers_are_not_for_everybody(gfp: int) -> None:
    """NORETRY, RETRY_MAYFAIL and THISNODE fail without killing anything, and so do large orders."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_KERNEL | NOWARN)
        calls: list[int] = []
        m.register_oom_notifier(lambda: calls.append(1) or 0)  # type: ignore[func-returns-value]
        assert alloc(m, 0, GFP_KERNEL | NOWARN | gfp) is None
        assert alloc(m, 4, GFP_KERNEL | NOWARN) is None
        assert alloc(m, 0, GFP_NOWAIT) is None
        assert calls == []


def test_a_notifier_that_allocates_does_not_wait_for_itself() -> None:
    """What a notifier allocates must not end in the notifiers again."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_ATOMIC | NOWARN)
        got: list[Page | None] = []

        def notify() -> int:
            got.append(m.alloc_pages(10, GFP_KERNEL | NOWARN))
            got.append(m.alloc_pages(0, GFP_KERNEL | NOWARN))
            return 0

        m.register_oom_notifier(notify)
        assert alloc(m, 0, GFP_KERNEL | NOWARN) is None
        assert len(got) == 2


def test_many_cpus_run_out_together() -> None:
    """When all CPUs are out of memory at once, each gets an answer."""
    with Machine(cpus=4, memory="16M", runtime="jitter", seed=1) as m:

        def body() -> list[Page]:
            pages = []
            while (page := m.alloc_pages(2, GFP_KERNEL | NOWARN)) is not None:
                pages.append(page)
            return pages

        results = m.run([body] * 4)
        taken = [page for pages in results if pages for page in pages]
        assert len({page.pfn for page in taken}) == len(taken)
        free_all(m, taken, 2)
        m.drain_all_pages()
        m.verify()
        assert nr_buddy_pages(m) == 4095


def test_shutdown_in_the_middle_of_nofail() -> None:
    """A CPU that waits for memory for ever can still be shut down."""
    with one_zone() as m:
        park_kswapd(m)
        take_all(m, 0, GFP_ATOMIC | NOWARN)
        waiter = m.submit(0, m.alloc_pages, 10, GFP_KERNEL | NOFAIL)
        wait_for(m, lambda: m.events.sum()["allocstall_dma"] > 1)
    assert waiter.exception() is not None
    assert all(isinstance(cpu, Cpu) and not cpu.thread.is_alive() for cpu in m.runtime.cpus)
