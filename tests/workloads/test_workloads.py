"""Every workload on every kind of machine: it counts, and gives everything back."""

from __future__ import annotations

import pytest

from concmem import Machine, Shrinker
from concmem.errors import BadArgument
from concmem.workloads import WORKLOADS, Phase, Scenario, StressResult, make_workload, run_stress

pytestmark = pytest.mark.timeout(60)

NAMES = sorted(WORKLOADS)


def run(name: str, cpus: int, runtime: str, ops: int = 150, **options: int) -> StressResult:
    scenario = Scenario(
        (Phase(name, 1.0, options),),
        cpus=cpus,
        memory="16M",
        ops=ops,
        runtime=runtime,
        verify_every=0.05,
    )
    with scenario.boot() as machine:
        return run_stress(machine, scenario, progress_every=0.02)


def test_all_are_registered() -> None:
    """The names that scenario files use."""
    assert set(NAMES) == {
        *("bursts", "drain", "fragmentation", "interrupts", "local"),
        *("pressure", "producer-consumer"),
        *("slab-bulk", "slab-churn", "slab-numa", "slab-producer-consumer", "slab-storm"),
        *("vmalloc-churn", "kmalloc-large", "processes", "malloc", "mempool"),
    }


@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("name", NAMES)
def test_a_workload_runs_clean_and_gives_everything_back(
    name: str, cpus: int, runtime: str
) -> None:
    """No rule is broken, all CPUs did something, and no page is allocated at the end."""
    result = run(name, cpus, runtime)
    assert result.errors == []
    assert result.memory.allocated == 0
    assert result.memory.free + result.memory.cached == result.memory.managed
    assert len(result.cpus) == cpus
    assert all(cpu.operations > 0 for cpu in result.cpus)
    assert result.phases[0].complete
    allocated = sum(cpu.allocated for cpu in result.cpus)
    freed = sum(cpu.freed for cpu in result.cpus) + result.kthread_operations
    assert allocated == freed
    assert result.objects_allocated == result.objects_freed


@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
def test_producers_pages_are_freed_by_consumers(cpus: int) -> None:
    """Every free of an odd CPU is of a page that an even CPU allocated, and no other free is."""
    result = run("producer-consumer", cpus, "free", ops=300)
    for cpu in result.cpus:
        assert cpu.cross_cpu_frees == (cpu.freed if cpu.cpu % 2 else 0)
    assert (result.cross_cpu_frees > 0) == (cpus > 1)


def test_a_queue_of_one_block_is_enough() -> None:
    """Producer and consumer wait for each other at every block, and nobody waits for ever."""
    assert run("producer-consumer", 5, "free", ops=200, queue=1).clean


def test_pressure_exhausts_memory_and_reclaims() -> None:
    """Allocations fail, the shrinker is asked, and afterwards it is registered no more."""
    scenario = Scenario((Phase("pressure", 1.0, {"max_order": 10}),), cpus=2, memory="16M", ops=400)
    with scenario.boot() as machine:
        result = run_stress(machine, scenario)
        assert result.clean, result.errors
        assert result.failed > 0
        assert result.events["pgsteal_direct"] > 0
        assert machine.reclaim.reclaimable() == 0
        machine.register_shrinker(Shrinker(lambda: 7, lambda nr: 0))
        assert machine.submit(0, machine.reclaim.reclaimable).result() == 7


def test_interrupts_arrive() -> None:
    """Each interrupt that was sent was taken before the phase ended."""
    result = run("interrupts", 4, "free", ops=400, every=1)
    assert sum(cpu.interrupts for cpu in result.cpus) > 100


def test_drain_empties_page_sets() -> None:
    """The storm reaches the drain."""
    result = run("drain", 2, "free", ops=200, every=5, stormers=1)
    assert result.events["drain_all_pages"] > 0


def test_a_seed_repeats_the_choices_of_a_workload() -> None:
    """On one CPU nothing but the seed decides."""

    def operations(seed: int) -> list[int]:
        scenario = Scenario((Phase("fragmentation"),), cpus=1, memory="16M", ops=500, seed=seed)
        with scenario.boot(lockstat=False) as machine:
            cpu = run_stress(machine, scenario).cpus[0]
        return [cpu.operations, cpu.allocated, cpu.freed]

    assert operations(3) == operations(3)
    assert len({tuple(operations(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nope", {}, "no workload 'nope'"),
        (
            "local",
            {"hold": 1},
            "hold: no option of workload 'local'; a phase has name, weight, held, other_orders",
        ),
        ("local", {"held": 0}, "held: must be a whole number from 1"),
        ("local", {"held": "64"}, "held: must be"),
        ("local", {"held": True}, "held: must be"),
    ],
)
def test_a_wrong_option_is_named(name: str, options: dict[str, object], words: str) -> None:
    """The message names the option and what it may be."""
    with pytest.raises(BadArgument, match=words):
        make_workload(name, options)


def test_a_phase_after_another_starts_from_an_empty_machine() -> None:
    """Phases share the limit by weight, and a machine can be used again."""
    scenario = Scenario((Phase("local", 3.0), Phase("bursts", 1.0)), cpus=2, memory="32M", ops=400)
    with Machine(cpus=2, memory="32M") as machine:
        for _ in range(2):
            result = run_stress(machine, scenario)
            assert result.clean, result.errors
            first, second = result.phases
            assert first.operations > second.operations
