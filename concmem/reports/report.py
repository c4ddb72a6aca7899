"""
A report of a run: everything that can be concluded from it, in one object.

To make it is itself an event of the flowcharts ("Debugging and monitoring"): what was read while the run was on
is analysed here, and `Report.event_totals` has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.reports.advice import Advice, advise
from concmem.reports.analysis import (
    AccessGroup,
    CacheAnalysis,
    FreeAnalysis,
    LeakGroup,
    LockAnalysis,
    MemoryOverview,
    MempoolAnalysis,
    MergeCandidates,
    ZoneAnalysis,
    access_groups,
    cache_analysis,
    free_analysis,
    leak_groups,
    lock_analysis,
    memory_overview,
    mempool_analysis,
    merge_candidates,
    zone_analysis,
)
from concmem.reports.flows import FLOWS, coverage
from concmem.reports.run import Run, missing, plain

if TYPE_CHECKING:
    from concmem.reports.run.rows import ProcessPeak

EVENTS: Final = (
    *("report_memory", "report_buddies", "report_processes", "report_slabs"),
    *("report_leaks", "report_bad_accesses", "report_advice"),
)
"""What a report counts when it is made: each part of it that it could make."""


class Report(NamedTuple):
    """All of it; a part that is ``None`` or empty could not be made, and `missing` says why."""

    run: Run
    missing: tuple[str, ...]
    advice: tuple[Advice, ...]
    memory: MemoryOverview | None
    zones: tuple[ZoneAnalysis, ...]
    processes: ProcessPeak | None
    caches: tuple[CacheAnalysis, ...]
    merges: tuple[MergeCandidates, ...]
    frees: tuple[FreeAnalysis, ...]
    locks: tuple[LockAnalysis, ...]
    mempools: MempoolAnalysis | None
    leaks: tuple[LeakGroup, ...] | None
    bad_accesses: tuple[AccessGroup, ...] | None

    @property
    def events(self) -> dict[str, int]:
        """What making it counts."""
        made = {
            "report_memory": self.memory is not None,
            "report_buddies": bool(self.zones),
            "report_processes": self.processes is not None,
            "report_slabs": bool(self.caches),
            "report_leaks": self.leaks is not None,
            "report_bad_accesses": self.bad_accesses is not None,
            "report_advice": True,
        }
        return {name: int(done) for name, done in made.items() if done}

    @property
    def event_totals(self) -> Mapping[str, int]:
        """Those of the run, and of this."""
        return Counter(self.run.event_totals) + Counter(self.events)

    def to_json(self) -> dict[str, Any]:
        """Everything but the run itself, of which the first few keys say which it was."""
        run = self.run
        parts = {name: plain(part) for name, part in self._asdict().items() if name != "run"}
        return {
            "command": run.command,
            "concmem": run.concmem,
            "verdict": run.verdict,
            "interrupted": run.interrupted,
            **parts,
            "event_totals": dict(self.event_totals),
            "coverage": {
                flow.name: coverage(flow, self.event_totals).to_json() for flow in FLOWS.values()
            },
        }


def make_report(run: Run) -> Report:
    """Analyse *run*."""
    return Report(
        run=run,
        missing=tuple(missing(run)),
        advice=advise(run),
        memory=memory_overview(run),
        zones=zone_analysis(run),
        processes=run.processes,
        caches=cache_analysis(run),
        merges=merge_candidates(run),
        frees=free_analysis(run),
        locks=lock_analysis(run),
        mempools=mempool_analysis(run),
        leaks=leak_groups(run),
        bad_accesses=access_groups(run),
    )
