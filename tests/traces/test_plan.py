"""Plans of small hand-written traces of page events: who frees what, what is skipped or implied."""

from __future__ import annotations

from concmem.mm.gfp import COMP, GFP_KERNEL
from concmem.traces import steps as reasons
from concmem.traces.events import Informational, KmemEvent, PageAlloc, PageFree
from concmem.traces.plan import Plan, plan_trace
from concmem.traces.steps import PageAllocStep, PageFreeStep, Part


def plan(*words: str) -> Plan:
    """
    The plan of a trace in short: ``a0:10/2`` is an allocation by CPU 0 of pfn 0x10, order 2.

    ``c`` allocates a compound page, ``f`` frees, ``b`` is a batched free. Lines count from 1.
    """
    events: list[KmemEvent] = []
    for line, word in enumerate(words, 1):
        cpu, _, block = word[1:].partition(":")
        pfn, _, order = block.partition("/")
        at, size = int(pfn, 16), int(order or 0)
        if word[0] in "ac":
            gfp = GFP_KERNEL | (COMP if word[0] == "c" else 0)
            events.append(PageAlloc(int(cpu), at, size, 0, gfp, line))
        else:
            events.append(PageFree(int(cpu), at, size, line, word[0] == "b"))
    made = plan_trace(events)
    assert made.planned_events + sum(made.skipped.values()) == len(words)
    return made


def frees(made: Plan) -> list[tuple[int, int, int, int, bool]]:
    """(line, slot, offset, order, implied) of all free steps, sorted."""
    return sorted(
        (step.line, step.slot, step.offset, step.order, step.implied)
        for steps in made.steps.values()
        for step in steps
        if isinstance(step, PageFreeStep)
    )


def test_cross_cpu() -> None:
    """A free belongs to the CPU that did it and names the CPU of its allocation."""
    made = plan("a7:10", "a2:11", "f2:10", "f2:11")
    assert made.cpus == (2, 7)
    assert made.steps[7] == (PageAllocStep(0, 0, GFP_KERNEL, 0, 1),)
    assert made.steps[2] == (
        PageAllocStep(1, 0, GFP_KERNEL, 0, 2),
        PageFreeStep(0, 0, 0, 3, 7, cross_cpu=True, implied=False),
        PageFreeStep(1, 0, 0, 4, 2, cross_cpu=False, implied=False),
    )
    assert (made.pages.nr_slots, made.cross_cpu_frees, made.pages.live_at_end) == (2, 1, ())
    assert (made.pages.peak_live_pages, made.pages.live_pages_at_end) == (2, 0)


def test_batched_repeats_the_free() -> None:
    """A batched free after the free, or before it, is the same free."""
    for order in (("f0:10", "b0:10"), ("b0:10", "f0:10")):
        made = plan("a0:10", *order)
        assert frees(made) == [(2, 0, 0, 0, False)]
        assert made.skipped == {reasons.BATCHED_TWICE: 1}


def test_batched_is_the_free() -> None:
    """Without a free before it a batched free is the free; a compound page goes as a whole."""
    assert frees(plan("a0:10", "b0:10")) == [(2, 0, 0, 0, False)]
    assert frees(plan("c0:10/3", "b0:10")) == [(2, 0, 0, 3, False)]
    made = plan("a0:10/3", "b0:10")
    assert frees(made) == [(2, 0, 0, 0, False)]
    assert made.pages.live_at_end == (Part(0, 1, 0), Part(0, 2, 1), Part(0, 4, 2))


def test_frees_without_allocation() -> None:
    """Pages allocated before the trace, or unseen during it, are freed by nobody."""
    made = plan("f0:10", "b0:10", "f1:10", "b0:20", "f0:20", "a0:10", "f0:10", "f0:10")
    assert frees(made) == [(7, 0, 0, 0, False)]
    assert made.skipped == {
        reasons.BEFORE_TRACE: 2,
        reasons.BATCHED_TWICE: 2,
        reasons.FREED_AGAIN: 2,
    }


