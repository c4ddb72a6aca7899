"""What a stress run found out: plain data, for tables and for JSON."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from concmem.reports.flows import FLOWS, coverage
from concmem.reports.run import KIND, SCHEMA, plain
from concmem.reports.run.rows import (
    BadAccess,
    CachePeak,
    Leak,
    MixedBlocks,
    Moment,
    ProcessPeak,
    Timeline,
)
from concmem.runtime.lockstat import LockClassStatistics
from concmem.workloads.host import HostUse
from concmem.workloads.slab_activity import SlabActivity

_PACKAGE: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class ErrorReport:
    """One broken rule."""

    type: str
    """Class name of the exception."""
    message: str
    cause: str
    """The exception behind it, as ``Type: message``; empty when there is none."""
    where: str
    """The innermost line of this package, as ``mm/zone.py:120 in free_one_page``."""
    traceback: str


@dataclass(frozen=True)
class CpuResult:
    """What one CPU did."""

    cpu: int
    operations: int
    """Calls of an allocator."""
    seconds: float
    """Host seconds that it was in workload bodies."""
    allocated: int
    freed: int
    failed: int
    """Allocations that gave ``None``."""
    cross_cpu_frees: int
    """Frees of pages that another CPU had allocated."""
    interrupts: int
    """Interrupts taken."""
    host: HostUse
    objects_allocated: int = 0
    """Objects that caches, ``kmalloc`` and ``vmalloc`` gave; `allocated` and `freed` are of pages."""
    objects_freed: int = 0
    cross_cpu_object_frees: int = 0
    """Frees of objects that another CPU had allocated."""
    areas_allocated: int = 0
    """Of the objects, those in the vmalloc range."""
    areas_freed: int = 0

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class PhaseResult:
    """One phase."""

    name: str
    operations: int
    seconds: float
    complete: bool
    """Whether it went on to its limit, rather than being interrupted or broken off."""


class MemoryResult(NamedTuple):
    """Pages, by where they are. All zero when nobody could look."""

    managed: int = 0
    free: int = 0
    """On free lists."""
    cached: int = 0
    """In per-CPU page sets."""
    allocated: int = 0


class VmallocResult(NamedTuple):
    """The vmalloc range. All zero when nobody could look."""

    areas_allocated: int = 0
    areas_freed: int = 0
    nr_vmalloc_pages: int = 0
    """Pages of areas, at the end."""
    nr_lazy_pages: int = 0
    """Pages of addresses that wait for a flush, at the end."""
    purges: int = 0
    """Times that freed addresses were purged, in this run."""
    flushes: int = 0
    """TLB flushes, in this run."""


@dataclass
class StressResult:
    """All of a run, also of one that was interrupted or found something."""

    scenario: dict[str, Any]
    """Name and parameters, as used."""
    runtime: str
    gil: bool
    """Whether the interpreter has a GIL."""
    cpus: list[CpuResult] = field(default_factory=list)
    phases: list[PhaseResult] = field(default_factory=list)
    seconds: float = 0.0
    verifications: int = 0
    interrupted: bool = False
    errors: list[ErrorReport] = field(default_factory=list)
    kthread_operations: int = 0
    """Frees by kernel threads, which reclaim through the workloads' shrinker."""
    events: dict[str, int] = field(default_factory=dict)
    """Event counters, of this run only."""
    locks: tuple[LockClassStatistics, ...] = ()
    """Lock classes, most contended first, since the machine was booted."""
    buddyinfo: str = ""
    """``/proc/buddyinfo`` at the end."""
    meminfo: str = ""
    """``/proc/meminfo`` at the end."""
    memory: MemoryResult = field(default_factory=MemoryResult)
    """At the end."""
    slabs: tuple[SlabActivity, ...] = ()
    """What slab caches did in this run, the most active first."""
    vmalloc: VmallocResult = field(default_factory=VmallocResult)
    event_totals: dict[str, int] = field(default_factory=dict)
    """All events of this run, those of caches and page sets too: what proves arrows of flowcharts."""
    hung: bool = False
    """Whether the CPUs came to a stop: nobody could look at the machine afterwards."""
    timeline: Timeline = field(default_factory=Timeline)
    """Samples taken while it ran."""
    caches: tuple[CachePeak, ...] = ()
    """Every cache when it had most slabs, the largest first."""
    busiest: Moment | None = None
    """The machine when it had the least free memory; ``None``: nobody looked."""
    processes: ProcessPeak | None = None
    """Processes when they had most memory; ``None``: none had any when somebody looked."""
    mixed: tuple[MixedBlocks, ...] = ()
    """Page blocks with pages of another type, as seen at verifications."""
    leaks: tuple[Leak, ...] | None = None
    """What kmemleak has found; ``None``: it was not on."""
    bad_accesses: tuple[BadAccess, ...] | None = None
    """What slab debugging and page poisoning have found; ``None``: they were not on."""

    @property
    def clean(self) -> bool:
        """Whether no rule was broken."""
        return not self.errors

    @property
    def verdict(self) -> str:
        """``"clean"`` or ``"broken"``."""
        return "clean" if self.clean else "broken"

    @property
    def operations(self) -> int:
        """Calls of an allocator by all CPUs."""
        return sum(cpu.operations for cpu in self.cpus)

    @property
    def cross_cpu_frees(self) -> int:
        return sum(cpu.cross_cpu_frees for cpu in self.cpus)

    @property
    def failed(self) -> int:
        return sum(cpu.failed for cpu in self.cpus)

    @property
    def objects_allocated(self) -> int:
        return sum(cpu.objects_allocated for cpu in self.cpus)

    @property
    def objects_freed(self) -> int:
        return sum(cpu.objects_freed for cpu in self.cpus)

    @property
    def cross_cpu_object_frees(self) -> int:
        return sum(cpu.cross_cpu_object_frees for cpu in self.cpus)

    @property
    def rate(self) -> float:
        """Operations of all CPUs per second of the run."""
        return self.operations / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of everything, with the sums and rates."""
        data = plain({each.name: getattr(self, each.name) for each in fields(self)})
        data["cpus"] = [{**plain(asdict(cpu)), "rate": cpu.rate} for cpu in self.cpus]
        data["phases"] = [asdict(phase) for phase in self.phases]
        data["errors"] = [asdict(error) for error in self.errors]
        data["slabs"] = [slab.to_json() for slab in self.slabs]
        data["coverage"] = {
            flow.name: coverage(flow, self.event_totals).to_json() for flow in FLOWS.values()
        }
        return {
            "kind": KIND,
            "schema": SCHEMA,
            "verdict": self.verdict,
            "operations": self.operations,
            "rate": self.rate,
            "failed": self.failed,
            "cross_cpu_frees": self.cross_cpu_frees,
            "objects_allocated": self.objects_allocated,
            "objects_freed": self.objects_freed,
            "cross_cpu_object_frees": self.cross_cpu_object_frees,
            **data,
        }


def flatten(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, and of groups in it; an exception that is no group is itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from flatten(inner)
    else:
        yield error


def report_error(error: BaseException) -> ErrorReport:
    """An exception as plain text."""
    cause = error.__cause__
    return ErrorReport(
        type=type(error).__name__,
        message=str(error),
        cause=f"{type(cause).__name__}: {cause}" if cause is not None else "",
        where=_where(cause if cause is not None else error),
        traceback="".join(traceback.format_exception(error)),
    )


def _where(error: BaseException) -> str:
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE).as_posix()}:{frame.lineno} in {frame.name}"
    return ""
