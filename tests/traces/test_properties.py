"""Random traces in every spelling, judged by a model that knows single pages only."""

from __future__ import annotations

import io
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.mm.gfp import COMP, GFP_KERNEL, GfpFlags, show_gfp_flags
from concmem.traces.events import KmemEvent, PageAlloc, PageFree
from concmem.traces.ftrace import read_trace
from concmem.traces.kmem import typed_events
from concmem.traces.plan import plan_trace
from concmem.traces.steps import PageAllocStep, PageFreeStep

COMMS = ["git", "<idle>", "kworker/0:1-events-12", "Web Content", "a-1 [002] b", "[x]", "1 2"]
GFPS: list[GfpFlags] = [GFP_KERNEL, GFP_KERNEL | COMP, 0x100CCA]


@st.composite
def page_events(draw: st.DrawFn) -> list[KmemEvent]:
    """Allocations and frees of blocks in 64 pages by 3 CPUs, with no regard for sense."""
    events: list[KmemEvent] = []
    for line in range(1, draw(st.integers(1, 30)) + 1):
        cpu = draw(st.sampled_from([0, 1, 5]))
        order = draw(st.sampled_from([0, 0, 0, 1, 2, 3]))
        pfn = draw(st.integers(1, 63)) >> order << order
        kind = draw(st.sampled_from("aafb"))
        if kind == "a":
            gfp = draw(st.sampled_from(GFPS))
            events.append(PageAlloc(cpu, pfn, order, draw(st.integers(0, 2)), gfp, line))
        elif kind == "f":
            events.append(PageFree(cpu, pfn, order, line, False))
        else:
            events.append(PageFree(cpu, pfn, 0, line, True))
    return events


def event_text(event: KmemEvent) -> tuple[str, str]:
    """Name and values as the kernel prints them."""
    if isinstance(event, PageAlloc):
        assert event.pfn is not None
        return "mm_page_alloc", (
            f"page={event.pfn + 1:016x} pfn={event.pfn:#x} order={event.order} "
            f"migratetype={event.migratetype} gfp_flags={show_gfp_flags(event.gfp)}"
        )
    assert isinstance(event, PageFree)
    name = "mm_page_free_batched" if event.batched else "mm_page_free"
    return name, f"page={event.pfn + 1:016x} pfn={event.pfn:#x} order={event.order}"


def render(spelling: str, event: KmemEvent, comm: str, pid: int, time: int) -> str:
    """One line of the trace as *spelling* has it; *time* in microseconds."""
    name, args = event_text(event)
    stamp = f"{time // 10**6}.{time % 10**6:06}"
    if spelling == "ftrace":
        return f"{comm:>16}-{pid:<7} [{event.cpu:03}] d..1. {stamp:>12}: {name}: {args}"
    if spelling == "ftrace tgid":
        return f"{comm:>16}-{pid:<7} (-------) [{event.cpu:03}] ..... {stamp:>12}: {name}: {args}"
    if spelling == "trace-cmd":
        return f"{comm:>16}-{pid:<5} [{event.cpu:03}] {stamp:>12}: {name + ':':<21} {args}"
    if spelling == "perf tid":
        return f"{comm} {pid + 1}/{pid} [{event.cpu:03}] {stamp}: kmem:{name}: {args}"
    return f"{comm:>16} {pid:>5} [{event.cpu:03}] {stamp:>12}: {'kmem:' + name:>25}: {args}"


SPELLINGS = ["ftrace", "ftrace tgid", "trace-cmd", "perf", "perf tid"]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    page_events(),
    st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=3),
    st.data(),
)
def test_round_trip(events: list[KmemEvent], spellings: list[str], data: st.DataObject) -> None:
    """What is printed in any spelling, even mixed ones, is read back as the same events."""
    tasks = [
        (data.draw(st.sampled_from(COMMS)), data.draw(st.integers(0, 4_194_304)), 10**6 + 7 * i)
        for i in range(len(events))
    ]
    lines = [
        render(spellings[i % len(spellings)], event, *task)
        for i, (event, task) in enumerate(zip(events, tasks, strict=True))
    ]
    bad: list[tuple[int, str, str]] = []
    raw = list(read_trace(io.StringIO("\n".join(lines)), on_malformed=lambda *e: bad.append(e)))
    assert bad == []
    assert [(event.comm, event.pid, event.timestamp // 1000) for event in raw] == tasks
    assert list(typed_events(raw)) == events


@settings(derandomize=True, deadline=None, max_examples=120)
@given(page_events())
def test_plan_is_sound(events: list[KmemEvent]) -> None:
    """Replayed in file order, no page is allocated or freed twice and what remains is live."""
    plan = plan_trace(events)
    assert plan.planned_events + sum(plan.skipped.values()) == len(events)
    everything = [
        (step.line, cpu, i, step) for cpu in plan.cpus for i, step in enumerate(plan.steps[cpu])
    ]
    everything.sort(key=lambda entry: entry[:3])
    for steps in plan.steps.values():
        assert all(a.line <= b.line for a, b in pairwise(steps))
    by_line = {event.line: event for event in events}
    owner: dict[int, int] = {}  # page -> slot
    first: dict[int, tuple[int, int]] = {}  # slot -> pfn, cpu
    peak = 0
    for line, cpu, _, step in everything:
        event = by_line[line]
        assert event.cpu == cpu
        if isinstance(step, PageAllocStep):
            assert isinstance(event, PageAlloc)
            assert event.pfn is not None
            block = range(event.pfn, event.pfn + (1 << event.order))
            assert not any(page in owner for page in block)
            owner.update(dict.fromkeys(block, step.slot))
            first[step.slot] = (event.pfn, cpu)
            peak = max(peak, len(owner))
        else:
            assert isinstance(step, PageFreeStep)
            assert step.offset % (1 << step.order) == 0
            start, alloc_cpu = first[step.slot]
            assert (step.alloc_cpu, step.cross_cpu) == (alloc_cpu, alloc_cpu != cpu)
            for page in range(start + step.offset, start + step.offset + (1 << step.order)):
                assert owner.pop(page) == step.slot
    left = {
        first[part.slot][0] + part.offset + i: part.slot
        for part in plan.pages.live_at_end
        for i in range(1 << part.order)
    }
    assert left == owner
    assert (plan.pages.live_pages_at_end, plan.pages.peak_live_pages) == (len(owner), peak)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(alphabet="ab01 -[]():.=|/\0\n\t\udcff<>#,", max_size=400))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Whatever a file holds, every line is an event, malformed, or skipped; nothing is raised."""
    good = "ok-1 [000] ..... 0.1: kfree: call_site=f ptr=0\n"
    bad: list[tuple[int, str, str]] = []
    raw = list(read_trace(io.StringIO(good * 9 + text), on_malformed=lambda *e: bad.append(e)))
    list(typed_events(raw, on_malformed=lambda *e: bad.append(e)))
    assert len(raw) >= 9
    for _, shown, reason in bad:
        (shown + reason).encode()
