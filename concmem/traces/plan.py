"""
From the page events of a trace to a plan that CPUs can replay: who allocates, who frees, and when.

`plan_pages` matches every free with its allocation, single-threaded and in file order, so that a
player needs no lock of its own: it only has to run each CPU's steps in order and let a `FreeStep`
wait until the `AllocStep` of its slot is done.

That wait cannot deadlock. Give every step its position in the plan, which is file order: every
CPU's list is ascending, and a free stands after its allocation. If all CPUs that are not finished
waited, take the one whose step has the lowest position; it waits for an allocation with a lower
one, on an unfinished CPU, whose current step is at most that allocation: a contradiction.

What the trace does not tell:

* Frees of pages whose allocation it does not have (made before the recording or by a task that
  was not recorded) are skipped and counted.
* A page that is allocated while it is still allocated was freed unseen. Its free is planned just
  before the new allocation, on the same CPU, and marked `FreeStep.implied`.
* ``mm_page_free_batched`` repeats what ``mm_page_free`` has said of the same page (before it in
  today's kernels, after it up to Linux 4.14). It is the free itself only when the page is still
  allocated; a compound page then goes as a whole, for the event always says ``order=0``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from concmem.mm.gfp import COMP, GfpFlags
from concmem.traces.kmem import KmemEvent, PageAlloc, PageFree, SlabAlloc, SlabFree
from concmem.units import MAX_PAGE_ORDER

BEFORE_TRACE: Final = "freed, allocated before the trace"
FREED_AGAIN: Final = "freed again, its allocation is not in the trace"
BATCHED_TWICE: Final = "batched: same free reported twice"
INFORMATIONAL: Final = "informational"
FAILED: Final = "allocation failed in the traced kernel"
TOO_LARGE: Final = f"order above {MAX_PAGE_ORDER}"
SLAB: Final = "slab: not replayed yet"


class AllocStep(NamedTuple):
    """Allocate ``2**order`` pages and keep them as *slot*."""

    slot: int
    """Number of the allocation in the plan, from 0 in file order."""
    order: int
    gfp: GfpFlags
    migratetype: int
    """What the traced kernel used; follows from *gfp*."""
    line: int


class FreeStep(NamedTuple):
    """
    Free a slot, or a part of it: ``2**order`` pages that start *offset* pages into the block.

    A slot in `Plan.split_slots` is freed in parts, perhaps by several CPUs: split it where it is
    allocated, before any other CPU may see it.
    """

    slot: int
    offset: int
    """Pages from the first page of the slot; a multiple of ``2**order``."""
    order: int
    line: int
    alloc_cpu: int
    cross_cpu: bool
    """Another CPU frees than allocated."""
    implied: bool
    """The trace has no free of exactly these pages; it follows from the event of *line*."""


Step: TypeAlias = AllocStep | FreeStep


class Part(NamedTuple):
    """Pages of a slot that no step frees."""

    slot: int
    offset: int
    order: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What each CPU of a traced machine did with pages; all numbers in pages are 4 KiB pages."""

    cpus: tuple[int, ...]
    """CPUs that reported any ``kmem`` event, ascending; there may be gaps."""
    steps: Mapping[int, tuple[Step, ...]]
    """For every CPU of `cpus` its steps in order; perhaps none."""
    nr_slots: int
    split_slots: frozenset[int]
    """Slots that steps free in parts, or only a part of."""
    live_at_end: tuple[Part, ...]
    """In order of slot and offset: what is still allocated after every step."""

    events: Mapping[str, int]
    """All typed events by name: sums to `planned_events` plus all `skipped`."""
    planned_events: int
    """Events that gave a step."""
    skipped: Mapping[str, int]
    """Events that gave none, by reason."""
    allocs_by_order: Mapping[int, int]
    frees_by_order: Mapping[int, int]
    """Free steps by the order of what they free, implied ones included."""
    allocs_by_migratetype: Mapping[int, int]
    cross_cpu_frees: int
    implied_frees: int
    """Frees that the trace lost."""
    live_pages_at_end: int
    peak_live_pages: int


class _Slot(NamedTuple):
    pfn: int
    order: int
    cpu: int
    compound: bool


class _Planner:
    """
    The traced kernel's pages as far as the events tell.

    Live pages are kept as disjoint pieces, each aligned to its size like a buddy block, so two
    blocks are either disjoint or one lies inside the other.
    """

    def __init__(self) -> None:
        self.steps: dict[int, list[Step]] = {}
        self.slots: list[_Slot] = []
        self.live: dict[int, tuple[int, int]] = {}  # first pfn of a piece -> slot, order
        self.max_live_order = 0
        # Every pfn an event has named: the CPU that reported its free so far only by
        # mm_page_free_batched, otherwise -1. Says nothing while the page is live.
        self.freed: dict[int, int] = {}
        self.split: set[int] = set()
        self.skipped: Counter[str] = Counter()
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
        self.slots.append(_Slot(pfn, order, cpu, bool(gfp & COMP)))
        self.live[pfn] = (slot, order)
        self.max_live_order = max(self.max_live_order, order)
        self.freed[pfn] = -1
        self.live_pages += 1 << order
        self.peak_live_pages = max(self.peak_live_pages, self.live_pages)
        self.allocs_by_order[order] += 1
        self.allocs_by_migratetype[migratetype] += 1
        self.planned += 1
        self.steps[cpu].append(AllocStep(slot, order, gfp, migratetype, line))

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
            if (piece := live.get(head)) is not None and head + (1 << piece[1]) > pfn:
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
        cross_cpu = cpu != alloc_cpu
        self.live_pages -= 1 << order
        self.frees_by_order[order] += 1
        self.cross_cpu_frees += cross_cpu
        self.implied_frees += implied
        self.steps[cpu].append(
            FreeStep(slot, pfn - start, order, line, alloc_cpu, cross_cpu, implied)
        )


def plan_pages(events: Iterable[KmemEvent]) -> Plan:
    """Match frees with allocations and give every traced CPU its steps; see the module's text."""
    planner = _Planner()
    names: Counter[str] = Counter()
    for event in events:
        planner.steps.setdefault(event.cpu, [])
        if isinstance(event, PageAlloc):
            names["mm_page_alloc"] += 1
            planner.alloc(event)
        elif isinstance(event, PageFree):
            names["mm_page_free_batched" if event.batched else "mm_page_free"] += 1
            planner.free(event)
        else:
            names[event.event] += 1
            slab = isinstance(event, SlabAlloc | SlabFree)
            planner.skipped[SLAB if slab else INFORMATIONAL] += 1
    cpus = tuple(sorted(planner.steps))
    parts = sorted(
        Part(slot, pfn - planner.slots[slot].pfn, order)
        for pfn, (slot, order) in planner.live.items()
    )
    return Plan(
        cpus=cpus,
        steps={cpu: tuple(planner.steps[cpu]) for cpu in cpus},
        nr_slots=len(planner.slots),
        split_slots=frozenset(planner.split),
        live_at_end=tuple(parts),
        events=dict(names),
        planned_events=planner.planned,
        skipped=dict(planner.skipped),
        allocs_by_order=dict(sorted(planner.allocs_by_order.items())),
        frees_by_order=dict(sorted(planner.frees_by_order.items())),
        allocs_by_migratetype=dict(sorted(planner.allocs_by_migratetype.items())),
        cross_cpu_frees=planner.cross_cpu_frees,
        implied_frees=planner.implied_frees,
        live_pages_at_end=planner.live_pages,
        peak_live_pages=planner.peak_live_pages,
    )
