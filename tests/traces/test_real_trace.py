"""A live kernel's trace (Linux 6.18, two CPUs, a git workload) against counts made another way."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import pytest

from concmem.traces import steps as reasons
from concmem.traces.ftrace import ReadCounts, read_trace
from concmem.traces.kmem import typed_events
from concmem.traces.plan import Plan, plan_trace
from concmem.traces.steps import (
    KMALLOC,
    CacheAllocStep,
    KmallocStep,
    ObjectFreeStep,
    PageAllocStep,
    PageFreeStep,
)

TRACE = Path(__file__).parent.parent / "data" / "kmem-linux-6.18-git-2cpus.trace.gz"
NAMES = [
    "kmalloc",
    "kfree",
    "kmem_cache_alloc",
    "kmem_cache_free",
    "mm_page_alloc",
    "mm_page_free",
    "mm_page_free_batched",
    "mm_page_alloc_zone_locked",
]


@pytest.fixture(scope="module")
def text() -> str:
    """The trace as one text."""
    return gzip.decompress(TRACE.read_bytes()).decode("ascii")


@pytest.fixture(scope="module")
def read() -> tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]:
    """The plan, and everything the reader says about the way there."""
    bad: list[tuple[int, str, str]] = []
    counts = ReadCounts()
    unknown: Counter[str] = Counter()
    raw = read_trace(TRACE, on_malformed=lambda *e: bad.append(e), counts=counts)
    events = typed_events(raw, on_malformed=lambda *e: bad.append(e), unknown=unknown)
    return plan_trace(events), counts, bad, unknown


def test_every_line_is_read(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """All 86062 events are read, none malformed, unknown, lost or out of order."""
    _, counts, bad, unknown = read
    events = text.count("\n") - text.count("\n#") - 1
    assert events == 86062
    assert counts == ReadCounts(
        lines=text.count("\n"),
        events=events,
        kmem_events=events,
        malformed=0,
        lost_events=0,
        backwards=0,
    )
    assert (bad, unknown) == ([], {})


def test_totals(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """Events, orders and migratetypes are as plain searching of the text counts them."""
    plan = read[0]
    assert plan.events == {name: text.count(f": {name}: ") for name in NAMES}
    assert plan.cpus == tuple(sorted({int(cpu) for cpu in re.findall(r"\[(\d+)\]", text)}))
    allocs = [line for line in text.splitlines() if ": mm_page_alloc: " in line]
    orders = Counter(int(line.split(" order=")[1].split(" ")[0]) for line in allocs)
    types = Counter(int(line.split(" migratetype=")[1].split(" ")[0]) for line in allocs)
    assert plan.pages.allocs_by_order == orders
    assert plan.pages.allocs_by_migratetype == types
    assert plan.pages.nr_slots == len(allocs) == 11207
    assert plan.planned_events + sum(plan.skipped.values()) == sum(plan.events.values())


def test_matching(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """Frees and what remains are as a count per page gives them; all frees here are of order 0."""
    plan = read[0]
    history: dict[int, list[tuple[str, str]]] = {}
    for cpu, kind, pfn, order in re.findall(
        r"\[(\d+)\] .*: mm_page_(alloc|free|free_batched): page=\S+ pfn=(\S+) order=(\d+)", text
    ):
        for page in range(int(pfn, 16), int(pfn, 16) + (1 << int(order))):
            history.setdefault(page, []).append((kind, cpu))
    seen: Counter[str] = Counter()
    for events in history.values():
        pairs = list(zip([("", ""), *events], events, strict=False))
        for (before, old_cpu), (kind, cpu) in pairs:
            seen[f"{before} {kind}"] += 1
            seen["cross"] += before == "alloc" and kind != "free_batched" and cpu != old_cpu
            if kind == "free_batched":  # as a rule the next event of the page after its free
                assert (before, old_cpu) == ("free", cpu)
        seen["live"] += events[-1][0] == "alloc"
    objects = object_history(text)[0]
    freed_again = seen["free_batched free"] + seen["free free"] + objects["free free"]
    assert freed_again == plan.skipped[reasons.FREED_AGAIN]
    assert seen[" free"] + objects[" free"] == plan.skipped[reasons.BEFORE_TRACE]
    assert seen["free free_batched"] == plan.skipped[reasons.BATCHED_TWICE] == 7020
    assert seen["alloc alloc"] == plan.pages.implied_frees == 1067
    assert seen["alloc free"] + seen["alloc alloc"] == sum(plan.pages.frees_by_order.values())
    assert seen["cross"] == plan.pages.cross_cpu_frees
    assert (
        seen["live"]
        == plan.pages.live_pages_at_end
        == sum(1 << p.order for p in plan.pages.live_at_end)
    )
    assert plan.pages.split_slots == frozenset()


def object_history(text: str) -> tuple[Counter[str], Counter[tuple[str, str, str]]]:
    """What follows what at one address; and how often (cache, requested, set aside) is allocated."""
    history: dict[str, list[tuple[str, str]]] = {}
    caches: Counter[tuple[str, str, str]] = Counter()
    for cpu, name, args in re.findall(
        r"\[(\d+)\] .*: (kmalloc|kmem_cache_alloc|kfree|kmem_cache_free): (.*)", text
    ):
        fields = dict(word.split("=", 1) for word in args.split())
        if name.endswith("alloc"):
            sizes = (fields["bytes_req"], fields["bytes_alloc"])
            caches[(fields.get("name", ""), *sizes)] += 1
        if fields["ptr"].strip("0"):
            kind = "alloc" if name.endswith("alloc") else "free"
            history.setdefault(fields["ptr"], []).append((kind, cpu))
    seen: Counter[str] = Counter()
    for events in history.values():
        for (before, old_cpu), (kind, cpu) in zip([("", ""), *events], events, strict=False):
            seen[f"{before} {kind}"] += 1
            seen["cross"] += before == "alloc" and cpu != old_cpu
        seen["live"] += events[-1][0] == "alloc"
    return seen, caches


def test_matching_of_objects(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """Objects are matched and counted as a history of every address gives it."""
    plan = read[0]
    slab = plan.slab
    seen, caches = object_history(text)
    assert slab.allocs == sum(caches.values()) == 29122
    assert slab.frees == seen["alloc free"] + seen["alloc alloc"]
    assert slab.implied_frees == seen["alloc alloc"] == 3967
    assert slab.cross_cpu_frees == seen["cross"] == 3031
    assert len(slab.live_at_end) == seen["live"] == 1754
    assert plan.skipped[reasons.NULL] == text.count("kfree: ") - len(
        re.findall(r"kfree: call_site=\S+ ptr=0*[1-9a-f]", text)
    )
    kmallocs = {key: times for key, times in caches.items() if not key[0]}
    assert slab.kmallocs == sum(kmallocs.values())
    assert Counter(
        {(c.name, str(c.object_size), str(c.sizes[0])): c.allocs for c in slab.caches}
    ) == {key: times for key, times in caches.items() if key[0]}


def test_steps_follow_the_trace(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """Every step stands in its CPU's list, in file order, and comes from a line of that CPU."""
    plan = read[0]
    lines = ["", *text.splitlines()]
    allocated: dict[tuple[str, int], int] = {}
    for cpu in plan.cpus:
        assert list(plan.steps[cpu]) == sorted(plan.steps[cpu], key=lambda step: step.line)
        for step in plan.steps[cpu]:
            assert f"[{cpu:03}]" in lines[step.line]
            if isinstance(step, PageAllocStep):
                allocated["page", step.slot] = step.line
            elif isinstance(step, KmallocStep | CacheAllocStep):
                allocated["object", step.obj] = step.line
    for cpu in plan.cpus:
        for step in plan.steps[cpu]:
            if isinstance(step, PageFreeStep):
                assert allocated["page", step.slot] < step.line
                assert (": mm_page_alloc: " in lines[step.line]) == step.implied
            elif isinstance(step, ObjectFreeStep):
                assert allocated["object", step.obj] < step.line
                assert ("alloc: " in lines[step.line]) == step.implied
                assert (": kfree: " in lines[step.line]) <= (step.cache == KMALLOC)
