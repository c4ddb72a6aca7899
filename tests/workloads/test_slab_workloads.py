"""Slab and vmalloc workloads: they reach what they are for, and find mistakes that are planted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest

from concmem import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import Page
from concmem.mm.page_table import PageTable
from concmem.mm.rcu import Rcu
from concmem.mm.slab_page import SlabPages
from concmem.workloads import (
    ObjectOwnershipError,
    Phase,
    Progress,
    Scenario,
    StressResult,
    Worker,
    find_scenarios,
    load_scenario,
    run_stress,
)
from concmem.workloads.slab_rcu import PublishedObjects
from concmem.workloads.slab_sources import make_rcu_cache

pytestmark = pytest.mark.timeout(60)

SLAB = ("slab-churn", "slab-producer-consumer", "slab-bulk", "slab-storm", "slab-numa")


def run(
    name: str,
    classes: dict[type, type] | None = None,
    options: dict[str, int] | None = None,
    **values: Any,
) -> StressResult:
    known: dict[str, Any] = {"cpus": 2, "memory": "16M", "ops": 600, "runtime": "free"}
    scenario = Scenario((Phase(name, 1.0, options or {}),), **{**known, **values})
    with scenario.boot(classes=classes) as machine:
        return run_stress(machine, scenario, progress_every=0.02)


# -- what they reach


@pytest.mark.parametrize("name", [*SLAB, "vmalloc-churn"])
def test_objects_are_counted(name: str) -> None:
    """What was allocated was freed, by the counts of the owners and those of the caches."""
    result = run(name)
    assert result.errors == []
    assert result.objects_allocated == result.objects_freed > 0
    vmalloc = result.vmalloc
    assert vmalloc.areas_allocated == vmalloc.areas_freed
    assert (vmalloc.areas_allocated > 0) == (name == "vmalloc-churn")
    assert vmalloc.nr_vmalloc_pages == 0
    for slab in result.slabs:
        assert 0 <= slab.alloc_hit_rate <= 1
        assert slab.operations > 0
    if (
        name == "slab-producer-consumer"
    ):  # where nothing is freed in bulk, and no cache comes and goes
        mine = [slab for slab in result.slabs if slab.name.startswith("stress-pipe")]
        assert len(mine) == 6
        for slab in mine:
            allocated = slab.alloc_fastpath + slab.alloc_slowpath
            assert allocated == slab.free_fastpath + slab.free_slowpath


def test_producers_objects_are_freed_by_consumers() -> None:
    """Every free is a cross-CPU one, and remote to its cache."""
    result = run("slab-producer-consumer", options={"kmalloc": 0})
    assert result.cross_cpu_object_frees == result.objects_freed == 600
    assert sum(slab.free_slowpath for slab in result.slabs) == 600


def test_numa_frees_on_other_nodes() -> None:
    """On two nodes, on one, and on a single CPU, which has nobody else."""
    for cpus, nodes in ((4, 2), (3, 1), (1, 1)):
        result = run("slab-numa", cpus=cpus, nodes=nodes, options={"remote": 100})
        assert result.clean, result.errors
        assert (result.cross_cpu_object_frees > 0) == (cpus > 1)


def test_a_cpu_without_a_node_of_its_own() -> None:
    """More nodes than CPUs."""
    assert run("slab-numa", cpus=2, nodes=4, memory="64M").clean


@pytest.mark.parametrize("name", ["slab-storm", "vmalloc-churn"])
def test_interrupts_arrive(name: str) -> None:
    """Handlers free what others have allocated."""
    result = run(name, cpus=4, ops=400)
    assert sum(cpu.interrupts for cpu in result.cpus) > 20
    assert result.cross_cpu_object_frees > 0


def test_every_storm_is_reached() -> None:
    """Shrinks free slabs, and short-lived caches leave nothing behind."""
    scenario = Scenario((Phase("slab-storm", 1.0, {"every": 2}),), cpus=2, memory="16M", ops=800)
    with scenario.boot() as machine:
        before = {cache.name for cache in machine.slab.caches()}
        result = run_stress(machine, scenario)
        assert result.clean, result.errors
        assert {cache.name for cache in machine.slab.caches()} == before
    assert sum(slab.slabs_freed for slab in result.slabs) > 0


@pytest.mark.parametrize("name", SLAB)
@pytest.mark.parametrize("options", [{"freelist_random": True, "freelist_hardened": True}])
def test_on_a_machine_with_other_free_lists(name: str, options: dict[str, bool]) -> None:
    """Random and hardened ones, and without merging."""
    scenario = Scenario((Phase(name),), cpus=3, memory="16M", ops=300, runtime="jitter")
    with scenario.boot(slab_merge=False, **options) as machine:
        result = run_stress(machine, scenario)
    assert result.errors == []


@pytest.mark.parametrize(
    ("name", "ops", "options"),
    [
        ("slab-churn", 3000, {"held": 2000, "large": 50}),
        ("slab-bulk", 100_000, {"bulk": 5000, "waiting": 10}),
        ("vmalloc-churn", 500, {"max_pages": 1000}),
    ],
)
def test_little_memory_is_no_error(name: str, ops: int, options: dict[str, int]) -> None:
    """Allocations fail, and everything else goes on. On one CPU, where only the seed decides."""
    result = run(name, cpus=1, memory="2M", ops=ops, options=options, verify_every=0.2)
    assert result.errors == []
    assert result.failed > 0


@pytest.mark.parametrize("name", sorted(find_scenarios()))
def test_every_scenario_of_the_package_runs_clean(name: str) -> None:
    """Its machine, its phases, a few operations."""
    scenario = load_scenario(name).changed(ops=600, cpus=4)
    with scenario.boot(lockstat=False) as machine:
        result = run_stress(machine, scenario)
    assert result.errors == []
    assert result.verdict == "clean"
    assert len(result.phases) == len(scenario.phases)
    assert result.memory.allocated == 0


# -- what they find


class GivesObjectsTwice(KmemCache):
    """`alloc` returns, now and then, the object that it returned last, if that is not free yet."""

    last: int | None = None

    def _make_parts(self) -> dict[str, Any]:
        parts = super()._make_parts()
        alloc, free = self._gives_twice(parts["alloc"]), self._forgets(parts["free"])
        return {**parts, "alloc": alloc, "free": free}

    def _gives_twice(self, correct: Any) -> Any:
        calls = count(1)

        def alloc(*args: Any) -> int | None:
            if next(calls) % 9 or self.last is None:
                self.last = correct(*args)
            return self.last

        return alloc

    def _forgets(self, correct: Any) -> Any:
        def free(address: int) -> None:
            if address == self.last:
                self.last = None
            correct(address)

        return free


@pytest.mark.parametrize(
    "name", ["slab-churn", "slab-producer-consumer", "slab-storm", "slab-numa"]
)
def test_an_object_with_two_owners_is_found(name: str) -> None:
    """On one CPU the first owner finds what the second has written, or the allocator's free pointer."""
    result = run(name, {KmemCache: GivesObjectsTwice}, cpus=1)
    assert result.verdict == "broken"
    assert result.errors[0].type == "ObjectOwnershipError"
    message = result.errors[0].message
    assert "has two owners: cpu0's object" in message or "is not as the constructor" in message
    assert result.errors[0].where.startswith("workloads/")


