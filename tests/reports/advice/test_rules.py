"""Each rule speaks of runs in which it should, with the numbers, and of no others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import concmem.reports.advice as package
from concmem.reports.advice import LEVELS, NOTE, PROBLEM, RULES, Advice, advise
from concmem.reports.advice.bad_accesses import bad_accesses
from concmem.reports.advice.cpu_hit_rate import cpu_hit_rate
from concmem.reports.advice.failed_allocations import failed_allocations
from concmem.reports.advice.fallback_order import fallback_order
from concmem.reports.advice.fragmentation import fragmentation
from concmem.reports.advice.leaks import leaks
from concmem.reports.advice.lock_contention import lock_contention
from concmem.reports.advice.mempool_starvation import mempool_starvation
from concmem.reports.advice.merge_caches import merge_caches
from concmem.reports.advice.mixed_pageblocks import mixed_pageblocks
from concmem.reports.advice.object_padding import object_padding
from concmem.reports.advice.pageset_misses import pageset_misses
from concmem.reports.advice.paths_never_taken import paths_never_taken
from concmem.reports.advice.remote_frees import remote_frees
from concmem.reports.advice.sparse_slabs import sparse_slabs
from concmem.reports.advice.uneven_cpus import uneven_cpus
from concmem.reports.flows import FLOWS
from concmem.reports.run import Run
from concmem.reports.run.rows import BadAccess, Leak, MixedBlocks, Timeline, TimesRow

from ..runs import make_activity, make_cache, make_cpu, make_lock, make_run, make_sample


def everything_taken() -> dict[str, int]:
    """Totals that prove every arrow: what is subtracted somewhere happened least."""
    terms = [term for flow in FLOWS.values() for edge in flow.edges for term in edge.terms()]
    subtracted = {name for sign, name in terms if sign < 0}
    return {name: 1 if name in subtracted else 100 for _, name in terms}


def said(advice: Advice | None, *words: str) -> None:
    """Advice was given, and has all these *words* in its finding and evidence."""
    assert advice is not None
    text = "\n".join((advice.finding, *advice.evidence))
    for word in words:
        assert word in text, text
    assert advice.action


def test_a_quiet_run_gets_no_advice() -> None:
    """No rule speaks for nothing."""
    assert advise(make_run()) == ()


def test_every_rule_is_asked() -> None:
    """Each module of the package that is a rule is in the list, under its name."""
    modules = {path.stem for path in Path(package.__file__ or "").parent.glob("*.py")}
    assert {rule.__name__ for rule in RULES} == modules - {"__init__", "advice"}
    for rule in RULES:
        assert rule.__module__.rpartition(".")[2] == rule.__name__


def test_problems_come_first() -> None:
    """Then advice, then notes; each names its rule."""
    run = make_run(
        leaks=(Leak(1, 8),),
        slabs=(make_activity(free_fastpath=10, free_slowpath=9990),),
        cpus=(make_cpu(0), make_cpu(1, operations=10)),
    )
    found = advise(run)
    assert [advice.rule for advice in found] == ["leaks", "remote_frees", "uneven_cpus"]
    assert [advice.level for advice in found] == list(LEVELS)


def test_bad_accesses() -> None:
    """One report is enough."""
    reports = [BadAccess("a", "Poison overwritten", 0x40, "BUG a: ...")] * 2
    said(
        bad_accesses(make_run(bad_accesses=tuple(reports))),
        "2 illegal accesses to memory, most in a",
        "a: Poison overwritten, 2 reports, first at 0x40",
    )
    assert bad_accesses(make_run(bad_accesses=())) is None
    assert bad_accesses(make_run(bad_accesses=None)) is None


def test_leaks() -> None:
    """One object is enough; the place that leaks most is named."""
    found = (Leak(1, 100, 0, 5, ("open",)), Leak(2, 2000, 0, 7, ("map", "main")))
    advice = leaks(make_run(leaks=found))
    said(advice, "2 objects of 2.1 KiB leaked, most of it from map", "open: 1 object, 100 B")
    assert advice is not None
    assert advice.level == PROBLEM
    assert leaks(make_run(leaks=())) is None
    assert leaks(make_run(leaks=None)) is None


POOLS = {"mempool_create": 1, "mempool_alloc_reserved": 50, "mempool_alloc_allocator": 950}


def test_mempool_starvation() -> None:
    """Who got nothing, or had to wait often; a wait now and then is what a pool is for."""
    run = make_run(events={**POOLS, "mempool_alloc_failed": 1, "mempool_prealloc_short": 1})
    said(mempool_starvation(run), "1 of 1,001 allocations (0.1%)", "1 of 1 pools began with less")
    said(
        mempool_starvation(make_run(events={**POOLS, "mempool_alloc_waited": 11})),
        "11 times somebody slept",
        "5.0% of the elements came from a reserve",
    )
    assert mempool_starvation(make_run(events={**POOLS, "mempool_alloc_waited": 10})) is None
    assert mempool_starvation(make_run(events={"mempool_create": 1})) is None


def test_remote_frees() -> None:
    """More than half of them, of a cache that is busy; with its hit rate."""
    busy = make_activity(
        free_fastpath=390, free_slowpath=610, alloc_fastpath=340, alloc_slowpath=660
    )
    locks = (make_lock("&n->list_lock", contentions=77),)
    said(
        remote_frees(make_run(slabs=(busy,), locks=locks)),
        "cache request: 61.0% of frees are remote",
        "request: 61.0% of 1,000 frees are remote, per-CPU hit rate of allocations 34.0%",
        "&n->list_lock was waited for 77 times",
    )
    half = make_activity(free_fastpath=5000, free_slowpath=5000)
    assert remote_frees(make_run(slabs=(half,))) is None
    idle = make_activity(free_fastpath=9, free_slowpath=990)
    assert remote_frees(make_run(slabs=(idle,))) is None


def test_cpu_hit_rate() -> None:
    """Fewer than half."""
    missing = make_activity(alloc_fastpath=499, alloc_slowpath=501)
    said(
        cpu_hit_rate(make_run(slabs=(missing,))),
        "cache request: only 49.9% of allocations",
        "100 new slabs, 64 objects to a slab",
    )
    half = make_activity(alloc_fastpath=500, alloc_slowpath=500)
    assert cpu_hit_rate(make_run(slabs=(half,))) is None
    idle = make_activity(alloc_fastpath=0, alloc_slowpath=999)
    assert cpu_hit_rate(make_run(slabs=(idle,))) is None


def test_object_padding() -> None:
    """A fifth of each slab; few slabs do not matter."""
    wide = make_cache(object_size=72, size=128, objs_per_slab=32, slabs=8)
    said(
        object_padding(make_run(caches=(wide,))),
        "cache request: 43.8% of each full slab is of no use",
        "32 objects of 72 bytes, 128 apart, in 4.0 KiB; 14.0 KiB lost in 8 slabs",
    )
    assert object_padding(make_run(caches=(wide._replace(slabs=7),))) is None
    assert object_padding(make_run(caches=(make_cache(slabs=100),))) is None


def test_sparse_slabs() -> None:
    """Many slabs, of which fewer than half of the objects are in use."""
    sparse = make_cache(slabs=32, in_use=1023, partial=30, empty=1, cpu_partial=1)
    said(
        sparse_slabs(make_run(caches=(sparse,))),
        "cache request: only 50.0% of the objects",
        "1,023 of 2,048 objects in 32 slabs, 64.1 KiB free; 30 slabs partial, 1 empty, 1 on CPU lists",
    )
    assert sparse_slabs(make_run(caches=(sparse._replace(in_use=1024),))) is None
    assert sparse_slabs(make_run(caches=(make_cache(slabs=31, in_use=0),))) is None


def test_merge_caches() -> None:
    """Where it saves something, with what keeps them apart."""
    alike = {"merge_key": "k", "slabs": 10, "in_use": 64}
    pair = (make_cache("a", **alike, kept_apart="a constructor"), make_cache("b", **alike))
    said(
        merge_caches(make_run(caches=pair)),
        "2 caches of like objects could share slabs: a, b",
        "20 slabs, all objects would fit 2; 72.0 KiB less",
        "kept apart by a constructor",
    )
    apart = tuple(cache._replace(kept_apart="") for cache in pair)
    said(merge_caches(make_run(caches=apart)), "kept apart by slab_merge=False")
    small = tuple(cache._replace(slabs=5) for cache in pair)
    assert merge_caches(make_run(caches=small)) is None


def test_fallback_order() -> None:
    """More than a tenth of its slabs."""
    row = make_activity(order_fallback=11)
    said(
        fallback_order(make_run(slabs=(row,), caches=(make_cache(order=3),))),
        "cache request: 11.0% of its new slabs",
        "11 of 100 slabs, usual order 3",
    )
    assert fallback_order(make_run(slabs=(row._replace(order_fallback=10),))) is None
    few = row._replace(slabs_allocated=19, order_fallback=19)
    assert fallback_order(make_run(slabs=(few,))) is None


def samples_with(scattered: int) -> Timeline:
    """20 samples, in so many of which 64 pages are free, but no two together."""
    blocks: Sequence[tuple[int, ...]] = ((64,) + (0,) * 10,)
    samples = tuple(
        make_sample(n, blocks=blocks) if n < scattered else make_sample(n) for n in range(20)
    )
    return Timeline(make_run().timeline.zones, samples)


def test_fragmentation() -> None:
    """In more than a tenth of the samples; the lowest of the orders that were refused most."""
    said(
        fragmentation(make_run(timeline=samples_with(3))),
        "node 0 DMA32: order 1 could not be had in 15.0% of the samples",
        "15.0% of free pages of no use to it on average",
    )
    assert fragmentation(make_run(timeline=samples_with(2))) is None
    assert fragmentation(make_run(busiest=None)) is None


def test_mixed_pageblocks() -> None:
    """More than a quarter of a zone's."""
    rows = (MixedBlocks(0, "DMA", 8, 0, 1.0), MixedBlocks(1, "Normal", 40, 11, 2.5))
    said(
        mixed_pageblocks(make_run(mixed=rows)),
        "node 1 Normal: 27.5% of the page blocks",
        "11 of 40 page blocks at 2.5 s",
    )
    assert mixed_pageblocks(make_run(mixed=(rows[1]._replace(mixed=10),))) is None
    assert mixed_pageblocks(make_run(mixed=())) is None


