"""Plans of slab events: which free is whose, which cache an object is of, what gives no step."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from concmem.mm.gfp import GFP_KERNEL
from concmem.traces import steps as reasons
from concmem.traces.events import KmemEvent, SlabAlloc, SlabFree
from concmem.traces.plan import Plan, plan_trace
from concmem.traces.slab_planner import MAX_SIZE, PlannedCache
from concmem.traces.steps import KMALLOC, CacheAllocStep, KmallocStep, ObjectFreeStep, Step

SIZES = {"": (100, 128), "filp": (184, 192), "pid": (184, 192), "dentry": (192, 192)}


def alloc(cpu: int, ptr: int | None, name: str | None, line: int, size: int = 0) -> SlabAlloc:
    """``kmem_cache_alloc`` of the cache *name*, which may be empty; ``None``: ``kmalloc``."""
    req, got = SIZES[name or ""] if not size else (size, size)
    kind = "kmalloc" if name is None else "kmem_cache_alloc"
    return SlabAlloc(cpu, ptr, name or "", req, got, GFP_KERNEL, -1, "f", line, kind)


def free(cpu: int, ptr: int | None, name: str | None, line: int) -> SlabFree:
    """``kmem_cache_free``, which may name no cache; ``None``: ``kfree``."""
    kind = "kfree" if name is None else "kmem_cache_free"
    return SlabFree(cpu, ptr, name or "", "f", line, kind)


def all_steps(plan: Plan) -> list[tuple[int, Step]]:
    """(CPU, step) in file order; of one line, the free before the allocation."""
    steps = [(cpu, step) for cpu in plan.cpus for step in plan.steps[cpu]]
    return sorted(steps, key=lambda entry: entry[1].line)  # stable: within a CPU as planned


def frees(plan: Plan) -> list[tuple[int, int, int, bool, bool]]:
    """(line, object, cache, cross-CPU, implied) of every free."""
    return [
        (step.line, step.obj, step.cache, step.cross_cpu, step.implied)
        for _, step in all_steps(plan)
        if isinstance(step, ObjectFreeStep)
    ]


def test_kmalloc_and_kfree() -> None:
    """A free belongs to the CPU that did it and names the object of its allocation."""
    plan = plan_trace([alloc(4, 0xA0, None, 1), alloc(4, 0xB0, None, 2), free(7, 0xA0, None, 3)])
    assert plan.cpus == (4, 7)
    assert plan.steps[4] == (
        KmallocStep(0, 100, GFP_KERNEL, -1, 128, 1),
        KmallocStep(1, 100, GFP_KERNEL, -1, 128, 2),
    )
    assert plan.steps[7] == (ObjectFreeStep(0, KMALLOC, 3, 4, True, False),)
    assert (plan.slab.kmallocs, plan.slab.kfrees, plan.slab.caches) == (2, 1, ())
    assert plan.slab.live_at_end == ((1, KMALLOC),)
    assert plan.slab.cross_objects == b"\1\0"
    assert (plan.slab.peak_live_objects, plan.cross_cpu_frees, plan.planned_events) == (2, 1, 3)


def test_objects_of_caches() -> None:
    """Objects go back to their cache; kfree frees those of any cache as well."""
    plan = plan_trace(
        [
            alloc(0, 0xA0, "filp", 1),
            alloc(0, 0xB0, "pid", 2),
            free(0, 0xA0, "filp", 3),
            free(0, 0xB0, None, 4),
            alloc(0, 0xA0, "filp", 5),
        ]
    )
    assert plan.slab.caches == (
        PlannedCache("filp", 184, (192,), 2, 1),
        PlannedCache("pid", 184, (192,), 1, 1),
    )
    assert frees(plan) == [(3, 0, 0, False, False), (4, 1, KMALLOC, False, False)]
    assert plan.slab.live_at_end == ((2, 0),)
    assert plan.slab.kfrees == 0


def test_what_gives_no_step() -> None:
    """Every event without a step is counted with its reason, and so is the free that belongs to it."""
    plan = plan_trace(
        [
            free(0, 0xA0, None, 1),
            free(0, 0xA0, "filp", 2),
            free(0, 0, None, 3),
            free(0, None, None, 4),
            alloc(0, None, "filp", 5),
            alloc(0, 0, "filp", 6),
            alloc(0, 0xB0, None, 7, size=MAX_SIZE),
            free(0, 0xB0, None, 8),
            free(0, 0xB0, None, 9),
        ]
    )
    assert plan.steps == {0: ()}
    assert plan.skipped == {
        reasons.BEFORE_TRACE: 1,
        reasons.FREED_AGAIN: 2,
        reasons.NULL: 1,
        reasons.HIDDEN: 2,
        reasons.FAILED: 1,
        reasons.UNUSUAL_SIZE: 1,
        reasons.NOT_REPLAYED: 1,
    }


def test_an_address_is_allocated_again() -> None:
    """What is allocated while it is live was freed unseen, just before, whatever it is then."""
    plan = plan_trace(
        [
            alloc(0, 0xA0, "filp", 1),
            alloc(1, 0xA0, "filp", 2),
            alloc(1, 0xA0, None, 3, size=MAX_SIZE),
            alloc(1, 0xA0, None, 4),
            free(1, 0xA0, None, 5),
        ]
    )
    assert frees(plan) == [
        (2, 0, 0, True, True),
        (3, 1, 0, False, True),
        (5, 2, KMALLOC, False, False),
    ]
    assert (plan.implied_frees, plan.slab.caches[0].frees) == (2, 2)
    assert [type(step) for step in plan.steps[1]] == [
        ObjectFreeStep, CacheAllocStep, ObjectFreeStep, KmallocStep, ObjectFreeStep
    ]  # fmt: skip


def test_an_address_is_freed_as_another_cache() -> None:
    """Then the object known of was freed unseen, and the allocation of the other one too."""
    plan = plan_trace([alloc(0, 0xA0, "filp", 1), free(1, 0xA0, "pid", 2)])
    assert frees(plan) == [(2, 0, 0, True, True)]
    assert plan.skipped == {reasons.FREED_AGAIN: 1}
    plan = plan_trace([alloc(0, 0xA0, None, 1), free(0, 0xA0, "pid", 2)])
    assert frees(plan) == [(2, 0, KMALLOC, False, True)]
    plan = plan_trace([alloc(0, 0xA0, None, 1), free(0, 0xA0, "kmalloc-128", 2)])
    assert frees(plan) == [(2, 0, KMALLOC, False, False)]


def test_caches_are_named_by_frees() -> None:
    """Where allocations do not name the cache, frees do; what neither names is told by its sizes."""
    plan = plan_trace(
        [
            alloc(0, 0xA0, "", 1),
            alloc(0, 0xB0, "", 2),
            alloc(0, 0xC0, "", 3),
            free(1, 0xA0, "pid", 4),
            free(1, 0xB0, "", 5),
            free(1, 0xC0, "tmp", 6),
        ]
    )
    assert plan.slab.caches == (
        PlannedCache("", 100, (128,), 1, 1),
        PlannedCache("pid", 100, (128,), 1, 1),
        PlannedCache("tmp", 100, (128,), 1, 1),
    )
    assert [step.cache for step in plan.steps[0] if isinstance(step, CacheAllocStep)] == [1, 0, 2]
    assert [cache for _, _, cache, _, _ in frees(plan)] == [1, 0, 2]


def test_a_cache_that_grows() -> None:
    """A merge may enlarge what a cache calls its objects' size; two distances of objects are shown."""
    events = [
        alloc(0, 0xA0, "pid", 1),
        SlabAlloc(0, 0xB0, "pid", 190, 192, 0, -1, "f", 2, "kmem_cache_alloc"),
    ]
    assert plan_trace(events).slab.caches == (PlannedCache("pid", 190, (192,), 2, 0),)
    events.append(alloc(0, 0xC0, "pid", 3, size=256))
    assert plan_trace(events).slab.caches == (PlannedCache("pid", 256, (192, 256), 3, 0),)


