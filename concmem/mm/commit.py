"""
Commit accounting: how much memory has been promised (``vm_committed_as``), and how much may be.

A request is charged first and taken back when it was too much, so two at once can both fail although
one alone would have passed, as in the kernel.

Locks: none of its own; see :mod:`concmem.mm.percpu_counter`. The mode and ratio are read without a
lock: a change holds for requests that come later.

Follows ``__vm_enough_memory`` and ``vm_commit_limit`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.mman import OVERCOMMIT_ALWAYS, OVERCOMMIT_GUESS, OVERCOMMIT_NEVER
from concmem.mm.percpu_counter import PercpuCounter
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Callable

    from concmem.runtime.api import Runtime

USER_RESERVE: Final = 128 << 20
ADMIN_RESERVE: Final = 8 << 20
"""Bytes that mode 2 keeps at most, for the administrator and for others than the asking process."""


class CommitAccounting:
    """
    The promises of one machine, in pages.

    Args:
        totalram_pages: of the machine; there is no swap.
        free_pages: what was free at boot, which reserves are made from.
    """

    def __init__(
        self, rt: Runtime, totalram_pages: Callable[[], int], free_pages: Callable[[], int]
    ) -> None:
        self.totalram_pages = totalram_pages
        self._free_kbytes = free_pages() * 4
        # Small, as mm_compute_batch makes it for a strict limit; it could be larger otherwise.
        self.vm_committed_as = PercpuCounter(rt, "vm_committed_as", max(2 * rt.nr_cpus, 32))
        self._mode = rt.cell(OVERCOMMIT_GUESS, "sysctl_overcommit_memory")
        self._ratio = rt.cell(50, "sysctl_overcommit_ratio")

    @property
    def overcommit_memory(self) -> int:
        """``OVERCOMMIT_GUESS``, ``OVERCOMMIT_ALWAYS`` or ``OVERCOMMIT_NEVER``."""
        return self._mode.value

    @property
    def overcommit_ratio(self) -> int:
        """Percent of memory that mode 2 gives out."""
        return self._ratio.value

    def set_overcommit(self, mode: int, ratio: int = 50) -> None:
        """Set ``vm.overcommit_memory`` and ``vm.overcommit_ratio``; what is promised stays."""
        for name, value, high in (("mode", mode, OVERCOMMIT_NEVER), ("ratio", ratio, 100_000)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
            if not 0 <= value <= high:
                raise BadArgument(f"{name}: must be 0 to {high}, got {value}")
        self._mode.value, self._ratio.value = mode, ratio

    def commit_limit(self) -> int:
        """``vm_commit_limit``: pages, whether the mode heeds it or not."""
        return self.totalram_pages() * self.overcommit_ratio // 100

    def enough_memory(self, pages: int, total_vm: int) -> bool:
        """
        Charge *pages* if they can be promised to an address space that has *total_vm* pages.

        Pages that were charged must be given back with `unacct_memory`.
        """
        self.vm_committed_as.add(pages)
        if self._allowed(pages, total_vm):
            return True
        self.unacct_memory(pages)
        return False

    def _allowed(self, pages: int, total_vm: int) -> bool:
        mode = self.overcommit_memory
        if mode == OVERCOMMIT_ALWAYS:
            return True
        if mode == OVERCOMMIT_GUESS:
            return pages <= self.totalram_pages()
        allowed = self.commit_limit()
        allowed -= min(self._free_kbytes // 32, ADMIN_RESERVE >> 10) >> PAGE_SHIFT - 10
        reserve = min(self._free_kbytes // 32, USER_RESERVE >> 10) >> PAGE_SHIFT - 10
        allowed -= min(total_vm // 32, reserve)
        return self.vm_committed_as.read_positive() < allowed

    def unacct_memory(self, pages: int) -> None:
        """Take a promise back (``vm_unacct_memory``)."""
        if pages:
            self.vm_committed_as.add(-pages)