def test_lock_contention() -> None:
    """A fiftieth of all CPUs' time, and not by one long wait; advice that knows the lock."""
    lock = make_lock(contentions=500, acquisitions=1000, wait=TimesRow(500, 1, 10, 2_000_000_000))
    advice = lock_contention(make_run(locks=(lock,)))
    said(
        advice,
        "&zone->lock: CPUs spent 10.0% of their time waiting for it",
        "50.0% of 1,000 acquisitions waited, 2,000.00 ms in all, mostly in rmqueue while free held it",
    )
    assert advice is not None
    assert "page sets" in advice.action
    other = lock_contention(make_run(locks=(lock._replace(name="mine"),)))
    assert other is not None
    assert "page sets" not in other.action
    short = lock._replace(wait=TimesRow(500, 1, 10, 400_000_000))
    assert lock_contention(make_run(locks=(short,))) is None
    rare = lock._replace(contentions=99)
    assert lock_contention(make_run(locks=(rare,))) is None


def test_failed_allocations() -> None:
    """More than a hundredth of the operations."""
    cpus = (make_cpu(0, failed=201), make_cpu(1))
    events = {"page_alloc_failed": 150, "allocstall_dma32": 30, "allocstall_normal": 12}
    said(
        failed_allocations(make_run(cpus=cpus, events=events)),
        "1.0% of the operations failed for lack of memory",
        "150 times the page allocator had no pages",
        "42 allocations reclaimed pages themselves",
        "at 4.0 s (local) only 32.0 MiB of 64.0 MiB were free",
    )
    said(failed_allocations(make_run(cpus=cpus, busiest=None)), "201 allocations failed")
    assert failed_allocations(make_run(cpus=(make_cpu(0, failed=200), make_cpu(1)))) is None


