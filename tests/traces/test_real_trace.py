"""A live kernel's trace (Linux 6.18, two CPUs, a git workload) against counts made another way."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import pytest

from concmem.traces import plan as plan_module
from concmem.traces.ftrace import ReadCounts, read_trace
from concmem.traces.kmem import typed_events
from concmem.traces.plan import AllocStep, FreeStep, Plan, plan_pages

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
    return plan_pages(events), counts, bad, unknown


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
    assert plan.allocs_by_order == orders
    assert plan.allocs_by_migratetype == types
    assert plan.nr_slots == len(allocs) == 11207
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
    assert seen["free_batched free"] + seen["free free"] == plan.skipped[plan_module.FREED_AGAIN]
    assert seen[" free"] == plan.skipped[plan_module.BEFORE_TRACE]
    assert seen["free free_batched"] == plan.skipped[plan_module.BATCHED_TWICE] == 7020
    assert seen["alloc alloc"] == plan.implied_frees == 1067
    assert seen["alloc free"] + seen["alloc alloc"] == sum(plan.frees_by_order.values())
    assert seen["cross"] == plan.cross_cpu_frees
    assert seen["live"] == plan.live_pages_at_end == sum(1 << p.order for p in plan.live_at_end)
    assert plan.split_slots == frozenset()


def test_steps_follow_the_trace(
    text: str, read: tuple[Plan, ReadCounts, list[tuple[int, str, str]], Counter[str]]
) -> None:
    """Every step stands in its CPU's list, in file order, and comes from a line of that CPU."""
    plan = read[0]
    lines = ["", *text.splitlines()]
    allocated: dict[int, int] = {}
    for cpu in plan.cpus:
        assert list(plan.steps[cpu]) == sorted(plan.steps[cpu], key=lambda step: step.line)
        for step in plan.steps[cpu]:
            assert f"[{cpu:03}]" in lines[step.line]
            if isinstance(step, AllocStep):
                allocated[step.slot] = step.line
    for cpu in plan.cpus:
        for step in plan.steps[cpu]:
            if isinstance(step, FreeStep):
                assert allocated[step.slot] < step.line
                assert (": mm_page_alloc: " in lines[step.line]) == step.implied