@st.composite
def slab_events(draw: st.DrawFn) -> list[KmemEvent]:
    """Events of a few addresses, caches and CPUs, with no regard for sense."""
    events: list[KmemEvent] = []
    for line in range(1, draw(st.integers(1, 40)) + 1):
        cpu = draw(st.sampled_from([0, 1, 5]))
        ptr = draw(st.sampled_from([0, None, *range(0xA0, 0xA6), *range(0xA0, 0xA6)]))
        name = draw(st.sampled_from([None, "filp", "pid", "dentry"]))
        make = draw(st.sampled_from([alloc, free]))
        events.append(make(cpu, ptr, name, line))
    return events


@settings(derandomize=True, deadline=None, max_examples=150)
@given(slab_events())
def test_plan_agrees_with_a_dictionary(events: list[KmemEvent]) -> None:
    """Steps, skips and what is live at the end are those of a model of one dictionary."""
    plan = plan_trace(events)
    live: dict[int, tuple[int, str | None]] = {}  # address -> line of its allocation, cache
    expected: list[tuple[str, int, int]] = []  # what, line, line of the allocation
    skipped = 0
    for event in events:
        name = event.cache if event.event.startswith("kmem_cache") else None
        if not event.ptr:
            skipped += 1
        elif isinstance(event, SlabAlloc):
            if event.ptr in live:
                expected.append(("implied", event.line, live[event.ptr][0]))
            live[event.ptr] = (event.line, name)
            expected.append(("alloc", event.line, event.line))
        else:
            line, cache = live.pop(event.ptr, (0, None))
            right = name is None or name == cache
            skipped += not line or not right
            if line:
                expected.append(("free" if right else "implied", event.line, line))
    line_of: dict[int, int] = {}
    cpu_of: dict[int, int] = {}
    found = []
    for cpu, step in all_steps(plan):
        if isinstance(step, ObjectFreeStep):
            found.append(("implied" if step.implied else "free", step.line, line_of[step.obj]))
            assert step.cross_cpu == (cpu != cpu_of[step.obj])
            assert step.alloc_cpu == cpu_of[step.obj]
            assert plan.slab.cross_objects[step.obj] == step.cross_cpu
        else:
            assert isinstance(step, CacheAllocStep | KmallocStep)
            line_of[step.obj], cpu_of[step.obj] = step.line, cpu
            found.append(("alloc", step.line, step.line))
    assert found == expected
    assert sum(plan.skipped.values()) == skipped == len(events) - plan.planned_events
    assert Counter(line_of[obj] for obj, _ in plan.slab.live_at_end) == Counter(
        line for line, _ in live.values()
    )
    for steps in plan.steps.values():
        assert all(a.line <= b.line for a, b in pairwise(steps))
