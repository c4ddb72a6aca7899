"""
Page poisoning: a page is filled when it becomes free, and looked at when it is handed out.

It is filled after the last reference is gone and before it is on any list, and looked at when it is on none any
more: in between whoever writes to it does wrong. A page that was never used is still as the host gave it,
all 0, so that a machine with much memory need not touch it; that is looked for instead.

No lock: `_poisoned` has a byte for each page, and only whoever has taken the page changes it.

Follows ``mm/page_poison.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.debug.hex_dump import first_other, hex_dump, last_other
from concmem.mm.memory import pfn_to_virt
from concmem.units import HZ, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.page_report import PageReporter
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

PAGE_POISON: Final = 0xAA

_POISONED_PAGE: Final = bytes([PAGE_POISON]) * PAGE_SIZE
_UNUSED_PAGE: Final = bytes(PAGE_SIZE)

RATELIMIT_BURST: Final = 10
RATELIMIT_INTERVAL: Final = 5 * HZ
"""Reports that are logged in so many jiffies, at most; all are kept as objects."""


class PagePoison:
    """Of one machine."""

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        mem_map: MemMap,
        events: VmEvents,
        reporter: PageReporter,
    ) -> None:
        self._rt = rt
        self._memory = memory
        self._mem_map = mem_map
        self._events = events
        self._reporter = reporter
        self._poisoned = bytearray(mem_map.nr_pages)
        """1: the page is free and was filled."""
        self._interval_began = self._nr_logged = 0
        events.switch_on("page_poisoning_on")

    def poison_pages(self, page: Page, order: int) -> None:
        """Fill pages that are about to be free (``kernel_poison_pages``)."""
        nr_pages = 1 << order
        self._memory.fill(pfn_to_virt(page.pfn), nr_pages * PAGE_SIZE, PAGE_POISON)
        self._poisoned[page.pfn : page.pfn + nr_pages] = b"\x01" * nr_pages
        self._events.count("page_poisoned", nr_pages)

    def unpoison_pages(self, page: Page, order: int) -> None:
        """Look at pages that are about to be handed out (``kernel_unpoison_pages``)."""
        nr_pages = 1 << order
        for pfn in range(page.pfn, page.pfn + nr_pages):
            self._check_poison(pfn)
        self._poisoned[page.pfn : page.pfn + nr_pages] = bytes(nr_pages)
        self._events.count("page_poison_checked", nr_pages)

    def verify(self) -> None:
        """Look at every page that is free; what is found is filled again. All CPUs are parked."""
        pfn = self._poisoned.find(1)
        while pfn >= 0:
            if self._check_poison(pfn):
                self._memory.fill(pfn_to_virt(pfn), PAGE_SIZE, PAGE_POISON)
            pfn = self._poisoned.find(1, pfn + 1)

    def _check_poison(self, pfn: int) -> bool:
        """Report it if a free page was written to; whether it was (``check_poison_mem``)."""
        address = pfn_to_virt(pfn)
        data = self._memory.read(address, PAGE_SIZE)
        if data == (_POISONED_PAGE if self._poisoned[pfn] else _UNUSED_PAGE):
            return False
        byte = PAGE_POISON if self._poisoned[pfn] else 0
        first, last = first_other(data, byte), last_other(data, byte)
        flipped = data[first] ^ byte
        single_bit = first == last and not flipped & (flipped - 1)
        self._reporter.report(
            self._mem_map.page(pfn),
            f"pagealloc: {'single bit error' if single_bit else 'memory corruption'}",
            address + first,
            hex_dump("", address + first, data[first : last + 1]),
            "pagealloc: corrupted page details",
            logged=self._ratelimit(),
        )
        return True

    def _ratelimit(self) -> bool:
        """Whether to log one more report (``__ratelimit``). No lock: about so many."""
        now = self._rt.jiffies
        if now - self._interval_began > RATELIMIT_INTERVAL:
            self._interval_began, self._nr_logged = now, 0
        self._nr_logged += 1
        return self._nr_logged <= RATELIMIT_BURST
