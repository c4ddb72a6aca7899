"""Replaying plans on machines."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import pytest

import concmem
from concmem.errors import BadArgument
from concmem.mm.zone import Zone
from concmem.traces.ftrace import read_trace
from concmem.traces.kmem import typed_events
from concmem.traces.plan import Plan, plan_pages
from concmem.traces.player import Player

TRACE = Path(__file__).parent.parent / "data" / "kmem-linux-6.18-git-2cpus.trace.gz"


def make_plan(*events: str) -> Plan:
    """A plan from ``cpu alloc pfn order`` and ``cpu free pfn order`` lines."""
    lines = []
    for number, event in enumerate(events):
        cpu, what, pfn, order = event.split()
        tail = f"page=0x1 pfn=0x{pfn} order={order}"
        if what == "alloc":
            tail += " migratetype=0 gfp_flags=GFP_KERNEL"
        lines.append(f" task-1 [00{cpu}] ..... 1.{number:06}: mm_page_{what}: {tail}\n")
    return plan_pages(typed_events(read_trace(io.StringIO("".join(lines)))))


@pytest.fixture(scope="module")
def real_plan() -> Plan:
    return plan_pages(typed_events(read_trace(TRACE)))


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_the_real_trace_is_replayed_whole(real_plan: Plan, runtime: str) -> None:
    """Every page event of the recorded kernel trace is replayed, none fails, all memory is back."""
    with concmem.Machine(cpus=2, memory="8G", runtime=runtime, seed=1) as m:
        result = Player(m, real_plan).run()
    assert result.verified
    assert result.failed == 0
    assert result.allocs == sum(real_plan.allocs_by_order.values())
    assert result.frees == sum(real_plan.frees_by_order.values())
    # The model derives the migratetype from the GFP flags; the kernel said which it used.
    assert {traced == model for traced, model in result.migratetype_agreement} == {True}


def test_a_free_waits_for_the_allocation_on_the_other_cpu() -> None:
    """A ping-pong of allocations and frees between two CPUs ends, in whatever order they run."""
    events = []
    for number in range(200):
        cpu = number % 2
        events += [f"{cpu} alloc {0x1000 + number:x} 0", f"{1 - cpu} free {0x1000 + number:x} 0"]
    plan = make_plan(*events)
    assert plan.cross_cpu_frees == 200
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, plan).run()
        assert (result.allocs, result.frees, result.verified) == (200, 200, True)
        assert m.statistics().events["page_alloc_failed"] == 0


def test_every_event_runs_on_the_cpu_that_did_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced CPU numbers with gaps map to CPUs in order; each does its own steps."""
    plan = make_plan("2 alloc 1000 0", "5 alloc 2000 3", "7 free 1000 0", "2 free 2000 3")
    seen: Counter[int] = Counter()
    with concmem.Machine(cpus=3, memory="16M") as m:
        alloc_pages = m.alloc_pages

        def spy(order: int, gfp: int) -> concmem.Page | None:
            seen[m.smp_processor_id()] += 1
            return alloc_pages(order, gfp)

        monkeypatch.setattr(m, "alloc_pages", spy)
        result = Player(m, plan).run()
    assert result.cpus == {2: 0, 5: 1, 7: 2}
    assert seen == {0: 1, 1: 1}


def test_blocks_freed_in_parts_are_split() -> None:
    """A block of order 2 that the trace frees page by page, on two CPUs, comes back whole."""
    plan = make_plan(
        "0 alloc 1000 2", "0 free 1000 0", "1 free 1001 0", "1 free 1002 1", "0 alloc 3000 2"
    )
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, plan).run()
        assert result.verified
        assert result.frees == 3


def test_a_failed_allocation_does_not_hang_its_free() -> None:
    """What the model cannot serve is counted, and its free on another CPU is skipped."""
    events = [f"0 alloc {0x10000 + (number << 10):x} 10" for number in range(8)]
    events += [f"1 free {0x10000 + (number << 10):x} 10" for number in reversed(range(8))]
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, make_plan(*events)).run()
    assert result.failed > 0
    assert result.allocs + result.failed == 8
    assert result.frees == result.allocs


def test_a_bug_of_the_allocator_is_found() -> None:
    """A zone that forgets one freed page does not pass."""

    class Leaky(Zone):
        def free_bulk(self, pages):  # type: ignore[no-untyped-def]
            super().free_bulk(list(pages)[1:])

    plan = make_plan("0 alloc 1000 0", "1 free 1000 0")
    with (
        concmem.Machine(cpus=2, memory="16M", pagesets=False, classes={Zone: Leaky}) as m,
        pytest.raises(concmem.errors.PageCountError, match="lost"),
    ):
        Player(m, plan).run()


def test_a_machine_with_fewer_cpus_is_refused() -> None:
    """The error names cpus, and nothing runs."""
    with (
        concmem.Machine(cpus=1, memory="16M") as m,
        pytest.raises(BadArgument, match=re.escape("cpus: the trace has 2")),
    ):
        Player(m, make_plan("0 alloc 1000 0", "1 free 1000 0"))
