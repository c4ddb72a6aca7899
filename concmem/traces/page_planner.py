"""The page events of a trace: which free belongs to which allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from concmem.mm.gfp import COMP, NOFAIL
from concmem.traces.events import PageAlloc, PageFree
from concmem.traces.steps import (
    BATCHED_TWICE,
    BEFORE_TRACE,
    FAILED,
    FREED_AGAIN,
    TOO_LARGE,
    PageAllocStep,
    PageFreeStep,
    Part,
    Step,
)
from concmem.units import MAX_PAGE_ORDER

_new: Final = tuple.__new__


class _Slot(NamedTuple):
    pfn: int
    order: int
    cpu: int
    compound: bool


class PagePlanner:
    """
    The traced kernel's pages as far as the events tell.

    Live pages are kept as disjoint pieces, each aligned to its size like a buddy block, so two
    blocks are either disjoint or one lies inside the other.
    """

    def __init__(self, steps: Mapping[int, list[Step]], skipped: Counter[str]) -> None:
        self.steps = steps
        self.skipped = skipped
        self.slots: list[_Slot] = []
        self.cross = bytearray()  # for every slot 1 if another CPU frees some of it
        self.live: dict[int, tuple[int, int]] = {}  # first pfn of a piece -> slot, order
        self.max_live_order = 0
        # Every pfn an event has named: the CPU that reported its free so far only by
        # mm_page_free_batched, otherwise -1. Says nothing while the page is live.
        self.freed: dict[int, int] = {}
        self.split: set[int] = set()
        self.allocs_by_order: Counter[int] = Counter()
        self.allocs_by_migratetype: Counter[int] = Counter()
        self.frees_by_order: Counter[int] = Counter()
        self.cross_cpu_frees = self.implied_frees = self.planned = 0
        self.live_pages = self.peak_live_pages = 0

    def alloc(self, event: PageAlloc) -> None:
        cpu, pfn, order, migratetype, gfp, line = event
        if pfn is None:
            self.skipped[FAILED] += 1
            return
        if order > MAX_PAGE_ORDER:
            self.skipped[TOO_LARGE] += 1
            return
        for head in self._pieces(pfn, order):
            self._free(head, *self._unseen(head, pfn, order), cpu, line, implied=True)
        slot = len(self.slots)
        # Spelled so, a named tuple takes half the time.
        self.slots.append(_new(_Slot, (pfn, order, cpu, bool(gfp & COMP))))
        self.cross.append(0)
        self.live[pfn] = (slot, order)
        if order > self.max_live_order:
            self.max_live_order = order
        self.freed[pfn] = -1
        self.live_pages += 1 << order
        if self.live_pages > self.peak_live_pages:
            self.peak_live_pages = self.live_pages
        self.allocs_by_order[order] += 1
        self.allocs_by_migratetype[migratetype] += 1
        self.planned += 1
        self.steps[cpu].append(_new(PageAllocStep, (slot, order, gfp & ~NOFAIL, migratetype, line)))

    def free(self, event: PageFree) -> None:
        cpu, pfn, order, line, batched = event
        heads = self._pieces(pfn, order)
        for head in heads:
            piece_order = self.live[head][1]
            if batched:
                self._free(head, *self._unseen(head, pfn, 0), cpu, line)
            elif piece_order >= order:
                self._free(head, pfn, order, cpu, line)
            else:  # blocks that were freed unseen and merged into the one freed here
                self._free(head, head, piece_order, cpu, line, implied=True)
        before = self.freed.get(pfn)
        if heads:
            self.planned += 1
            self.freed[pfn] = cpu if batched else -1
        elif before is None:
            self.skipped[BEFORE_TRACE] += 1
            self.freed[pfn] = cpu if batched else -1
        elif batched:
            self.skipped[BATCHED_TWICE] += 1
        elif before == cpu:
            self.skipped[BATCHED_TWICE] += 1
            self.freed[pfn] = -1
        else:
            self.skipped[FREED_AGAIN] += 1
            self.freed[pfn] = -1

    def _pieces(self, pfn: int, order: int) -> list[int]:
        """First pages of the live pieces that share pages with the block at *pfn*."""
        live = self.live
        if (piece := live.get(pfn)) is not None and piece[1] >= order:
            return [pfn]
        for larger in range(order + 1, self.max_live_order + 1):
            head = pfn >> larger << larger
            if (piece := live.get(head)) is not None and piece[1] >= larger:
                return [head]
        if order == 0:
            return []
        block = range(pfn, pfn + (1 << order))
        if len(block) <= len(live):
            return [page for page in block if page in live]
        return sorted(page for page in live if page in block)

    def _unseen(self, head: int, pfn: int, order: int) -> tuple[int, int]:
        """What of the piece at *head* was freed when all that is known is that *pfn* was."""
        slot, piece_order = self.live[head]
        whole = self.slots[slot].compound and piece_order == self.slots[slot].order
        if whole or piece_order < order:
            return head, piece_order
        return pfn, order

    def _free(
        self, head: int, pfn: int, order: int, cpu: int, line: int, implied: bool = False
    ) -> None:
        """Plan the free of a block inside the piece at *head*; the rest becomes smaller pieces."""
        slot, piece_order = self.live.pop(head)
        while piece_order > order:
            piece_order -= 1
            upper = head + (1 << piece_order)
            if pfn >= upper:
                self.live[head] = (slot, piece_order)
                head = upper
            else:
                self.live[upper] = (slot, piece_order)
        start, slot_order, alloc_cpu, _ = self.slots[slot]
        if order < slot_order:
            self.split.add(slot)
        if cross_cpu := cpu != alloc_cpu:
            self.cross[slot] = 1
        self.live_pages -= 1 << order
        self.frees_by_order[order] += 1
        self.cross_cpu_frees += cross_cpu
        self.implied_frees += implied
        self.steps[cpu].append(
            _new(PageFreeStep, (slot, pfn - start, order, line, alloc_cpu, cross_cpu, implied))
        )

    def live_at_end(self) -> tuple[Part, ...]:
        """What no event freed, in order of slot and offset."""
        return tuple(
            sorted(
                Part(slot, pfn - self.slots[slot].pfn, order)
                for pfn, (slot, order) in self.live.items()
            )
        )
