"""Scenario files: what they may say, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from concmem.errors import BadArgument, ScenarioError
from concmem.workloads import WORKLOADS, Phase, Scenario, find_scenarios, load_scenario

GOOD = 'ops = 10\n[[phase]]\nname = "local"\n'


def test_the_scenarios_of_the_package_are_found_and_good() -> None:
    """By name, each with a description; smoke and the default have every workload."""
    names = {
        *("smoke", "default", "churn", "cross-cpu", "fragmentation"),
        *("pressure", "interrupts", "drain", "slab-churn", "slab-producer-consumer"),
        *("slab-bulk", "slab-storm", "slab-numa", "vmalloc-churn", "processes", "malloc"),
    }
    assert set(find_scenarios()) >= names
    for name in find_scenarios():
        scenario = load_scenario(name)
        assert scenario.name == name
        assert scenario.description.endswith(".")
    for name in ("smoke", "default"):
        assert {phase.name for phase in load_scenario(name).phases} == set(WORKLOADS)


def test_a_scenario_is_given_by_path(tmp_path: Path) -> None:
    """Every key, with options of a workload."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'description = "Mine."\ncpus = 3\nmemory = "32M"\nnodes = 2\ncma = "4M"\nseed = 9\n'
        'seconds = 1.5\nops = 100\nruntime = "free"\nverify_every = 0\nlockdep = true\n'
        '[[phase]]\nname = "local"\nweight = 3\nheld = 5\n[[phase]]\nname = "drain"\n'
    )
    scenario = load_scenario(str(path))
    assert scenario == Scenario(
        phases=(Phase("local", 3, {"held": 5}), Phase("drain")),
        name="mine",
        description="Mine.",
        cpus=3,
        memory="32M",
        nodes=2,
        cma="4M",
        seed=9,
        ops=100,
        seconds=1.5,
        runtime="free",
        verify_every=0,
        lockdep=True,
    )
    assert scenario.share(scenario.phases[0]) == 0.75


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpus = ", "Invalid value"),
        (GOOD.replace("ops", "opps"), "unknown key 'opps'; there are description, cpus, memory"),
        ("cpus = 0\n" + GOOD, "cpus: must be 1 to 256, got 0"),
        ('cpus = "4"\n' + GOOD, "cpus: expected a whole number, got '4'"),
        ('memory = "much"\n' + GOOD, "memory: expected a size"),
        ("memory = 1.5\n" + GOOD, "memory: expected bytes or text"),
        ('memory = "16M"\ncma = "16M"\n' + GOOD, "cma: must be less than memory"),
        ("nodes = 65\n" + GOOD, "nodes: must be 1 to 64"),
        ("seed = 1.5\n" + GOOD, "seed: expected a whole number"),
        ("seconds = 0\n" + GOOD, "seconds: must be a number from 0.001"),
        ("seconds = nan\n" + GOOD, "seconds: must be a number"),
        (GOOD.replace("10", "0"), "ops: must be a whole number from 1"),
        (GOOD.replace("ops = 10", ""), "one of ops and seconds must be given"),
        ('runtime = "fast"\n' + GOOD, "runtime: expected one of auto, free, jitter; got 'fast'"),
        ("verify_every = -1\n" + GOOD, "verify_every: must be a number from 0"),
        ("verify_every = true\n" + GOOD, "verify_every: expected a number"),
        ("lockdep = 1\n" + GOOD, "lockdep: expected true or false, got 1"),
        ("description = 5\n" + GOOD, "description: expected text"),
        ("ops = 10\n", "at least one"),
        ("ops = 10\nphase = 5\n", r"phase: expected \[\[phase\]\] tables"),
        ("ops = 10\n[[phase]]\nheld = 5\n", "phase 1: name: each"),
        (GOOD + '[[phase]]\nname = "nope"\n', "phase 2: name: there is no workload 'nope', only"),
        (
            GOOD + "nope = 1\n",
            "phase 1: nope: no option of workload 'local'; a phase has name, weight, held",
        ),
        (GOOD + "held = 0\n", "phase 1: held: must be a whole number from 1"),
        (GOOD + "weight = 0\n", "phase 1: weight: must be a number"),
        ("ops = 10\n[[phase]]\nname = [1]\n", "phase 1: name: there is no workload"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: str) -> None:
    """The message has the file, the key, and what may be there."""
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=words) as caught:
        load_scenario(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    """Neither a name nor a file; a directory is none."""
    for name in ("nope", str(tmp_path), str(tmp_path / "nope.toml"), ""):
        with pytest.raises(ScenarioError, match=r"none of the names churn, .*smoke"):
            load_scenario(name)


def test_a_binary_file_is_no_scenario(tmp_path: Path) -> None:
    """What is no text is refused, not raised as a decoding error."""
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(str(path))


def test_a_new_limit_replaces_the_old_ones() -> None:
    """changed() ignores what is None and checks what is not."""
    scenario = Scenario((Phase("local"),), seconds=5.0)
    assert scenario.changed(ops=10, cpus=None).seconds is None
    assert scenario.changed(ops=10, seconds=1.0).seconds == 1.0
    assert scenario.changed(cpus=2).seconds == 5.0
    with pytest.raises(BadArgument, match="cpus"):
        scenario.changed(cpus=1000)