@pytest.mark.parametrize("name", ["slab-churn", "slab-producer-consumer"])
def test_an_object_with_owners_on_two_cpus_is_found(name: str) -> None:
    """Which rule breaks first is up to the host, but one does, and the run ends."""
    result = run(name, {KmemCache: GivesObjectsTwice}, cpus=4, ops=None, seconds=1000.0)
    rules = {"ObjectOwnershipError", "DoubleFree", "BadFree", "ObjectHandedOutTwice"}
    assert {error.type for error in result.errors} & rules


class LosesObjects(KmemCache):
    """`free` forgets one object."""

    def _make_parts(self) -> dict[str, Any]:
        parts, calls = super()._make_parts(), count(1)

        def free(address: int) -> None:
            if next(calls) != 7:
                parts["free"](address)

        return {**parts, "free": free}


def test_an_object_that_stays_allocated_is_found() -> None:
    """The workload's own caches cannot be destroyed."""
    result = run("slab-numa", {KmemCache: LosesObjects})
    assert {error.type for error in result.errors} == {"CacheBusy"}


def test_memory_of_kmalloc_that_stays_allocated_is_found() -> None:
    """These caches are never destroyed, so that the pages tell, and the message names the cache."""

    class LosesOnlyOfKmalloc(LosesObjects):
        def _make_parts(self) -> dict[str, Any]:
            return super()._make_parts() if self.usersize else KmemCache._make_parts(self)

    result = run("slab-churn", {KmemCache: LosesOnlyOfKmalloc}, options={"kmalloc": 100})
    assert {error.type for error in result.errors} == {"PageCountError"}
    assert "objects in use: " in result.errors[0].message
    assert "kmalloc-" in result.errors[0].message


