"""Replaying plans on machines."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import concmem
from concmem.errors import BadArgument, DoubleFree, SlabError
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.zone import Zone
from concmem.traces.agreement import cache_agreement, kmalloc_agreement
from concmem.traces.ftrace import read_trace
from concmem.traces.kmem import typed_events
from concmem.traces.plan import Plan, plan_trace
from concmem.traces.player import Player
from concmem.traces.steps import KmallocStep

TRACE = Path(__file__).parent.parent / "data" / "kmem-linux-6.18-git-2cpus.trace.gz"


def make_plan(*events: str) -> Plan:
    """
    A plan from short lines.

    ``CPU alloc|free PFN ORDER`` for pages, ``CPU kmalloc PTR SIZE``, ``CPU kfree PTR``,
    ``CPU take|give PTR CACHE`` for objects of caches; numbers of pages and addresses in hexadecimal.
    """
    lines = []
    for number, event in enumerate(events):
        cpu, what, at, *rest = event.split()
        gfp = "gfp_flags=GFP_KERNEL"
        if what in ("alloc", "free"):
            args = f"mm_page_{what}: page=0x1 pfn=0x{at} order={rest[0]}"
            args += f" migratetype=0 {gfp}" if what == "alloc" else ""
        elif what == "kmalloc":
            size, got = int(rest[0]), kmalloc_size(int(rest[0]))
            args = f"kmalloc: call_site=f ptr={at} bytes_req={size} bytes_alloc={got} {gfp} node=-1"
        elif what == "take":
            req, got = OBJECTS[rest[0]]
            args = f"kmem_cache_alloc: call_site=f ptr={at} name={rest[0]} bytes_req={req} "
            args += f"bytes_alloc={got} {gfp} node=-1 accounted=false"
        else:
            name = "kfree" if what == "kfree" else "kmem_cache_free"
            args = f"{name}: call_site=f ptr={at}" + (f" name={rest[0]}" if rest else "")
        lines.append(f" task-1 [00{cpu}] ..... 1.{number:06}: {args}\n")
    bad: list[str] = []
    raw = read_trace(io.StringIO("".join(lines)), on_malformed=lambda *e: bad.append(str(e)))
    plan = plan_trace(typed_events(raw, on_malformed=lambda *e: bad.append(str(e))))
    assert bad == []
    return plan


OBJECTS = {
    "filp": (184, 192),
    "anon_vma": (96, 104),
    "nobody_knows": (96, 104),
    "kmalloc-64": (64, 64),
}
"""Bytes requested and set aside."""


def kmalloc_size(size: int) -> int:
    """What a kernel sets aside: 96 and 192, powers of two, pages above 8 KiB."""
    if size in range(65, 97) or size in range(129, 193):
        return 96 if size <= 96 else 192
    return max(8, 1 << (size - 1).bit_length())


@pytest.fixture(scope="module")
def real_plan() -> Plan:
    return plan_trace(typed_events(read_trace(TRACE)))


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_the_real_trace_is_replayed_whole(real_plan: Plan, runtime: str) -> None:
    """Every event is replayed, none fails, sizes are the recorded kernel's, all memory is back."""
    with concmem.Machine(cpus=2, memory="8G", runtime=runtime, seed=1) as m:
        result = Player(m, real_plan).run()
    assert result.verified
    assert result.failed == 0
    assert result.page_allocs == sum(real_plan.pages.allocs_by_order.values())
    assert result.page_frees == sum(real_plan.pages.frees_by_order.values())
    assert result.object_allocs == real_plan.slab.allocs
    assert result.object_frees == real_plan.slab.frees
    # The model derives the migratetype from the GFP flags; the kernel said which it used.
    assert {traced == model for traced, model in result.migratetype_agreement} == {True}
    assert kmalloc_agreement(result.kmalloc_sizes) == (2246, 2246)
    assert cache_agreement(result.caches) == (35, 35)


def test_replays_on_one_machine_agree(real_plan: Plan) -> None:
    """The machine is as before when a replay is over, so a second one gives the same."""
    with concmem.Machine(cpus=2, memory="8G") as m:
        before = [cache.name for cache in m.slab.caches()]
        first, second = [Player(m, real_plan).run() for _ in range(2)]
        assert [cache.name for cache in m.slab.caches()] == before
    assert first.kmalloc_sizes == second.kmalloc_sizes
    assert first.caches == second.caches
    assert (first.steps, first.object_frees, first.failed) == (
        second.steps,
        second.object_frees,
        second.failed,
    )


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
        assert (result.page_allocs, result.page_frees, result.verified) == (200, 200, True)
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
        assert result.page_frees == 3


