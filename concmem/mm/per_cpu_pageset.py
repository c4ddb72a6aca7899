"""
Per-CPU page sets: a cache of free pages for each zone and CPU, in front of zone->lock.

Lock order:
    pcp->lock       lists, count and the tuning fields; taken with trylock only on the hot paths
    zone->lock      inside it, for refill and flush

The owner takes pcp->lock with trylock: when a remote drain, or this CPU's own interrupted
operation, holds it, the allocation goes straight to the buddy system.

Follows ``mm/page_alloc.c`` of Linux 6.12: ``rmqueue_pcplist``, ``nr_pcp_alloc``,
``free_unref_page_commit``, ``nr_pcp_free``, ``free_pcppages_bulk``, ``drain_pages_zone``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from concmem.mm.migratetype import MOVABLE, PCPTYPES
from concmem.mm.page import Page
from concmem.mm.statistics import PagesetStatistics
from concmem.runtime.api import THIS_CPU, lockless_reads
from concmem.units import PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Runtime

PAGE_ALLOC_COSTLY_ORDER: Final = 3
NR_LOWORDER_PCP_LISTS: Final = PCPTYPES * (PAGE_ALLOC_COSTLY_ORDER + 1)
NR_PCP_LISTS: Final = NR_LOWORDER_PCP_LISTS + 2
"""Orders 0 to 3 of three types, and two lists for huge pages (order 9): movable or not."""
PCP_BATCH_SCALE_MAX: Final = 5


def pcp_allowed_order(order: int) -> bool:
    """Whether blocks of *order* are cached at all."""
    return order <= PAGE_ALLOC_COSTLY_ORDER or order == PAGEBLOCK_ORDER


def order_to_pindex(order: int, migratetype: int) -> int:
    """The list of a page set for an order and type."""
    if order > PAGE_ALLOC_COSTLY_ORDER:
        return NR_LOWORDER_PCP_LISTS + (migratetype == MOVABLE)
    return PCPTYPES * order + migratetype


def pindex_to_order(pindex: int) -> int:
    """The order of the pages on a list."""
    return PAGEBLOCK_ORDER if pindex >= NR_LOWORDER_PCP_LISTS else pindex // PCPTYPES


class PerCpuPageset:
    """
    ``struct per_cpu_pages`` and ``struct per_cpu_zonestat`` of one zone and CPU.

    The left end of a list is its head: pages are taken there and put there (hot), and flushed from
    the right (cold).
    """

    __slots__ = (
        "above_mark",
        "alloc_factor",
        "batch",
        "count",
        "free_count",
        "high",
        "high_max",
        "high_min",
        "last_high_order_free",
        "lists",
        "lock",
        "max_free_count",
        "nr_drain",
        "nr_flush",
        "nr_flushed",
        "nr_free",
        "nr_refill",
        "nr_refilled",
        "stat_threshold",
        "trylock",
        "unlock",
        "vm_stat_diff",
        "zone",
    )

    __guarded_by__: Final = {
        # A drain looks which sets have pages; one that fills just then is as if filled right after.
        "count": lockless_reads("lock"),
        # Statistics look at these without it.
        "high": lockless_reads("lock"),
        "nr_free": lockless_reads("lock"),
        "free_count": "lock",
        "alloc_factor": "lock",
        # Who needs a precise sum adds up what CPUs have not told yet, and knows that it may be off.
        "vm_stat_diff": lockless_reads(THIS_CPU),
    }

    def __init__(self, rt: Runtime, zone: Zone) -> None:
        self.zone = zone
        self.lock = rt.spinlock("&pcp->lock")
        self.trylock = self.lock.trylock
        self.unlock = self.lock.release
        # lock
        self.lists: tuple[deque[Page], ...] = tuple(deque() for _ in range(NR_PCP_LISTS))
        self.count = 0
        """Pages on all lists."""
        self.free_count = 0
        """Pages freed lately, without an allocation that needed them."""
        self.alloc_factor = 0
        self.last_high_order_free = -1
        """`nr_free` after the last free of order 1 or more."""
        self.nr_free = 0
        """Pages ever freed into the set."""
        self.nr_refill = self.nr_refilled = 0
        """Refills, and pages they brought."""
        self.nr_flush = self.nr_flushed = 0
        """Flushes and drains, and pages they took."""
        self.nr_drain = 0
        """Of `nr_flush`, those that a drain asked for."""
        self.above_mark = False
        """Whether the zone is above its `fast_mark`; written under zone->lock, read without."""
        # Written by set_sizes, read without lock: free_pcppages_bulk survives any mixture.
        self.batch = 1
        self.max_free_count = 1 << PCP_BATCH_SCALE_MAX
        self.high = self.high_min = self.high_max = 0
        # THIS_CPU, with interrupts disabled; others only look
        self.vm_stat_diff = 0
        self.stat_threshold = 0

    def set_sizes(self, batch: int, high_min: int, high_max: int) -> None:
        """
        Set the limits (``__zone_set_pageset_high_and_batch``), in pages.

        A set with *high_max* 0 and *batch* 1, as it is at boot and for kernel threads, keeps
        nothing.
        """
        # Since Linux kernel commit 8d7a8fa97abe ("mm/page_alloc: insert memory barriers to allow
        # async update of pcp batch and high") (in v3.11), batch is written before high: a reader
        # must not see a batch above high. This model follows that.
        self.batch = batch
        self.max_free_count = batch << PCP_BATCH_SCALE_MAX
        self.high_min = high_min
        self.high_max = high_max
        with self.lock:
            self.high = min(max(self.high, high_min), high_max)

    # -- allocate: caller holds the lock

    def rmqueue(self, order: int, migratetype: int, alloc_flags: int) -> Page | None:
        """A page from the lists, refilled if necessary (``__rmqueue_pcplist``)."""
        pages = self.lists[order_to_pindex(order, migratetype)]
        self.free_count >>= 1
        if not pages and not self._refill(pages, order, migratetype, alloc_flags):
            return None
        self.count -= 1 << order
        return pages.popleft()

    def _refill(self, pages: deque[Page], order: int, migratetype: int, alloc_flags: int) -> bool:
        """Fetch a batch from the buddy system; whether that gave any page."""
        wanted = self._nr_pcp_alloc(order)
        before = len(pages)
        try:
            self.zone.rmqueue_bulk(order, wanted, pages, migratetype, alloc_flags)
        finally:  # also when a list turned out to be corrupted: what came has come
            got = len(pages) - before
            self.count += got << order
            self.nr_refill += got > 0
            self.nr_refilled += got << order
        return bool(pages)

    def _nr_pcp_alloc(self, order: int) -> int:
        """
        How many blocks to fetch (``nr_pcp_alloc``).

        Doubles from refill to refill without a free, up to the room there is; and while the zone
        is above its high watermark, the room grows with it.
        """
        batch = self.batch
        high = self.high = min(max(self.high, self.high_min), self.high_max)
        if high < batch:
            return 1  # no caching
        nr = batch if order else batch << self.alloc_factor
        if self.high_min != self.high_max and not self.zone.below_high():
            high = self.high = min(high + nr, self.high_max)
        if not order:
            room = max(high - self.count - batch, batch)
            if nr <= room and self.alloc_factor < PCP_BATCH_SCALE_MAX:
                self.alloc_factor += 1
            nr = min(nr, room)
        return max(nr >> order, 2) if nr > 1 else nr

    # -- free: caller holds the lock

    def commit(self, page: Page, order: int, migratetype: int) -> None:
        """Cache a freed page; flush what is too much (``free_unref_page_commit``)."""
        self.alloc_factor >>= 1
        pindex = order_to_pindex(order, migratetype)
        page.migratetype = migratetype
        self.lists[pindex].appendleft(page)
        self.count += 1 << order
        # Several high-order frees in a row, with nothing allocated: the CPU only frees.
        in_a_row = self.last_high_order_free == self.nr_free
        self.nr_free += 1 << order
        if order:
            self.last_high_order_free = self.nr_free
        # Of huge pages two make a "row" at once, so they do not count.
        costly = order > PAGE_ALLOC_COSTLY_ORDER
        free_high = order > 0 and not costly and in_a_row and self.free_count >= self.batch
        if self.free_count < self.max_free_count:
            self.free_count += 1 << order
        self.flush(pindex, free_high)

    def flush(self, pindex: int, free_high: bool) -> None:
        """Give some pages back if there are too many, beginning with list *pindex*."""
        batch = self.batch
        high = self._nr_pcp_high(batch, free_high)
        if self.count >= high:
            self._free_pcppages_bulk(self._nr_pcp_free(batch, high, free_high), pindex)

    def _nr_pcp_high(self, batch: int, free_high: bool) -> int:
        """The limit that counts now: lower while memory is short (``nr_pcp_high``)."""
        high_min, high_max = self.high_min, self.high_max
        high = self.high = min(max(self.high, high_min), high_max)
        if not high:
            return 0
        if free_high:
            self.high = max(high - (batch << PCP_BATCH_SCALE_MAX), high_min)
            return 0
        decay = max(self.free_count, batch)
        if self.zone.reclaim_active():
            self.high = max(high - decay, high_min)
            return min(batch << 2, self.high)
        if high_min == high_max:
            return high
        if self.zone.below_high():
            self.high = max(high - decay, high_min)
            return max(self.count, high_min)
        if self.count >= high:
            # Room for what is freed in one go now, so that it can be allocated again from here.
            self.high = min(max(high, self.free_count + self.count), high_max)
        return high

    def _nr_pcp_free(self, batch: int, high: int, free_high: bool) -> int:
        """How many pages to flush (``nr_pcp_free``)."""
        if free_high:
            return min(self.count, batch << PCP_BATCH_SCALE_MAX)
        if high < batch:
            return 1  # no caching: the page just freed
        return min(max(self.free_count, batch), high - batch)

    def _free_pcppages_bulk(self, count: int, pindex: int) -> None:
        """
        Give *count* pages back, list after list from *pindex* on, coldest first.

        *count* may be stale, so it is limited to what is there.
        """
        count = min(self.count, count)
        before = self.count
        batch: list[tuple[Page, int]] = []
        pindex -= 1
        while count > 0:
            pindex = (pindex + 1) % NR_PCP_LISTS
            if not self.lists[pindex]:
                continue
            order = pindex_to_order(pindex)
            while count > 0 and self.lists[pindex]:
                batch.append((self.lists[pindex].pop(), order))
                self.count -= 1 << order
                count -= 1 << order
        self.nr_flush += before > self.count
        self.nr_flushed += before - self.count
        self.zone.free_bulk(batch)

    def drain(self) -> bool:
        """
        On the owning CPU, as an interrupt: give everything back, unless the set is in use.

        False when this CPU's interrupted operation holds the lock; the caller then asks again.

        Since Linux kernel commit 66eca1021a42 ("mm/page_alloc: fix pcp->count race between
        drain_pages_zone() vs __rmqueue_pcplist()") (in v6.11), count is read under the lock.
        """
        while self.lock.trylock():
            try:
                nr = min(self.count, self.batch << PCP_BATCH_SCALE_MAX)
                if not nr:
                    return True
                self._free_pcppages_bulk(nr, 0)
                self.nr_drain += 1
            finally:
                self.lock.release()
        return False

    def statistics(self) -> PagesetStatistics:
        """A copy of the counters. No lock: for people, not for decisions."""
        return PagesetStatistics(
            count=self.count,
            high=self.high,
            batch=self.batch,
            high_min=self.high_min,
            high_max=self.high_max,
            # Not counted one by one: what came in and is not there any more was handed out.
            nr_alloc=self.nr_refilled + self.nr_free - self.nr_flushed - self.count,
            nr_free=self.nr_free,
            nr_refill=self.nr_refill,
            nr_flush=self.nr_flush,
            vm_stat_diff=self.vm_stat_diff,
            stat_threshold=self.stat_threshold,
            nr_drain=self.nr_drain,
        )
