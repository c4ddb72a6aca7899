"""
The slow path of the page allocator: when no zone is above its low watermark.

No lock is held here. Follows ``__alloc_pages_slowpath`` of Linux 6.12, without compaction; "kill
something" is left to registered notifiers, since the model has no processes to kill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from concmem.mm import gfp as gfp_flags
from concmem.mm.alloc_flags import (
    ALLOC_CPUSET,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    WMARK_HIGH,
    WMARK_MIN,
    gfp_to_alloc_flags,
)
from concmem.mm.gfp import show_gfp_flags
from concmem.mm.node import MAX_RECLAIM_RETRIES
from concmem.mm.per_cpu_pageset import PAGE_ALLOC_COSTLY_ORDER
from concmem.mm.reclaim import SWAP_CLUSTER_MAX, Reclaim
from concmem.mm.zone import ZONE_NAMES
from concmem.units import HZ

if TYPE_CHECKING:
    from concmem.mm.cpuset import Cpusets
    from concmem.mm.log import KernelLog
    from concmem.mm.page import Page
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.zonelist import AllocContext
    from concmem.runtime.api import Runtime


class SlowPath:
    """Reclaim, drain, retry, and in the end fail with a report."""

    def __init__(
        self,
        rt: Runtime,
        allocator: PageAllocator,
        reclaim: Reclaim,
        log: KernelLog,
        drain_all_pages: Callable[[], None],
    ) -> None:
        self._rt = rt
        self._allocator = allocator
        self._reclaim = reclaim
        self._log = log
        self._drain_all_pages = drain_all_pages
        self._events = allocator.events
        self._current = reclaim.current
        self._oom_lock = rt.mutex("oom_lock")
        self._oom_notifiers: list[Callable[[], int]] = []
        self._nofail_lock = rt.spinlock("nofail_lock")
        self._nofail_wait = rt.waitqueue(self._nofail_lock, "nofail_wait")

    def register_oom_notifier(self, notify: Callable[[], int]) -> None:
        """Have *notify* called before an allocation fails for good; it returns pages it freed."""
        self._oom_notifiers.append(notify)

    def alloc_pages(self, context: AllocContext, order: int, gfp: int) -> Page | None:
        """
        Allocate *order*, or say why not. May sleep when *gfp* has ``DIRECT_RECLAIM``.

        Returns:
            The pages, or ``None`` after a ``page allocation failure`` report (unless ``NOWARN``).
        """
        page = self._try_alloc(context, order, gfp)
        if page is None:
            self._fail(context, order, gfp)
        return page

    def _try_alloc(self, context: AllocContext, order: int, gfp: int) -> Page | None:
        """Everything, and again if the nodes that it may allocate from were others meanwhile."""
        cpusets = self._allocator.cpusets
        if cpusets is None:
            return self._try_once(context, order, gfp)
        while True:
            cookie = cpusets.read_begin()
            page = self._try_once(context, order, gfp)
            if page is not None or not self._check_retry_cpuset(cpusets, cookie):
                return page

    def _check_retry_cpuset(self, cpusets: Cpusets, cookie: int) -> bool:
        """
        Whether to start over.

        Since Linux kernel commit e47483bca2cc ("mm, page_alloc: fix premature OOM when racing with cpuset mems
        update") (in v4.10): each zone may have been looked at when it was not allowed just then.
        """
        return cpusets.read_retry(cookie)

    def _try_once(self, context: AllocContext, order: int, gfp: int) -> Page | None:
        page = None
        if context.zones:
            alloc_flags = gfp_to_alloc_flags(gfp, order)
            if alloc_flags & ALLOC_KSWAPD:
                self._wake_all_kswapds(context, order)
            page = self._allocator.get_page_from_freelist(context, order, alloc_flags)
            if page is None:
                page = self._retry(context, order, gfp, alloc_flags)
            if page is None and gfp & gfp_flags.NOFAIL and gfp & gfp_flags.DIRECT_RECLAIM:
                page = self._retry_forever(context, order, gfp, alloc_flags)
        return page

    def _retry(self, context: AllocContext, order: int, gfp: int, alloc_flags: int) -> Page | None:
        """Reclaim and try again, until there is a page or no point in going on."""
        drained = False
        no_progress_loops = 0
        # An interrupt handler is not the reclaimer that it interrupts.
        memalloc = self._current().memalloc and not self._rt.in_interrupt()
        while True:
            if (gfp & gfp_flags.MEMALLOC or memalloc) and not gfp & gfp_flags.NOMEMALLOC:
                # Who frees memory for everybody is not kept to some nodes.
                alloc_flags = (alloc_flags | ALLOC_NO_WATERMARKS) & ~ALLOC_CPUSET
            page = self._allocator.get_page_from_freelist(context, order, alloc_flags)
            if page is not None:
                return page
            if not gfp & gfp_flags.DIRECT_RECLAIM or memalloc:
                return None
            self._rt.cond_resched()
            progress = self._direct_reclaim(context)
            page = self._allocator.get_page_from_freelist(context, order, alloc_flags)
            # After every round that freed something: it may all lie in page sets.
            if page is None and (progress or not drained):
                drained = True
                self._unreserve_highatomic(context, force=False)
                self._drain_all_pages()
                page = self._allocator.get_page_from_freelist(context, order, alloc_flags)
            if page is not None:
                return page
            if gfp & gfp_flags.NORETRY:
                return None
            costly = order > PAGE_ALLOC_COSTLY_ORDER
            if costly and not gfp & gfp_flags.RETRY_MAYFAIL:
                return None
            no_progress_loops = 0 if progress and not costly else no_progress_loops + 1
            if self._should_reclaim_retry(context, order, no_progress_loops):
                continue
            page, progress = self._out_of_memory(context, order, gfp, alloc_flags)
            if page is not None:
                return page
            if progress:
                no_progress_loops = 0
                continue
            return None

    def _retry_forever(self, context: AllocContext, order: int, gfp: int, alloc_flags: int) -> Page:
        """NOFAIL, and nothing helped: use the reserve, or wait until somebody frees."""
        while True:
            page = self._allocator.get_page_from_freelist(
                context, order, alloc_flags | ALLOC_MIN_RESERVE
            )
            if page is None:
                self._wait_a_tick()
                page = self._retry(context, order, gfp, alloc_flags)
            if page is not None:
                return page

    def _direct_reclaim(self, context: AllocContext) -> int:
        """Reclaim on this CPU (``__perform_reclaim``); pages that came back."""
        preferred = context.zones[0][0]
        self._events.count(f"allocstall_{ZONE_NAMES[preferred.index].lower()}")
        current = self._current()
        before, current.memalloc = current.memalloc, True
        try:
            return self._reclaim.shrink(preferred.zone_pgdat, SWAP_CLUSTER_MAX, "direct")
        finally:
            current.memalloc = before

    def _should_reclaim_retry(self, context: AllocContext, order: int, loops: int) -> bool:
        """Whether more reclaim could help: at most 16 rounds without progress, and enough to win."""
        if loops > MAX_RECLAIM_RETRIES:
            return self._unreserve_highatomic(context, force=True)
        reclaimable = self._reclaim.reclaimable()
        for zone, *_ in context.zones:
            available = reclaimable + zone.nr_free_pages_snapshot()
            if reclaimable and available > zone.wmark_pages(WMARK_MIN) + (1 << order):
                return True
        return False

    def _out_of_memory(
        self, context: AllocContext, order: int, gfp: int, alloc_flags: int
    ) -> tuple[Page | None, bool]:
        """A last try at the high mark, then the notifiers: a page, and whether to go on."""
        if not self._oom_lock.trylock():
            # Somebody else is at it: that counts as progress.
            self._wait_a_tick()
            return None, True
        try:
            page = self._allocator.get_page_from_freelist(
                context, order, WMARK_HIGH | ALLOC_CPUSET | (alloc_flags & ~0x7)
            )
            if page is not None or gfp & (gfp_flags.RETRY_MAYFAIL | gfp_flags.THISNODE):
                return page, False
            if order > PAGE_ALLOC_COSTLY_ORDER or self._unreserve_highatomic(context, force=True):
                return None, order <= PAGE_ALLOC_COSTLY_ORDER
            return None, self._notify() > 0
        finally:
            self._oom_lock.release()

    def _notify(self) -> int:
        """Pages that OOM notifiers freed. What they allocate must not end up here again."""
        current = self._current()
        before, current.memalloc = current.memalloc, True
        try:
            return sum(notify() for notify in list(self._oom_notifiers))
        finally:
            current.memalloc = before

    def _wait_a_tick(self) -> None:
        """``schedule_timeout_uninterruptible(1)``."""
        with self._nofail_lock:
            self._nofail_wait.wait(1 / HZ)

    def _unreserve_highatomic(self, context: AllocContext, force: bool) -> bool:
        """Give one high-atomic page block back to everybody; whether there was one."""
        for zone, *_ in context.zones:
            if zone.unreserve_highatomic_pageblock(context.migratetype, force):
                self._events.count("highatomic_unreserved")
                return True
        return False

    def _wake_all_kswapds(self, context: AllocContext, order: int) -> None:
        nodes = {zone.zone_pgdat.node_id: zone.zone_pgdat for zone, *_ in context.zones}
        for pgdat in nodes.values():
            pgdat.wakeup_kswapd(order, context.highest_zoneidx)

    def _fail(self, context: AllocContext, order: int, gfp: int) -> None:
        """Report the failure (``warn_alloc``)."""
        self._events.count("page_alloc_failed")
        if gfp & gfp_flags.NOWARN:
            return
        lines = [
            f"cpu{self._rt.smp_processor_id()}: page allocation failure: order:{order}, "
            f"mode:{gfp:#x}({show_gfp_flags(gfp)})"
        ]
        for zone, *_ in context.zones:
            marks = zone.watermark
            lines.append(
                f"Node {zone.zone_pgdat.node_id} {zone.name} free:{zone.nr_free_pages_snapshot() * 4}kB "
                f"boost:{zone.watermark_boost * 4}kB min:{marks.min * 4}kB low:{marks.low * 4}kB "
                f"high:{marks.high * 4}kB managed:{zone.managed_pages * 4}kB"
            )
        self._log.printk("\n".join(lines))
