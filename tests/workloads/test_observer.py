"""Looks at a run while it is on: samples, peaks, and what happens when a look cannot be finished."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from concmem import Machine
from concmem.mm.gfp import GFP_KERNEL
from concmem.workloads import Phase, Scenario, run_stress
from concmem.workloads.observer import Observer
from concmem.workloads.peaks import MixedLog, PeakLog
from concmem.workloads.progress import Progress
from concmem.workloads.sampler import MAX_SAMPLES, SAMPLE_EVERY, Sampler
from concmem.workloads.worker import Worker

pytestmark = pytest.mark.timeout(60)


def make_sampler(m: Machine) -> Sampler:
    workers = [Worker(m, cpu, Progress()) for cpu in range(m.runtime.nr_cpus)]
    return Sampler(m, workers, lambda: "phase")


def test_a_sample_is_what_the_machine_is() -> None:
    """Compared with the machine's own statistics, at rest."""
    with Machine(cpus=2, memory="32M", lockstat=True) as m:
        m.run([lambda: [m.kmalloc(100) for _ in range(300)]] * 2)
        workers = [Worker(m, cpu, Progress()) for cpu in range(2)]
        workers[1].progress.operations = 7
        workers[0].progress.freed, workers[1].progress.objects_freed = 3, 4
        workers[1].progress.objects_cross_cpu = 2
        sampler = Sampler(m, workers, lambda: "phase")
        sampler.look(1.23456)
        timeline = sampler.timeline()
        stats = m.statistics()
    (sample,) = timeline.samples
    zones = [zone for node in stats.nodes for zone in node.zones if zone.present]
    assert [str(zone) for zone in timeline.zones] == [f"node {z.node} {z.name}" for z in zones]
    assert sample.blocks == tuple(zone.nr_free for zone in zones)
    assert sample.cached == sum(pageset.count for zone in zones for pageset in zone.pagesets)
    assert sample.slab == sum(
        node.nr_slab_reclaimable + node.nr_slab_unreclaimable for node in stats.nodes
    )
    assert sample.waits == {
        lock.name: (lock.contentions, lock.wait.total) for lock in stats.locks if lock.contentions
    }
    assert (sample.seconds, sample.phase) == (1.235, "phase")
    assert (sample.operations, sample.freed, sample.cross_cpu) == ((0, 7), 7, 2)


def test_samples_are_thinned_out() -> None:
    """There are never many more than the limit, from the first to the last, and evenly spaced."""
    with Machine(cpus=1, memory="16M") as m:
        sampler = make_sampler(m)
        seconds = 0.0
        for _ in range(3 * MAX_SAMPLES):
            sampler.look(seconds)
            seconds += sampler.every
            assert len(sampler.timeline().samples) <= MAX_SAMPLES
    times = [sample.seconds for sample in sampler.timeline().samples]
    # Once when there were too many, then after each further half of the limit.
    assert sampler.every == SAMPLE_EVERY * 2**4
    assert times[0] == 0
    assert times[-1] > seconds - 2 * sampler.every
    steps = {later - earlier for earlier, later in pairwise(times)}
    assert steps <= {sampler.every, sampler.every / 2}


def test_peaks_of_caches() -> None:
    """Each at its largest, with when it was first and last seen; those of one page before smaller."""
    with Machine(cpus=1, memory="32M") as m:
        cache = m.kmem_cache_create("a", 512, ctor=lambda address: None)
        peaks = PeakLog(m)
        peaks.look(1.0, "")
        objects = m.run([lambda: [cache.alloc() for _ in range(64)]])[0] or []
        peaks.look(2.0, "fill")
        m.run([lambda: [cache.free(address) for address in objects if address]])
        m.run([cache.shrink])
        m.run([cache.alloc])
        peaks.look(3.0, "again")
        m.run([cache.alloc])
        peaks.look(4.0, "again")
    (peak,) = [peak for peak in peaks.caches() if peak.name == "a"]
    assert (peak.seconds, peak.first_seen, peak.last_seen) == (2.0, 2.0, 4.0)
    assert peak.slabs * peak.objs_per_slab == peak.objects >= 64
    assert peak.kept_apart == "a constructor"
    sizes = [peak.slabs << peak.order for peak in peaks.caches()]
    assert sizes == sorted(sizes, reverse=True)