def test_a_failed_allocation_does_not_hang_its_free() -> None:
    """What the model cannot serve is counted, and its free on another CPU is skipped."""
    events = [f"0 alloc {0x10000 + (number << 10):x} 10" for number in range(8)]
    events += [f"1 free {0x10000 + (number << 10):x} 10" for number in reversed(range(8))]
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, make_plan(*events)).run()
    assert result.failed > 0
    assert result.page_allocs + result.failed == 8
    assert result.page_frees == result.page_allocs


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


def spy_on(m: concmem.Machine) -> list[tuple[str, int, int]]:
    """(what, CPU, address) of every object allocated and freed from now on."""
    seen: list[tuple[str, int, int]] = []

    def watched(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: Any) -> Any:
            cpu = m.smp_processor_id()  # before: an allocation may sleep, and never moves
            result = function(*args)
            seen.append((what, cpu, result if what == "alloc" else args[0]))
            return result

        return spy

    create = m.kmem_cache_create

    def kmem_cache_create(*args: Any, **keywords: Any) -> Any:
        cache = create(*args, **keywords)
        cache.alloc, cache.free = watched("alloc", cache.alloc), watched("free", cache.free)
        return cache

    m.kmem_cache_create = kmem_cache_create  # type: ignore[method-assign]
    m.kmalloc, m.kfree = watched("alloc", m.kmalloc), watched("free", m.kfree)
    return seen


def test_objects_are_freed_by_the_cpu_of_the_trace() -> None:
    """Every object is allocated and freed by the CPUs that did it; frees wait for allocations."""
    events = []
    for number in range(300):
        cpu, ptr = number % 2, f"{0x1000 + number:x}"
        cache = ("filp", "anon_vma", "")[number % 3]
        if cache:
            events += [f"{cpu} take {ptr} {cache}", f"{1 - cpu} give {ptr} {cache}"]
        else:
            events += [f"{cpu} kmalloc {ptr} 100", f"{1 - cpu} kfree {ptr}"]
    plan = make_plan(*events)
    assert plan.cross_cpu_frees == 300
    with concmem.Machine(cpus=2, memory="16M") as m:
        seen = spy_on(m)
        result = Player(m, plan).run()
    assert (result.object_allocs, result.object_frees, result.verified) == (300, 300, True)
    assert Counter((what, cpu) for what, cpu, _ in seen) == {
        (what, cpu): 150 for what in ("alloc", "free") for cpu in (0, 1)
    }
    owner: dict[int, int] = {}
    for what, cpu, address in seen:
        if what == "alloc":
            owner[address] = cpu
        else:
            assert owner[address] == 1 - cpu


def test_kfree_frees_objects_of_caches() -> None:
    """An object of a cache may go by kfree, and what kmalloc gave by the cache behind it."""
    plan = make_plan(
        "0 take a0 filp", "1 kfree a0", "0 kmalloc b0 60", "1 give b0 kmalloc-64", "0 take c0 filp"
    )
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, plan).run()
    assert (result.object_allocs, result.object_frees, result.verified) == (3, 2, True)


def test_disagreement_is_reported() -> None:
    """A size that the model would not set aside is counted and named with both numbers."""
    plan = make_plan("0 take a0 anon_vma", "0 take b0 nobody_knows", "0 kmalloc c0 100")
    step = plan.steps[0][2]
    assert isinstance(step, KmallocStep)
    wrong = replace(plan, steps={0: (*plan.steps[0][:2], step._replace(traced_size=112))})
    with concmem.Machine(cpus=1, memory="16M") as m:
        result = Player(m, wrong).run()
    assert cache_agreement(result.caches) == (1, 2)
    assert [(c.name, c.traced, c.model) for c in result.caches if not c.same] == [
        ("nobody_knows", (104,), 96)
    ]
    assert kmalloc_agreement(result.kmalloc_sizes) == (0, 1)
    assert result.kmalloc_sizes == {(100, 112, 128): 1}


def test_kmalloc_of_every_kind_of_size() -> None:
    """Size classes and whole pages: the model sets aside what a kernel does."""
    sizes = [
        1,
        8,
        9,
        33,
        65,
        96,
        97,
        129,
        192,
        193,
        1000,
        4097,
        8192,
        8193,
        16385,
        100_000,
        1 << 20,
    ]
    plan = make_plan(*(f"0 kmalloc {number + 1:x}0 {size}" for number, size in enumerate(sizes)))
    with concmem.Machine(cpus=1, memory="16M") as m:
        result = Player(m, plan).run()
    assert kmalloc_agreement(result.kmalloc_sizes) == (len(sizes), len(sizes))


