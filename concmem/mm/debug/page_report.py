"""
Reports about pages, in the kernel's words (``dump_page`` of ``mm/debug.c``, Linux 6.12).

No lock: the caller has the page, or has parked all CPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.mm.page import show_page_flags

if TYPE_CHECKING:
    from concmem.mm.debug.page_owner import PageOwner
    from concmem.mm.debug.report import DebugReports
    from concmem.mm.page import Page


def dump_page(page: Page, reason: str) -> list[str]:
    """What a page says of itself, and why that is asked."""
    mapping = "0" * 16 if page.mapping is None else repr(page.mapping)
    return [
        f"page: refcount:{page.ref_count()} mapcount:{max(0, page._mapcount + 1)} mapping:{mapping} "
        f"index:0x0 pfn:{page.pfn:#x}",
        f"flags: {page.flags:#x}({show_page_flags(page.flags)})",
        f"page dumped because: {reason}",
    ]


class PageReporter:
    """Makes reports about the pages of a machine."""

    def __init__(self, reports: DebugReports, owner: PageOwner | None) -> None:
        self._reports = reports
        self._owner = owner

    def dump_page(self, page: Page, reason: str) -> list[str]:
        """The same, and who had the page, if that is known."""
        lines = dump_page(page, reason)
        return lines if self._owner is None else lines + self._owner.dump_page_owner(page.pfn)

    def report(
        self,
        page: Page,
        reason: str,
        address: int,
        lines: list[str],
        dumped_because: str,
        *,
        logged: bool = True,
        raised: bool = False,
    ) -> str:
        """
        Something is wrong with a page; the text.

        Args:
            lines: what is wrong, after the *reason*.
            logged: False: keep the report, and do not log it.
            raised: whether the caller gets an exception as well.
        """
        allocated, freed = self._owner.tracks(page.pfn) if self._owner is not None else (None, None)
        report = self._reports.add(
            "page",
            page.zone.name,
            reason,
            address,
            [
                reason,
                *lines,
                *self._reports.dump_stack(),
                *self.dump_page(page, dumped_because),
            ],
            allocated=allocated,
            freed=freed,
            logged=logged,
            raised=raised,
        )
        return report.text
