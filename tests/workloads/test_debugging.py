"""
Every workload with all of debugging on: nothing is reported, and everything comes back.

What debugging looks at is exact, so a report of a correct model would be a mistake of debugging.
"""

from __future__ import annotations

from typing import Any

import pytest

from concmem import Machine
from concmem.errors import BadArgument
from concmem.workloads import WORKLOADS, Phase, Scenario, StressResult, run_stress

pytestmark = pytest.mark.timeout(120)

OPTIONS: dict[str, dict[str, Any]] = {
    "all": {"slab_debug": "FZPU", "page_poison": True, "page_owner": True, "kasan": True},
    "bytes": {"slab_debug": "FZPU", "page_poison": True, "page_owner": True},
    "checked": {"kasan": True},
}
"""With the quarantine of the checked mode, objects are used again late; so there are runs without."""


def run(name: str, runtime: str, options: dict[str, Any], ops: int = 300) -> StressResult:
    scenario = Scenario(
        (Phase(name),), cpus=2, nodes=2, memory="32M", ops=ops, runtime=runtime, **options
    )
    with scenario.boot(lockstat=False) as machine:
        return run_stress(machine, scenario, progress_every=0.02)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("runtime", ["free", "jitter"])
@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_correct_run_has_no_report(name: str, runtime: str, options: str) -> None:
    """Two CPUs, two nodes; no error, no report, no page is left."""
    result = run(name, runtime, OPTIONS[options])
    assert result.errors == []
    assert result.bad_accesses == ()
    assert result.memory.allocated == 0


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_injected_failures_break_nothing(name: str) -> None:
    """Every tenth allocation that may not sleep fails, of objects and of pages: some do, nothing is lost."""
    options = {
        "slab_debug": "FZPU",
        "failslab": "10,100,0,-1",
        "fail_page_alloc": "10,100,0,-1",
    }
    result = run(name, "free", options)
    assert result.errors == []
    assert result.bad_accesses == ()
    assert result.memory.allocated == 0


def test_without_debugging_nothing_is_said() -> None:
    """Neither that there were bad accesses nor that there were none."""
    assert run("local", "free", {}).bad_accesses is None
    assert run("local", "free", {"page_owner": True}).bad_accesses is None


def test_what_is_found_is_in_the_result() -> None:
    """A write behind an object while a workload runs: the run is broken, and the report is there."""
    scenario = Scenario((Phase("local"),), cpus=1, memory="16M", ops=50, slab_debug="FZPU")
    with scenario.boot() as machine:
        plant(machine)
        result = run_stress(machine, scenario)
    assert [error.type for error in result.errors] == ["MemoryCorruption"]
    assert result.bad_accesses is not None
    (access,) = result.bad_accesses
    assert (access.cache, access.kind) == ("victim", "Right Redzone overwritten")
    assert access.text.startswith("[Right Redzone overwritten] 0x")
    assert result.to_json()["bad_accesses"][0]["address"] == access.address


def plant(machine: Machine) -> None:
    """An object of its own cache, and one byte too many."""
    address = machine.submit(0, machine.kmem_cache_create("victim", 64).alloc).result(50)
    assert address is not None
    machine.memory.write(address + 64, b"\0")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("slab_debug", "FX"), ("page_poison", 1), ("page_owner", "yes"), ("kasan", "maybe"),
        ("failslab", "1,2"), ("fail_page_alloc", "1,200,0,1"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_before_a_machine_is_booted(name: str, value: Any) -> None:
    """By the scenario; the message begins with the name."""
    with pytest.raises(BadArgument, match=f"^{name}: "):
        Scenario((Phase("local"),), ops=10, **{name: value})
