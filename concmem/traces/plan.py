"""
From the events of a trace to a plan that CPUs can replay: who allocates, who frees, and when.

`plan_trace` matches every free with its allocation, single-threaded and in file order, so that a
player needs no lock of its own: it only has to run each CPU's steps in order and let a free wait
until the allocation that it names is done.

That wait cannot deadlock. Give every step its position in the plan, which is file order: every
CPU's list is ascending, and a free stands after its allocation. If all CPUs that are not finished
waited, take the one whose step has the lowest position; it waits for an allocation with a lower
one, on an unfinished CPU, whose current step is at most that allocation: a contradiction.

What the trace does not tell:

* How the traced machine had memory left. So ``__GFP_NOFAIL`` is left out: what the model cannot serve
  fails, and does not wait for ever.
* What is in the objects. So ``__GFP_ZERO`` is left out for objects of caches.
* Frees of pages or objects whose allocation it does not have (made before the recording or by a task
  that was not recorded) are skipped and counted.
* What is allocated while it is still allocated was freed unseen. Its free is planned just before
  the new allocation, on the same CPU, and marked ``implied``.
* ``mm_page_free_batched`` repeats what ``mm_page_free`` has said of the same page (before it in
  today's kernels, after it up to Linux 4.14). It is the free itself only when the page is still
  allocated; a compound page then goes as a whole, for the event always says ``order=0``.
* Which page events are the slab allocator's own. All page events are planned as such, and the
  slabs of the replay take further pages by themselves: a replay of both kinds of event needs the
  traced kernel's slab pages twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from concmem.traces.events import Informational, KmemEvent, PageAlloc, PageFree, SlabAlloc, SlabFree
from concmem.traces.page_planner import PagePlanner
from concmem.traces.slab_planner import PlannedCache, SlabPlanner
from concmem.traces.steps import INFORMATIONAL, Part, Step


@dataclass(frozen=True, slots=True)
class PagePlan:
    """The pages of a `Plan`; all numbers in pages are 4 KiB pages."""

    nr_slots: int
    cross_slots: bytes
    """For every slot 1 if another CPU than its own frees some of it."""
    split_slots: frozenset[int]
    """Slots that steps free in parts, or only a part of."""
    live_at_end: tuple[Part, ...]
    """In order of slot and offset: what is still allocated after every step."""
    allocs_by_order: Mapping[int, int]
    frees_by_order: Mapping[int, int]
    """Free steps by the order of what they free, implied ones included."""
    allocs_by_migratetype: Mapping[int, int]
    cross_cpu_frees: int
    implied_frees: int
    """Frees that the trace lost."""
    live_pages_at_end: int
    peak_live_pages: int


@dataclass(frozen=True, slots=True)
class SlabPlan:
    """The slab objects of a `Plan`."""

    nr_objects: int
    cross_objects: bytes
    """For every object 1 if another CPU frees it than allocates."""
    caches: tuple[PlannedCache, ...]
    """By their number in steps."""
    live_at_end: tuple[tuple[int, int], ...]
    """(object, cache), in order of object: what is still allocated after every step."""
    kmallocs: int
    kfrees: int
    """Free steps of what kmalloc allocated."""
    cross_cpu_frees: int
    implied_frees: int
    """Frees that the trace lost."""
    peak_live_objects: int

    @property
    def allocs(self) -> int:
        """Steps that allocate an object."""
        return self.nr_objects

    @property
    def frees(self) -> int:
        """Steps that free one, implied ones included."""
        return self.kfrees + sum(cache.frees for cache in self.caches)


@dataclass(frozen=True, slots=True)
class Plan:
    """What each CPU of a traced machine did with pages and slab objects."""

    cpus: tuple[int, ...]
    """CPUs that reported any ``kmem`` event, ascending; there may be gaps."""
    steps: Mapping[int, tuple[Step, ...]]
    """For every CPU of `cpus` its steps in order; perhaps none."""
    pages: PagePlan
    slab: SlabPlan
    events: Mapping[str, int]
    """All typed events by name: sums to `planned_events` plus all `skipped`."""
    planned_events: int
    """Events that gave a step."""
    skipped: Mapping[str, int]
    """Events that gave none, by reason."""

    @property
    def cross_cpu_frees(self) -> int:
        """Free steps on another CPU than the allocation's, of pages and objects."""
        return self.pages.cross_cpu_frees + self.slab.cross_cpu_frees

    @property
    def implied_frees(self) -> int:
        """Free steps of pages and objects that are no events of the trace."""
        return self.pages.implied_frees + self.slab.implied_frees


def plan_trace(events: Iterable[KmemEvent]) -> Plan:
    """Match frees with allocations and give every traced CPU its steps; see the module's text."""
    steps: dict[int, list[Step]] = {}
    skipped: Counter[str] = Counter()
    pages = PagePlanner(steps, skipped)
    slab = SlabPlanner(steps, skipped)
    names: Counter[str] = Counter()
    for event in events:
        if event[0] not in steps:
            steps[event.cpu] = []
        if type(event) is SlabAlloc:
            names[event.event] += 1
            slab.alloc(event)
        elif type(event) is SlabFree:
            names[event.event] += 1
            slab.free(event)
        elif type(event) is PageAlloc:
            names["mm_page_alloc"] += 1
            pages.alloc(event)
        elif type(event) is PageFree:
            names["mm_page_free_batched" if event.batched else "mm_page_free"] += 1
            pages.free(event)
        else:
            assert type(event) is Informational
            names[event.event] += 1
            skipped[INFORMATIONAL] += 1
    cpus = tuple(sorted(steps))
    return Plan(
        cpus=cpus,
        steps={cpu: tuple(steps[cpu]) for cpu in cpus},
        pages=_page_plan(pages),
        slab=_slab_plan(slab),
        events=dict(names),
        planned_events=pages.planned + slab.planned,
        skipped=dict(skipped),
    )


def _page_plan(planner: PagePlanner) -> PagePlan:
    return PagePlan(
        nr_slots=len(planner.slots),
        cross_slots=bytes(planner.cross),
        split_slots=frozenset(planner.split),
        live_at_end=planner.live_at_end(),
        allocs_by_order=dict(sorted(planner.allocs_by_order.items())),
        frees_by_order=dict(sorted(planner.frees_by_order.items())),
        allocs_by_migratetype=dict(sorted(planner.allocs_by_migratetype.items())),
        cross_cpu_frees=planner.cross_cpu_frees,
        implied_frees=planner.implied_frees,
        live_pages_at_end=planner.live_pages,
        peak_live_pages=planner.peak_live_pages,
    )


def _slab_plan(planner: SlabPlanner) -> SlabPlan:
    return SlabPlan(
        nr_objects=len(planner.cross),
        cross_objects=bytes(planner.cross),
        caches=planner.caches(),
        live_at_end=planner.live_at_end(),
        kmallocs=planner.kmallocs,
        kfrees=planner.kfrees,
        cross_cpu_frees=planner.cross_cpu_frees,
        implied_frees=planner.implied_frees,
        peak_live_objects=planner.peak_live_objects,
    )
