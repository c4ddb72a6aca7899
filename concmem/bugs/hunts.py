"""Hunting for planted bugs: how many executions each scheduler needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import Final

from concmem import explore
from concmem.bugs import Bug, find_bug

SCHEDULERS: Final = ("random", "pct", "pos", "surw", "pb", "db", "dpor")
"""Those that the whole table is made with."""

OWN: Final = "default"
"""In place of the name of a scheduler: the one that the bug names first."""

SYSTEMATIC: Final = frozenset(("pb", "db", "dfs", "dpor", "rr"))
"""Schedulers for which the seed means nothing."""


@dataclass(frozen=True)
class Hunt:
    """One bug under one scheduler, from several seeds."""

    bug: str
    number: str
    scheduler: str
    seeds: int
    found: int
    """From how many of the seeds it was found."""
    executions: float | None
    """Until the first failure, the median of those seeds from which it was found."""
    tried: int
    """Executions of all seeds together."""
    preemptions: int | None
    """Of the shortest schedule after shrinking."""
    schedule: str | None
    kind: str | None
    """Of the failure."""
    seconds: float
    error: str | None = None
    """Why the program could not be run."""
    other: str | None = None
    """A failure that is not what the bug leads to; that counts as not found."""


def hunt(bug: Bug, scheduler: str, seeds: int, executions: int, seconds: float) -> Hunt:
    """
    Look for *bug* from seeds 0 to ``seeds - 1``, each for at most so many *executions* and *seconds*.

    *scheduler* may be `OWN`.
    """
    scheduler = bug.scheduler if scheduler == OWN else scheduler
    if scheduler in SYSTEMATIC:
        seeds = 1
    start = perf_counter()
    needed, failures, tried = [], [], 0
    other = error = None
    for seed in range(seeds):
        try:
            outcome = explore.check(
                bug.program, scheduler, executions, seed, seconds=seconds, **bug.options
            )
        except Exception as raised:  # one bug that cannot be run does not cost the others' results
            error = repr(raised)
            break
        tried += outcome.executions
        failure = outcome.failure
        if failure is None:
            continue
        if bug.is_shown_by(failure.kind, failure.error):
            needed.append(failure.executions)
            failures.append(failure)
        else:
            other = f"{failure.kind}: {type(failure.error).__name__}"
    best = min(failures, key=lambda failure: (failure.preemptions, failure.schedule), default=None)
    return Hunt(
        bug=bug.name,
        number=bug.number,
        scheduler=scheduler,
        seeds=seeds,
        found=len(needed),
        executions=median(needed) if needed else None,
        tried=tried,
        preemptions=best.preemptions if best is not None else None,
        schedule=best.schedule if best is not None else None,
        kind=best.kind if best is not None else None,
        seconds=perf_counter() - start,
        error=error,
        other=other,
    )


def _hunt_by_name(name: str, scheduler: str, seeds: int, executions: int, seconds: float) -> Hunt:
    return hunt(find_bug(name), scheduler, seeds, executions, seconds)


@contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes, each on a host CPU of its own: a controlled run keeps to one."""
    context = get_context("spawn")
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    numbers = context.Queue()
    for number in range(jobs):
        numbers.put(allowed[number % len(allowed)] if allowed else -1)
    pool = ProcessPoolExecutor(jobs, context, initializer=_settle, initargs=(numbers,))
    try:
        yield pool
    except BaseException:  # Ctrl-C: do not wait for hunts that have not begun
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _settle(numbers: object) -> None:
    host_cpu = numbers.get()  # type: ignore[attr-defined]
    if host_cpu >= 0:
        os.sched_setaffinity(0, {host_cpu})


def hunt_all(
    bugs: Sequence[Bug],
    schedulers: Sequence[str],
    *,
    seeds: int,
    executions: int,
    seconds: float,
    jobs: int,
    done: Callable[[Hunt], None],
) -> None:
    """Hunt each of *bugs* with each of *schedulers*, in *jobs* processes; *done* gets each result."""
    pairs = [(bug, scheduler) for bug in bugs for scheduler in schedulers]
    if jobs == 1:
        for bug, scheduler in pairs:
            done(hunt(bug, scheduler, seeds, executions, seconds))
        return
    with _pool(jobs) as pool:
        futures = [
            pool.submit(_hunt_by_name, bug.name, scheduler, seeds, executions, seconds)
            for bug, scheduler in pairs
        ]
        for future in as_completed(futures):
            done(future.result())
