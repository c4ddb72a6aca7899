"""Schedulers, one a file; :func:`make_scheduler` finds them by name."""

from __future__ import annotations

from collections.abc import Callable

from concmem.errors import BadArgument, BadArgumentType
from concmem.explore.scheduler import Scheduler
from concmem.explore.schedulers.census import Census
from concmem.explore.schedulers.delay_bounding import DelayBounding
from concmem.explore.schedulers.dfs import DFS
from concmem.explore.schedulers.dpor import DPOR
from concmem.explore.schedulers.nondeterminism import NondeterminismCheck
from concmem.explore.schedulers.pct import PCT
from concmem.explore.schedulers.pos import POS
from concmem.explore.schedulers.preemption_bounding import PreemptionBounding
from concmem.explore.schedulers.random_walk import RandomWalk
from concmem.explore.schedulers.replay import Replay
from concmem.explore.schedulers.round_robin import RoundRobin
from concmem.explore.schedulers.surw import SURW
from concmem.explore.schedulers.urw import URW

SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "random": RandomWalk,
    "pct": PCT,
    "pos": POS,
    "urw": URW,
    "surw": SURW,
    "pb": PreemptionBounding,
    "db": DelayBounding,
    "dfs": DFS,
    "dpor": DPOR,
    "rr": RoundRobin,
    "nondeterminism": NondeterminismCheck,
}
"""By the names that :func:`concmem.explore.check` takes."""


def make_scheduler(scheduler: str | Scheduler) -> Scheduler:
    """
    The scheduler of that name, or *scheduler* itself.

    Raises:
        BadArgument: there is none of that name.
    """
    if isinstance(scheduler, Scheduler):
        return scheduler
    if not isinstance(scheduler, str):
        raise BadArgumentType(f"scheduler: expected a name or a Scheduler, got {scheduler!r}")
    if scheduler not in SCHEDULERS:
        names = ", ".join(SCHEDULERS)
        raise BadArgument(f"scheduler: there is no {scheduler!r}, only {names}")
    return SCHEDULERS[scheduler]()


__all__ = [
    "DFS",
    "DPOR",
    "PCT",
    "POS",
    "SCHEDULERS",
    "SURW",
    "URW",
    "Census",
    "DelayBounding",
    "NondeterminismCheck",
    "PreemptionBounding",
    "RandomWalk",
    "Replay",
    "RoundRobin",
    "make_scheduler",
]
