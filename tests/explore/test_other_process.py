"""
What was recorded here is replayed in another process, step by step.

It has another hash seed, and other addresses of objects; with ``CONCMEM_OTHER_PYTHON`` in the environment,
another interpreter as well, which must have the package (CI: 3.11 from the free-threaded 3.13).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from concmem import explore
from concmem.bugs import find_bug
from concmem.explore.runner import Limits, Runner
from concmem.explore.schedulers import RandomWalk, Replay
from concmem.workloads.hunting import hunting_program

INTERPRETERS = [sys.executable, *filter(None, [os.environ.get("CONCMEM_OTHER_PYTHON")])]

WORKLOADS = ("slab-churn", "malloc", "mempool", "producer-consumer")

BUG = "B04"


def steps_of(program: Any, scheduler: explore.Scheduler) -> tuple[str, list[str]]:
    """The schedule of one execution, and all its steps."""
    runner = Runner(program, limits=Limits(detectors=frozenset()), cpus=2)
    scheduler.reset(7)
    with runner.session():
        execution = runner.run_once(scheduler, traced=True)
    assert execution is not None
    assert execution.finding is None, execution.finding
    # Where a CPU's thread begins is the interpreter's business.
    steps = [str(step._replace(site=None, calls=())) for step in execution.steps]  # type: ignore[attr-defined]
    return str(explore.Schedule(tuple(execution.deviations))), steps


def replay_all(recorded: dict[str, str]) -> dict[str, Any]:
    """In the other process: the same steps, by the schedules alone."""
    found: dict[str, Any] = {
        name: steps_of(hunting_program(name, 2), Replay(schedule))[1]
        for name, schedule in recorded.items()
        if name != BUG
    }
    failure = explore.replay(find_bug(BUG).program, recorded[BUG]).failure
    assert failure is not None
    return {**found, BUG: failure.identity}


@pytest.mark.parametrize("python", INTERPRETERS, ids=lambda path: Path(path).parent.parent.name)
def test_a_schedule_is_all_it_takes(python: str) -> None:
    here: dict[str, Any] = {}
    schedules: dict[str, str] = {}
    for name in WORKLOADS:
        schedules[name], here[name] = steps_of(hunting_program(name, 2), RandomWalk())
        assert len(here[name]) > 100
    outcome = explore.check(find_bug(BUG).program, "random", 2000, seed=1, shrink=False)
    assert outcome.failure is not None
    schedules[BUG], here[BUG] = outcome.failure.schedule, list(outcome.failure.identity)

    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run(
        [python, __file__, json.dumps(schedules)],
        capture_output=True, text=True, env=environment, timeout=100, check=False,
    )  # fmt: skip
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == here


if __name__ == "__main__":
    print(json.dumps(replay_all(json.loads(sys.argv[1]))))
