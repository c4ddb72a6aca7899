"""
Executions a second of controlled mode, and of other Python tools that control threads, in one run.

The program is the same for all: two threads of ten acquire/release pairs of one lock each, and nothing is
wrong with it. Each measurement is a process of its own, pinned to one host CPU; the tools take turns, and the
median of the rounds' ratios counts.

    python3.13 -m venv peers && peers/bin/pip install . frontrun==0.7.0 interleave-test==0.1.0
    peers/bin/python stress/against_peers.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

PAIRS = 10


def measure_concmem(scheduler: str, seconds: float) -> float:
    from concmem import explore

    def two_cpus(rt: explore.ControlledRuntime) -> explore.Program:
        lock = rt.spinlock("lock")

        def body() -> None:
            for _ in range(PAIRS):
                lock.acquire()
                lock.release()

        return explore.Program([body, body])

    explore.check(two_cpus, scheduler, 20)
    outcome = explore.check(two_cpus, scheduler, 1 << 40, seconds=seconds)
    assert outcome.failure is None
    return outcome.executions / outcome.seconds


class State:
    """What the threads of frontrun share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


def work(state: State) -> None:
    for _ in range(PAIRS):
        state.lock.acquire()
        state.lock.release()


def measure_frontrun(strategy: str, seconds: float) -> float:
    import frontrun

    def run(limit: float) -> float:
        options = (
            {"max_executions": 1 << 30, "preemption_bound": None}
            if strategy == "dpor"
            else {"max_attempts": 1 << 30}
        )
        start = perf_counter()
        result = frontrun.explore(
            setup=State, workers=work, count=2, invariant=lambda _state: True,
            strategy=strategy, total_timeout=limit, **options,
        )  # fmt: skip
        return result.num_explored / (perf_counter() - start)

    run(0.3)
    return run(seconds)


def measure_interleave(strategy: str, seconds: float) -> float:
    import interleave_test as it

    def model() -> None:
        lock = it.Lock()

        def worker() -> None:
            for _ in range(PAIRS):
                lock.acquire()
                lock.release()

        threads = [it.spawn(worker), it.spawn(worker)]
        for thread in threads:
            thread.join()

    def run(iterations: int) -> float:
        start = perf_counter()
        it.explore(model, iterations=iterations, seed=0, strategy=strategy)
        return iterations / (perf_counter() - start)

    return run(max(20, int(run(20) * seconds)))


TOOLS: dict[str, tuple[Callable[[str, float], float], str]] = {
    "concmem random": (measure_concmem, "random"),
    "concmem pct": (measure_concmem, "pct"),
    "frontrun dpor": (measure_frontrun, "dpor"),
    "frontrun random": (measure_frontrun, "random"),
    "interleave-test random": (measure_interleave, "random"),
    "interleave-test pct": (measure_interleave, "pct"),
}


def rate_of(tool: str, seconds: float) -> float:
    """In a process of its own, on one host CPU."""
    command = [sys.executable, __file__, "--tool", tool, "--seconds", str(seconds)]
    if tool.startswith("frontrun"):  # it patches locks from its own launcher
        command.insert(0, str(Path(sys.executable).with_name("frontrun")))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{tool}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--tool", choices=TOOLS, help="measure only this one, here")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each tool (3)")
    args = parser.parse_args()
    if args.tool:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        measure, strategy = TOOLS[args.tool]
        print(measure(strategy, args.seconds))
        return
    rounds = [{tool: rate_of(tool, args.seconds) for tool in TOOLS} for _ in range(args.rounds)]
    for tool in TOOLS:
        rates = [each[tool] for each in rounds]
        ratios = [
            median(each[ours] / each[tool] for each in rounds)
            for ours in ("concmem random", "concmem pct")
        ]
        print(
            f"{tool:24} {median(rates):8.0f}/s ({min(rates):.0f} to {max(rates):.0f})   "
            f"concmem random is {ratios[0]:6.1f} times, pct {ratios[1]:6.1f} times as fast"
        )


if __name__ == "__main__":
    main()
