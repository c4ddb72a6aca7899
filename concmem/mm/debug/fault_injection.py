"""
What can be made to fail: objects of caches (``failslab``) and pages (``fail_page_alloc``).

A machine that is booted without has neither, and does not pay for it.

Follows ``mm/failslab.c`` and ``mm/fail_page_alloc.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from concmem.errors import BadArgument
from concmem.mm import gfp as gfp_flags
from concmem.mm.debug.fault_attr import FaultAttr, Flag, Whole
from concmem.mm.gfp import GFP_KERNEL, check_gfp
from concmem.mm.kmem_cache import Functions
from concmem.mm.slab_flags import SLAB_FAILSLAB
from concmem.units import MAX_PAGE_ORDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.mm.debug.report import DebugReports
    from concmem.mm.kmem_cache import Bulk, KmemCache
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime


class FailSlab(FaultAttr):
    """
    ``failslab``; `space` in bytes.

    Attributes, besides those of `FaultAttr`:
        ignore_gfp_wait: do not fail what may sleep (``DIRECT_RECLAIM``); True as in Linux.
        cache_filter: fail allocations from caches with SLAB_FAILSLAB only.
    """

    __slots__ = ()

    ignore_gfp_wait = Flag()
    cache_filter = Flag()

    def __init__(self, rt: Runtime, events: VmEvents, reports: DebugReports) -> None:
        super().__init__(rt, events, reports, "failslab")
        self.ignore_gfp_wait = True
        self.cache_filter = False

    def should_failslab(self, s: KmemCache, gfp: int) -> bool:
        """Whether this allocation from *s* is to fail."""
        if gfp & gfp_flags.NOFAIL or (self.ignore_gfp_wait and gfp & gfp_flags.DIRECT_RECLAIM):
            return False
        if self.cache_filter and not s.flags & SLAB_FAILSLAB:
            return False
        return self.should_fail(s.object_size, bool(gfp & gfp_flags.NOWARN))

    def watch(self, s: KmemCache, functions: Functions) -> Functions:
        """*functions* of *s*, which ask before each allocation."""
        alloc: Any = functions.alloc
        should_failslab = self.should_failslab

        def alloc_or_fail(
            gfp: int = GFP_KERNEL, node: int | None = None, *orig_size: int
        ) -> int | None:
            """As ``cache.alloc`` of any cache, or ``None`` although there is memory."""
            check_gfp(gfp)
            if should_failslab(s, gfp):
                return None
            address: int | None = alloc(gfp, node, *orig_size)
            return address

        return functions._replace(alloc=alloc_or_fail, bulk=_FailBulk(functions.bulk, self))


class _FailBulk:
    """Many objects at once: all or nothing fails, by one decision."""

    def __init__(self, bulk: Bulk, failslab: FailSlab) -> None:
        self._failslab = failslab
        self._bulk = bulk

    def alloc_bulk(self, s: KmemCache, nr: int, gfp: int) -> list[int]:
        check_gfp(gfp)
        return [] if self._failslab.should_failslab(s, gfp) else self._bulk.alloc_bulk(s, nr, gfp)

    def free_bulk(self, s: KmemCache, addresses: Sequence[int]) -> None:
        self._bulk.free_bulk(s, addresses)


class FailPageAlloc(FaultAttr):
    """
    ``fail_page_alloc``; `space` in pages.

    Attributes, besides those of `FaultAttr`:
        ignore_gfp_wait, ignore_gfp_highmem: do not fail what may sleep, what may be high memory.
        min_order: smaller allocations do not fail; 1 as in Linux.
    """

    __slots__ = ()

    ignore_gfp_wait = Flag()
    ignore_gfp_highmem = Flag()
    min_order = Whole(0, MAX_PAGE_ORDER)

    def __init__(self, rt: Runtime, events: VmEvents, reports: DebugReports) -> None:
        super().__init__(rt, events, reports, "fail_page_alloc")
        self.ignore_gfp_wait = True
        self.ignore_gfp_highmem = True
        self.min_order = 1

    def should_fail_alloc_page(self, order: int, gfp: int) -> bool:
        """Whether this allocation of pages is to fail."""
        if order < self.min_order or gfp & gfp_flags.NOFAIL:
            return False
        if self.ignore_gfp_highmem and gfp & gfp_flags.GFP_HIGHMEM_BIT:
            return False
        if self.ignore_gfp_wait and gfp & gfp_flags.DIRECT_RECLAIM:
            return False
        return self.should_fail(1 << order, bool(gfp & gfp_flags.NOWARN))


class FaultInjection:
    """``machine.fail``: what was booted with it, and for the rest an error that says how to."""

    def __init__(self, failslab: FailSlab | None, fail_page_alloc: FailPageAlloc | None) -> None:
        self._failslab = failslab
        self._fail_page_alloc = fail_page_alloc

    @property
    def failslab(self) -> FailSlab:
        """Allocations of objects."""
        if self._failslab is None:
            raise BadArgument("failslab: this machine was not booted with it: failslab=True")
        return self._failslab

    @property
    def fail_page_alloc(self) -> FailPageAlloc:
        """Allocations of pages."""
        if self._fail_page_alloc is None:
            raise BadArgument(
                "fail_page_alloc: this machine was not booted with it: fail_page_alloc=True"
            )
        return self._fail_page_alloc
