"""
Taking memory offline: page blocks whose pages are free are put aside, so that nobody can have them.

Locks:
    mem_hotplug_lock    one range at a time; may sleep
    zone->lock          inside it, for the page blocks

Follows ``offline_pages`` and ``online_pages`` of ``mm/memory_hotplug.c`` of Linux 6.12, without migration: what is
allocated in the range keeps it online. Pages that are offline stay managed, as those that a hypervisor has taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument
from concmem.mm.migratetype import ISOLATE
from concmem.mm.page import Page
from concmem.mm.zone import Zone
from concmem.units import PAGEBLOCK_NR_PAGES

if TYPE_CHECKING:
    from concmem.mm.mem_map import MemMap
    from concmem.runtime.api import Runtime


class MemoryHotplug:
    """What of a machine's memory is offline."""

    __guarded_by__: Final = {"_offline": "_lock"}

    def __init__(self, rt: Runtime, mem_map: MemMap, drain_all_pages: Callable[[], None]) -> None:
        self._rt = rt
        self._mem_map = mem_map
        self._drain_all_pages = drain_all_pages
        self._lock = rt.mutex("mem_hotplug_lock")
        self._offline: dict[range, list[Page]] = {}  # _lock
        rt.watch(self)

    def offline_pages(self, start_pfn: int, nr_pages: int) -> bool:
        """
        Put whole page blocks aside (``offline_pages``). On a CPU; may sleep.

        Returns:
            False if some page of the range is allocated; then nothing has changed.

        Raises:
            BadArgument: the range is no whole page blocks of one zone.
        """
        self._rt.smp_processor_id()
        pfns = range(start_pfn, start_pfn + nr_pages)
        zone = self._check_range(pfns)
        blocks = range(pfns.start, pfns.stop, PAGEBLOCK_NR_PAGES)
        with self._lock:
            if any(other.start < pfns.stop and pfns.start < other.stop for other in self._offline):
                return False
            for pfn in blocks:
                zone.link_deferred(pfn)
            with zone.lock:
                types = [self._mem_map.pageblock_type(pfn) for pfn in blocks]
                for pfn in blocks:
                    zone._isolate_block(pfn)
            taken: list[Page] | None = None
            try:
                taken = self._take_when_free(zone, pfns)
            finally:
                with zone.lock:
                    for pfn, migratetype in zip(blocks, types, strict=True):
                        zone._unisolate_block(pfn, migratetype)
            if taken is not None:
                self._offline[pfns] = taken
            return taken is not None

    def online_pages(self, start_pfn: int, nr_pages: int) -> None:
        """
        Let the pages be used again (``online_pages``). On a CPU; may sleep.

        Raises:
            BadArgument: they were not taken offline as one range.
        """
        self._rt.smp_processor_id()
        with self._lock:
            taken = self._offline.pop(range(start_pfn, start_pfn + nr_pages), None)
            if taken is None:
                raise BadArgument(f"start_pfn: {start_pfn:#x}+{nr_pages} is not offline")
            for page in taken:
                page._count.dec_and_test()
                page.zone.free_one_page(page, page.order, to_tail=True)

    def _check_range(self, pfns: range) -> Zone:
        self._mem_map.check_pfn(pfns.start)
        zone = self._mem_map.zone_of(pfns.start)
        whole = not (pfns.start % PAGEBLOCK_NR_PAGES or pfns.stop % PAGEBLOCK_NR_PAGES)
        if not whole or not pfns or pfns.start < 1 or pfns.stop > zone.zone_end_pfn():
            raise BadArgument(
                f"start_pfn: {pfns.start:#x}+{len(pfns)} is no whole page blocks of zone {zone.name}"
            )
        return zone

    def _take_when_free(self, zone: Zone, pfns: range) -> list[Page] | None:
        """All blocks of the isolated range, as soon as they are in the buddy system; else ``None``."""
        self._drain_all_pages()
        while True:
            with zone.lock:
                heads = [self._mem_map.head(pfn) for pfn in pfns]
                if any(head is not None and head.ref_count() for head in heads):
                    return None
                if all(head is not None and head.is_buddy() for head in heads):
                    return self._take(zone, {head.pfn: head for head in heads if head is not None})
            self._drain_again()

    def _drain_again(self) -> None:
        """
        Some page is on its way: freed, but not in the buddy system.

        Since Linux kernel commit 968318261221 ("mm/memory_hotplug: drain per-cpu pages again during memory
        offline") (in v5.9): who has looked up the type of its block before that was isolated may have put it into
        a page set after the drain.
        """
        self._rt.cpu_relax()
        self._drain_all_pages()

    @staticmethod
    def _take(zone: Zone, heads: dict[int, Page]) -> list[Page]:
        """Caller holds zone->lock."""
        for page in heads.values():
            order = page.private
            zone._del_page_from_free_list(page, order, ISOLATE)
            page.order = order
            page._count.add(True)
        return list(heads.values())