class SwapsPages(PageTable):
    """Maps the pages of a range in the wrong order."""

    def map(self, address: int, pfns: Sequence[int]) -> None:
        super().map(address, pfns[::-1])


class SharesOnePage(PageTable):
    """Every third range of more than one page begins with the first page of the range before."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._maps = count(1)
        self._first: int | None = None

    def map(self, address: int, pfns: Sequence[int]) -> None:
        mapped = list(pfns)
        if next(self._maps) % 3 == 0 and self._first is not None:
            mapped[0] = self._first
        self._first = pfns[0]
        super().map(address, mapped)


def test_pages_mapped_in_the_wrong_order_are_found() -> None:
    """Within one area that is as good as the right order; what knows the pages sees it."""
    result = run("vmalloc-churn", {PageTable: SwapsPages}, cpus=1)
    assert "ObjectOwnershipError" in {error.type for error in result.errors}
    assert any("the mapping and the page" in error.message for error in result.errors)


def test_a_page_in_two_areas_is_found() -> None:
    """The owner of one area finds what that of the other has written; or verify() does."""
    result = run("vmalloc-churn", {PageTable: SharesOnePage}, cpus=1, verify_every=0)
    assert result.errors[0].type in ("ObjectOwnershipError", "PageOwnershipError")


class FreesSlabsAtOnce(SlabPages):
    """Waits for no grace period."""

    def free_slab(self, s: KmemCache, slab: Page) -> None:
        flags, s.flags = s.flags, 0
        try:
            super().free_slab(s, slab)
        finally:
            s.flags = flags


@pytest.mark.parametrize("classes", [{}, {SlabPages: FreesSlabsAtOnce}])
def test_an_rcu_reader_sees_the_type_change_only_without_a_grace_period(
    classes: dict[type, type],
) -> None:
    """In its critical section the object is freed, its slab given back, and all memory overwritten."""
    with Machine(cpus=1, memory="4M", classes=classes) as machine:
        worker = Worker(machine, 0, Progress())
        published = PublishedObjects(machine, make_rcu_cache(machine, "test"), 1)

        def overwrite_everything() -> None:
            published.change_one(worker)  # which frees it
            machine.slab.find("test-rcu-120").shrink()
            pages = []
            # Down to the marks; and kswapd lowers those that are boosted.
            while (page := machine.alloc_pages(0, 0)) is not None or any(
                zone.watermark_boost for zone in machine.zones
            ):
                if page is None:
                    machine.runtime.cpu_relax()
                    continue
                machine.memory.fill(machine.page_address(page), 4096, 0xFF)
                pages.append(page)
            for page in pages:
                machine.free_pages(page)

        def body() -> None:
            published.change_one(worker)
            published._cpu_relax = overwrite_everything
            if classes:
                with pytest.raises(ObjectOwnershipError, match="has lost its type"):
                    published.look_at_one(worker)
            else:
                published.look_at_one(worker)

        machine.submit(0, body).result()
        machine.submit(0, machine.rcu.rcu_barrier).result()
        machine.verify()


def test_readers_do_look() -> None:
    """A grace period that never begins is noticed only by somebody who reads: they do."""
    locked = 0

    class CountsReaders(Rcu):
        def read_lock(self) -> None:
            nonlocal locked
            locked += 1
            super().read_lock()

    assert run("slab-churn", {Rcu: CountsReaders}).clean
    assert locked > 20