def test_pageset_misses() -> None:
    """A batch for every fifth block of pages; drains do not count."""
    totals = {"pcp.refill": 3000, "pcp.flush": 1101, "pcp.drain": 100}
    said(
        pageset_misses(make_run(event_totals=totals)),
        "page sets went to the buddy system for 20.0% of the pages",
        "3,000 refills and 1,101 flushes (100 of them by drains) for 20,000 blocks",
    )
    assert pageset_misses(make_run(event_totals={**totals, "pcp.drain": 101})) is None
    idle = tuple(make_cpu(cpu, allocated=249, freed=249) for cpu in (0, 1))
    assert pageset_misses(make_run(event_totals=totals, cpus=idle)) is None


def test_uneven_cpus() -> None:
    """Less than half of the mean; one CPU is never uneven."""
    cpus = (make_cpu(0, operations=9000), make_cpu(1, operations=2999))
    advice = uneven_cpus(make_run(cpus=cpus, operations=11_999))
    said(advice, "cpu1 did only 50.0%", "cpu1: 2,999 operations, cpu0: 9,000, mean 6,000")
    assert advice is not None
    assert advice.level == NOTE
    assert uneven_cpus(make_run(cpus=(cpus[0], make_cpu(1, operations=3000)))) is None
    assert uneven_cpus(make_run(cpus=cpus[:1])) is None


def test_paths_never_taken() -> None:
    """Arrows that could have been taken; debugging is not asked for."""
    totals = everything_taken()
    assert paths_never_taken(make_run(event_totals=totals)) is None
    del totals["vmalloc_map"]
    run = replace(make_run(), event_totals=totals)
    said(paths_never_taken(run), "2 arrows of the flowcharts", "allocation: O->Z Z->AA")
    said(paths_never_taken(make_run(event_totals={"pgfault": 0})), "arrows of the", "and ", " more")
    assert paths_never_taken(make_run(event_totals={})) is None


def check_all(run: Run) -> None:
    for rule in RULES:
        rule(run)


@pytest.mark.parametrize(
    "part", ["cpus", "phases", "locks", "slabs", "caches", "mixed", "timeline", "busiest", "leaks"]
)
def test_rules_live_with_what_is_missing(part: str) -> None:
    """A part that the file has not is nothing to speak of, and never an error."""
    empty = {"timeline": Timeline(), "busiest": None, "leaks": None}
    check_all(make_run(**{part: empty.get(part, ())}))
    check_all(make_run(operations=0, seconds=0.0, cpus=(), event_totals={}))


def test_the_reference_has_every_rule_with_its_level() -> None:
    """docs/reference/reports.md, one row each."""
    page = Path(__file__).parents[3] / "docs" / "reference" / "reports.md"
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", page.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == [rule.__name__ for rule in RULES]
    sources = {rule.__name__: Path(inspect.getfile(rule)).read_text() for rule in RULES}
    for name, level in rows:
        assert f"        {level.upper()},\n" in sources[name], name
