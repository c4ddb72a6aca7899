"""
Page owner: for each page who allocated it, and how; and who freed it last.

One record for all pages of a block, replaced as a whole when something changes, so that a reader without a
lock finds a whole one. Only whoever has a page replaces its record.

Follows ``mm/page_owner.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.mm.debug.report import Track, comm
from concmem.mm.gfp import show_gfp_flags
from concmem.mm.migratetype import NAMES, gfp_migratetype
from concmem.mm.page import show_page_flags
from concmem.units import HZ, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.mm.debug.stack_depot import Stack, StackDepot
    from concmem.mm.mem_map import MemMap
    from concmem.mm.page import Page
    from concmem.runtime.api import Runtime

_SKIP = 3
"""Frames between whoever called `alloc_pages` or `free_pages` and the look at the stack."""


class PageOwnerRecord(NamedTuple):
    """``struct page_owner``. Times in nanoseconds."""

    allocated: bool
    """False: it tells who freed the page."""
    order: int
    gfp_mask: int
    pid: int
    """Of the CPU that allocated: its number."""
    comm: str
    ts_nsec: int
    handle: int
    """Of the stack of the allocation."""
    free_pid: int = -1
    free_ts_nsec: int = 0
    free_handle: int = 0


class PageOwner:
    """Of one machine."""

    def __init__(self, rt: Runtime, mem_map: MemMap, depot: StackDepot) -> None:
        self._rt = rt
        self._mem_map = mem_map
        self._depot = depot
        self._records: dict[int, PageOwnerRecord] = {}
        """By page frame number."""

    # -- on the way out and in

    def set_page_owner(self, page: Page, order: int, gfp: int) -> None:
        """This CPU has allocated the pages."""
        cpu = self._rt.smp_processor_id()
        before = self._records.get(page.pfn)
        record = PageOwnerRecord(
            True,
            order,
            gfp,
            cpu,
            comm(cpu, self._rt.nr_cpus),
            self._rt.clock_ns(),
            self._depot.save(_SKIP),
            *(before[7:] if before is not None else ()),
        )
        self._set(page.pfn, order, record)

    def reset_page_owner(self, page: Page, order: int) -> None:
        """This CPU is about to free them."""
        record = self._records.get(page.pfn)
        if record is not None:
            freed = record._replace(
                allocated=False,
                free_pid=self._rt.smp_processor_id(),
                free_ts_nsec=self._rt.clock_ns(),
                free_handle=self._depot.save(_SKIP),
            )
            self._set(page.pfn, order, freed)

    def split_page_owner(self, page: Page, order: int) -> None:
        """The block has become single pages."""
        record = self._records.get(page.pfn)
        if record is not None:
            self._set(page.pfn, order, record._replace(order=0))

    def _set(self, pfn: int, order: int, record: PageOwnerRecord) -> None:
        self._records.update(dict.fromkeys(range(pfn, pfn + (1 << order)), record))

    # -- looking

    def record(self, pfn: int) -> PageOwnerRecord | None:
        """What is known of one page; ``None``: it was never allocated."""
        return self._records.get(pfn)

    def tracks(self, pfn: int) -> tuple[Track | None, Track | None]:
        """Who allocated the page last, and who freed it last."""
        record = self._records.get(pfn)
        if record is None:
            return None, None
        allocated = self._track(record.handle, record.pid, record.ts_nsec)
        if not record.free_handle:
            return allocated, None
        return allocated, self._track(record.free_handle, record.free_pid, record.free_ts_nsec)

    def _track(self, handle: int, cpu: int, ts_nsec: int) -> Track:
        return Track(self._depot.fetch(handle), cpu, cpu, ts_nsec * HZ // 1_000_000_000)

    def dump_page_owner(self, pfn: int) -> list[str]:
        """Lines for a report about the page (``__dump_page_owner``)."""
        record = self._records.get(pfn)
        if record is None:
            return ["page_owner info is not present (never set?)"]
        state = "allocated" if record.allocated else "freed"
        lines = [
            f"page_owner tracks the page as {state}",
            f"page last allocated via order {record.order}, migratetype "
            f"{NAMES[gfp_migratetype(record.gfp_mask)]}, gfp_mask {record.gfp_mask:#x}"
            f"({show_gfp_flags(record.gfp_mask)}), pid {record.pid}, tgid {record.pid} "
            f"({record.comm}), ts {record.ts_nsec}, free_ts {record.free_ts_nsec}",
            *self._stack(self._depot.fetch(record.handle)),
        ]
        if not record.free_handle:
            return [*lines, "page_owner free stack trace missing"]
        return [
            *lines,
            f"page last free pid {record.free_pid} tgid {record.free_pid} stack trace:",
            *self._stack(self._depot.fetch(record.free_handle)),
        ]

    @staticmethod
    def _stack(stack: Stack | None) -> list[str]:
        return [f" {line}" for line in stack.lines] if stack is not None else []

    def render(self) -> str:
        """The text of ``/sys/kernel/debug/page_owner``: one paragraph for each allocation."""
        return "".join(
            self._paragraph(pfn, record)
            for pfn, record in sorted(self._records.copy().items())
            # Not those of the tail pages; as in Linux, single pages of a split block are there.
            if record.allocated and not pfn & ((1 << record.order) - 1)
        )

    def _paragraph(self, pfn: int, record: PageOwnerRecord) -> str:
        """``print_page_owner``."""
        page = self._mem_map.page(pfn)
        gfp = record.gfp_mask
        lines = [
            f"Page allocated via order {record.order}, mask {gfp:#x}({show_gfp_flags(gfp)}), "
            f"pid {record.pid}, tgid {record.pid} ({record.comm}), ts {record.ts_nsec} ns",
            f"PFN {pfn:#x} type {NAMES[gfp_migratetype(gfp)]} Block {pfn >> PAGEBLOCK_ORDER} "
            f"type {NAMES[self._mem_map.pageblock_type(pfn)]} Flags {page.flags:#x}"
            f"({show_page_flags(page.flags)})",
            *self._stack(self._depot.fetch(record.handle)),
        ]
        return "\n".join(lines) + "\n\n"