def test_the_fullest_moment() -> None:
    """The look at which least was free, with its files; reading them is counted."""
    with Machine(cpus=1, memory="32M") as m:
        peaks = PeakLog(m)
        peaks.look(1.0, "empty")
        pages = m.run([lambda: [m.alloc_pages(3, GFP_KERNEL) for _ in range(50)]])[0] or []
        peaks.look(2.0, "full")
        free = sum(a.nr_free << o for zone in m.zones for o, a in enumerate(zone.free_area))
        text = m.procfs.read("buddyinfo")
        m.run([lambda: [m.free_pages(page, 3) for page in pages if page]])
        peaks.look(3.0, "empty again")
        assert m.procfs.nr_reads["meminfo"] == 2
    assert peaks.busiest is not None
    assert (peaks.busiest.seconds, peaks.busiest.phase) == (2.0, "full")
    assert sum(zone.free for zone in peaks.busiest.zones) == free
    assert peaks.busiest.buddyinfo == text
    assert peaks.busiest.meminfo.startswith("MemTotal: ")


def test_processes_at_their_largest() -> None:
    """By what they have in memory, and by their smaps."""
    with Machine(cpus=1, memory="32M") as m:
        peaks = PeakLog(m)
        peaks.look(1.0, "none")
        assert peaks.processes is None
        small, large = m.process("small"), m.process("large")

        def touch() -> None:
            for process, pages in ((small, 2), (large, 5)):
                address = process.mmap(16 * 4096)
                assert address is not None
                for number in range(pages):
                    process.write_u64(address + 4096 * number, 1)

        m.run([touch])
        peaks.look(2.0, "some")
        m.run([small.exit])
        peaks.look(3.0, "fewer")
        m.run([large.exit])
    assert peaks.processes is not None
    assert (peaks.processes.seconds, peaks.processes.nr_processes) == (2.0, 2)
    assert [(p.name, p.rss, p.private) for p in peaks.processes.processes] == [
        ("large", 20, 20),
        ("small", 8, 8),
    ]
    assert m.procfs.nr_reads["smaps"] == 2


def test_mixed_blocks_of_each_zone() -> None:
    """The most that were seen at once, with all zones that have pages."""
    with Machine(cpus=1, memory="32M", pagesets=False) as m:
        log = MixedLog(m)
        log.look(1.0)
        (page,) = m.run([lambda: m.alloc_pages(0, GFP_KERNEL)])
        assert page is not None
        m.mem_map.pageblock_types[page.pfn >> 9] = 1
        log.look(2.0)
        m.mem_map.pageblock_types[page.pfn >> 9] = page.migratetype
        log.look(3.0)
    rows = {(row.node, row.name): row for row in log.result()}
    assert {name for _, name in rows} == {zone.name for zone in m.zones if zone.present_pages}
    row = rows[page.zone.zone_pgdat.node_id, page.zone.name]
    assert (row.mixed, row.seconds) == (1, 2.0)
    assert sum(row.mixed for row in rows.values()) == 1


def test_a_look_that_fails_ends_the_looking_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result says so, and has the looks before."""
    look = Sampler.look

    def fail_later(self: Sampler, seconds: float) -> None:
        if seconds:
            raise LookupError("nothing there")
        look(self, seconds)

    monkeypatch.setattr(Sampler, "look", fail_later)
    plan = Scenario((Phase("local"),), cpus=1, memory="16M", ops=100, runtime="free")
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    assert result.clean
    assert result.timeline.error == "LookupError: nothing there"
    assert len(result.timeline.samples) == 1


def test_a_look_that_hangs_does_not_hang_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that hangs itself: it is left behind, and the result says so."""
    release, entered = threading.Event(), threading.Event()

    def hang(self: PeakLog, *arguments: Any) -> None:
        entered.set()
        release.wait(60)

    monkeypatch.setattr(PeakLog, "look", hang)
    monkeypatch.setattr("concmem.workloads.sampler.SAMPLE_EVERY", 0.001)
    monkeypatch.setattr("concmem.workloads.observer.STOP_SECONDS", 0.01)
    with Machine(cpus=1, memory="16M") as m:
        observer = Observer(make_sampler(m), PeakLog(m))
        observer.start()
        assert entered.wait(30)
        observer.stop()
        assert observer.error == "the last look at the machine did not come to its end"
        release.set()
        observer.join(30)


def test_a_run_of_many_looks_sees_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches, processes and the fullest moment of a real run, at a rate that misses none of them."""
    monkeypatch.setattr("concmem.workloads.sampler.SAMPLE_EVERY", 0.005)
    monkeypatch.setattr("concmem.workloads.observer.SHARE", 1)
    plan = Scenario(
        (Phase("slab-churn"), Phase("processes")), cpus=2, memory="32M", ops=8000, runtime="free"
    )
    with plan.boot() as machine:
        result = run_stress(machine, plan)
    assert result.errors == []
    assert any(peak.name.startswith("stress-churn") for peak in result.caches)
    assert result.processes is not None
    assert result.processes.phase in ("processes", "verify")
    assert result.busiest is not None
    assert {sample.phase for sample in result.timeline.samples} >= {"slab-churn", "processes"}
    operations = [sum(sample.operations) for sample in result.timeline.samples]
    assert operations == sorted(operations)