def test_a_name_that_the_machine_has_already() -> None:
    """A traced cache may be called like one of the machine's own, or have blanks in its name."""
    plan = make_plan("0 take a0 kmalloc-64", "0 give a0 kmalloc-64")
    blank = plan.slab.caches[0]._replace(name="a b/c")
    other = replace(plan, slab=replace(plan.slab, caches=(blank,)))
    with concmem.Machine(cpus=1, memory="16M") as m:
        for each in (plan, other):
            assert Player(m, each).run().verified


def test_objects_that_do_not_fit() -> None:
    """What the model cannot serve is counted, and its free on another CPU is skipped."""
    events = [f"0 kmalloc {number + 1:x}000 1000000" for number in range(30)]
    # The last first, so that no free comes before that allocation.
    events += [f"1 kfree {number + 1:x}000" for number in reversed(range(29))]
    with concmem.Machine(cpus=2, memory="16M") as m:
        result = Player(m, make_plan(*events)).run()
    assert result.failed > 0
    assert result.object_allocs + result.failed == 30
    assert result.object_frees in (result.object_allocs, result.object_allocs - 1)
    assert result.verified


def test_a_broken_rule_names_its_line() -> None:
    """It stops all CPUs, also one that waits, and says at which line of the trace."""
    plan = make_plan("0 kmalloc a0 8", "0 kfree a0", "0 kmalloc b0 8", "1 kfree b0")
    with concmem.Machine(cpus=2, memory="16M") as m:
        kfree = m.kfree

        def twice(address: int | None) -> None:
            kfree(address)
            kfree(address)

        m.kfree = twice
        player = Player(m, plan)
        with pytest.raises(ExceptionGroup) as caught:
            player.run()
    (error,) = caught.value.exceptions
    assert isinstance(error, DoubleFree)
    assert error.__notes__ == ["line 2 of the trace"]
    assert not player.result.verified


def test_live_objects_that_overlap_are_found() -> None:
    """An allocator that hands an address out twice does not pass."""
    plan = make_plan("0 kmalloc a0 8", "0 kmalloc b0 8")
    with concmem.Machine(cpus=1, memory="16M") as m:
        real = m.kmalloc
        given: list[int | None] = []

        def broken(size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
            given.append(given[0] if given else real(size, gfp, node))
            return given[-1]

        m.kmalloc = broken
        with pytest.raises(ExceptionGroup) as caught:
            Player(m, plan).run()
    (error,) = caught.value.exceptions
    assert isinstance(error, SlabError)
    assert "object 0" in str(error)
    assert "object 1" in str(error)


def test_breaking_off_ends_clean(real_plan: Plan) -> None:
    """A replay that is stopped before its end verifies, and says how far it came."""
    with concmem.Machine(cpus=2, memory="8G") as m:
        player = Player(m, real_plan)
        alloc_pages = m.alloc_pages
        seen = 0

        def stop_soon(order: int, gfp: int) -> concmem.Page | None:
            nonlocal seen
            seen += 1
            if seen >= 500:
                player.stop()
            return alloc_pages(order, gfp)

        m.alloc_pages = stop_soon  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            player.run()
    result = player.result
    assert result.verified
    assert result.at_end is not None
    assert 500 <= result.page_allocs < real_plan.pages.nr_slots
    assert 0 < result.object_frees < result.object_allocs < real_plan.slab.allocs


@pytest.mark.parametrize("runtime", ["free", "jitter"])
def test_one_kind_of_event_alone(runtime: str) -> None:
    """A trace of page events only, and one of slab events only."""
    pages = make_plan("0 alloc 1000 0", "1 free 1000 0")
    slab = make_plan("0 take a0 filp", "1 give a0 filp")
    with concmem.Machine(cpus=2, memory="16M", runtime=runtime) as m:
        assert Player(m, pages).run().steps == 2
        assert Player(m, slab).run().steps == 2


def test_nodes_of_the_trace() -> None:
    """Objects come from the node that the trace names, if the machine has it."""
    plan = make_plan("0 kmalloc a0 100", "0 take b0 filp", "0 kmalloc c0 100", "0 take d0 filp")
    steps = [step._replace(node=1 if i < 2 else 7) for i, step in enumerate(plan.steps[0])]  # type: ignore[call-arg]
    with concmem.Machine(cpus=2, memory="64M", nodes=2) as m:
        player = Player(m, replace(plan, steps={0: tuple(steps)}))
        nodes = []
        real = player._check_live

        def look() -> None:
            nodes.extend(m.virt_to_page(at).zone.zone_pgdat.node_id for at in player._slots.objects)
            real()

        player._check_live = look  # type: ignore[method-assign]
        assert player.run().verified
    assert nodes[:2] == [1, 1]