def test_old_batched_free_is_forgotten() -> None:
    """A free is no repetition of a batched one that another allocation has made history."""
    made = plan("b0:11", "a0:11", "f0:10/1", "f0:11")
    assert frees(made) == [(3, 0, 0, 0, True)]
    assert made.skipped == {reasons.BEFORE_TRACE: 1, reasons.FREED_AGAIN: 1}


def test_lost_free() -> None:
    """A page allocated twice was freed unseen: the new owner's CPU frees it just before."""
    made = plan("a0:10", "a1:10", "f0:10")
    assert made.steps[1] == (
        PageFreeStep(0, 0, 0, 2, 0, cross_cpu=True, implied=True),
        PageAllocStep(1, 0, GFP_KERNEL, 0, 2),
    )
    assert frees(made) == [(2, 0, 0, 0, True), (3, 1, 0, 0, False)]
    assert (made.implied_frees, made.pages.peak_live_pages) == (1, 1)


def test_lost_free_of_a_block() -> None:
    """Of a block that must be split only the page seen again is freed, a compound page whole."""
    made = plan("a0:10/2", "a0:13")
    assert frees(made) == [(2, 0, 3, 0, True)]
    assert made.pages.split_slots == {0}
    made = plan("c0:10/2", "a0:13")
    assert frees(made) == [(2, 0, 0, 2, True)]
    assert made.pages.split_slots == frozenset()
    made = plan("a0:10", "a0:13", "a0:14", "a0:10/2")
    assert frees(made) == [(4, 0, 0, 0, True), (4, 1, 0, 0, True)]


def test_lost_frees_of_parts() -> None:
    """A block allocated over several pieces, of the same block or others, frees them all before."""
    made = plan("a0:10/2", "f0:11", "a0:11", "a0:10/1")
    assert frees(made) == [(2, 0, 1, 0, False), (4, 0, 0, 0, True), (4, 1, 0, 0, True)]
    assert made.pages.live_at_end == (Part(0, 2, 1), Part(2, 0, 1))


def test_split_block() -> None:
    """The parts of a split block are freed one by one, in any order, by any CPU."""
    made = plan("a0:10/3", "f1:16/1", "f0:10", "f1:11", "f0:12/1")
    assert frees(made) == [
        (2, 0, 6, 1, False),
        (3, 0, 0, 0, False),
        (4, 0, 1, 0, False),
        (5, 0, 2, 1, False),
    ]
    assert made.pages.split_slots == {0}
    assert made.pages.live_at_end == (Part(0, 4, 1),)
    assert (made.pages.live_pages_at_end, made.pages.peak_live_pages) == (2, 8)
    assert (made.pages.frees_by_order, made.pages.allocs_by_order) == ({0: 2, 1: 2}, {3: 1})


def test_free_of_a_larger_block() -> None:
    """A block freed over smaller allocations means that those were freed unseen."""
    made = plan("a0:10", "a0:12/1", "f0:10/2")
    assert frees(made) == [(3, 0, 0, 0, True), (3, 1, 0, 1, True)]
    assert frees(plan("a0:10", "f0:0/20")) == [(2, 0, 0, 0, True)]


def test_not_planned() -> None:
    """Failed and oversized allocations and information give no step, only counts."""
    made = plan_trace(
        [
            PageAlloc(0, None, 0, 0, GFP_KERNEL, 1),
            PageAlloc(0, 0, 11, 0, GFP_KERNEL, 2),
            Informational(5, 3, "mm_page_pcpu_drain"),
        ]
    )
    assert made.steps == {0: (), 5: ()}
    assert made.skipped == {
        reasons.FAILED: 1,
        reasons.TOO_LARGE: 1,
        reasons.INFORMATIONAL: 1,
    }
    assert made.events == {"mm_page_alloc": 2, "mm_page_pcpu_drain": 1}


def test_empty_plan() -> None:
    """No event gives an empty plan."""
    made = plan_trace([])
    assert (made.cpus, made.steps, made.pages.nr_slots) == ((), {}, 0)
