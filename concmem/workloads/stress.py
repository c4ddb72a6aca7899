"""
The stress engine: run a scenario on a machine and say whether any rule was broken. No display.

::

    scenario = load_scenario("smoke")
    with scenario.boot() as machine:
        result = run_stress(machine, scenario)
    assert result.clean, result.errors
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Final

from concmem.errors import ConcmemError
from concmem.reports.flows import event_totals, since
from concmem.reports.run.rows import BadAccess
from concmem.runtime.interpreter import has_gil
from concmem.workloads.director import Director, describe, memory_in_use
from concmem.workloads.host import HostUse, sample
from concmem.workloads.observer import Observer
from concmem.workloads.result import CpuResult, StressResult, VmallocResult, report_error
from concmem.workloads.sampler import Sampler

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.scenario import Scenario

LOCKUP_SECONDS: Final = 60.0
"""Host seconds without a single operation after which the machine counts as hung."""

VERIFY_SECONDS_PER_PAGE: Final = 50e-6
"""A verification, during which no CPU does anything, may take that much longer."""

MAX_ERRORS: Final = 100
"""Errors reported of one run; one broken list makes thousands."""


class SoftLockup(ConcmemError):
    """No CPU has done anything for a long time: a deadlock or a lost wake-up."""


@dataclass(frozen=True)
class StressProgress:
    """How far a run is; for display."""

    seconds: float
    """Host seconds since the start."""
    fraction: float
    """How much of the run is done, 0 to 1, by time or by operations."""
    phase: str
    """The workload that runs, or ``verify``."""
    phase_number: int
    """From 1."""
    nr_phases: int
    operations: tuple[int, ...]
    """Of each CPU."""
    verifications: int
    errors: int


def run_stress(
    machine: Machine,
    scenario: Scenario,
    *,
    on_progress: Callable[[StressProgress], None] | None = None,
    progress_every: float = 0.25,
    lockup_seconds: float = LOCKUP_SECONDS,
) -> StressResult:
    """
    Run all phases of *scenario*, verify at intervals and at the end, and report.

    ``KeyboardInterrupt``, also one raised by *on_progress*, ends the run early and cleanly: the
    result is marked interrupted and has what was done so far. A second one is raised at once; the
    run is then still ending in the background, at the latest when the machine is closed.

    Args:
        machine: booted by :meth:`Scenario.boot`, or any other; its CPUs are not otherwise used
            meanwhile. Stays open.
        on_progress: called on the calling thread.
        progress_every: host seconds between two such calls.
        lockup_seconds: host seconds without an operation that count as a hang.

    Returns:
        The result, not clean if a body, a handler or a verification raised anything.
    """
    run = _Run(machine, scenario, on_progress, lockup_seconds)
    run.watch(progress_every)
    return run.result()


def bad_accesses(machine: Machine) -> tuple[BadAccess, ...] | None:
    """What debugging has found so far; ``None``: nothing is on that could find anything."""
    if not machine.kernel.debug.finds_accesses:
        return None
    return tuple(
        BadAccess(report.subject, report.reason, report.address, report.text)
        for report in list(machine.debug_reports)
    )


class _Run:
    """One run, seen from the calling thread."""

    def __init__(
        self,
        machine: Machine,
        scenario: Scenario,
        on_progress: Callable[[StressProgress], None] | None,
        lockup_seconds: float,
    ) -> None:
        self.machine = machine
        self.scenario = scenario
        self._on_progress = on_progress
        self._lockup_seconds = lockup_seconds
        self._director = director = Director(machine, scenario)
        sampler = Sampler(machine, director.cpus, lambda: director.current)
        self._observer = Observer(sampler, director.peaks)
        self._interrupted = False
        self._hung = False
        self._before = machine.statistics()
        self._host_before = sample(machine)
        self._began = self._moved_at = perf_counter()
        self._seconds = 0.0
        self._last_seen: tuple[int, str] = (0, "")

    def watch(self, every: float) -> None:
        """Start, and wait for the end, for a hang, or for the user."""
        self._observer.start()
        try:
            self._watch(every)
        finally:
            self._observer.stop()

    def _watch(self, every: float) -> None:
        director = self._director
        director.start()
        ended = False
        while not ended:
            try:
                ended = director.wait(every)
                if self._on_progress is not None:
                    self._on_progress(self._progress())
                if self._is_hung():
                    self._give_up()
                    break
            except KeyboardInterrupt:
                if self._interrupted:
                    raise
                self._interrupted = True
                director.stop()
            except BaseException:
                director.stop()  # on_progress failed: leave nothing running
                while not director.wait(1):
                    pass
                raise
        self._seconds = perf_counter() - self._began

    def _progress(self) -> StressProgress:
        director, scenario = self._director, self.scenario
        seconds = perf_counter() - self._began
        operations = tuple(worker.progress.operations for worker in director.cpus)
        fraction = 0.0
        if scenario.seconds is not None:
            fraction = seconds / scenario.seconds
        if scenario.ops is not None:
            fraction = max(fraction, sum(operations) / (scenario.ops * len(operations)))
        nr_phases = len(scenario.phases)
        return StressProgress(
            seconds=seconds,
            fraction=min(1.0, fraction),
            phase=director.current,
            phase_number=min(len(director.phases) + 1, nr_phases),
            nr_phases=nr_phases,
            operations=operations,
            verifications=director.verifications,
            errors=len(director.errors),
        )

    # -- hangs

    def _is_hung(self) -> bool:
        director, now = self._director, perf_counter()
        seen = (director.operations(), f"{director.current}{director.verifications}")
        if seen != self._last_seen:
            self._last_seen, self._moved_at = seen, now
        limit = self._lockup_seconds
        if director.current == "verify":
            limit += VERIFY_SECONDS_PER_PAGE * len(self.machine.mem_map.pages)
        return director.is_alive() and now - self._moved_at > limit

    def _give_up(self) -> None:
        """Report where every CPU is. They are left as they are."""
        self._hung = True
        frames = sys._current_frames()
        lines = [f"no operation for {self._lockup_seconds:g} s during {self._director.current!r}"]
        for cpu in self.machine.runtime.cpus:
            frame = frames.get(cpu.thread.ident or 0)
            if frame is not None:
                stack = traceback.extract_stack(frame)[-4:]
                calls = " < ".join(f"{call.name}:{call.lineno}" for call in reversed(stack))
                lines.append(f"  {cpu.name}: {calls}")
        self._director.errors.append(SoftLockup("\n".join(lines)))
        self._director.stop()

    # -- the result

    def result(self) -> StressResult:
        """Everything, gathered after the end."""
        director, machine = self._director, self.machine
        # After a hang no lock of the machine may be taken: one of them is what the CPUs wait for.
        events = machine.events.sum()
        kthreads = director.workers[machine.runtime.nr_cpus :]
        result = StressResult(
            scenario=describe(self.scenario),
            runtime=machine.runtime.name,
            gil=has_gil(),
            cpus=self._cpu_results(),
            phases=list(director.phases),
            seconds=self._seconds,
            verifications=director.verifications,
            interrupted=self._interrupted,
            errors=[report_error(error) for error in director.errors[:MAX_ERRORS]],
            kthread_operations=sum(worker.progress.operations for worker in kthreads),
            events={
                name: count - self._before.events.get(name, 0) for name, count in events.items()
            },
            locks=machine.lock_statistics(),
            hung=self._hung,
            timeline=self._observer.sampler.timeline(self._observer.error),
            caches=director.peaks.caches(),
            busiest=director.peaks.busiest,
            processes=director.peaks.processes,
            mixed=director.mixed.result(),
            bad_accesses=bad_accesses(machine),
            leaks=director.leaks.leaks,
        )
        result.event_totals = dict(result.events)
        if not self._hung:  # these stop all CPUs, or take locks
            result.buddyinfo = machine.procfs.read("buddyinfo")
            result.meminfo = machine.procfs.read("meminfo")
            result.event_totals = since(
                event_totals(machine.statistics()), event_totals(self._before)
            )
            # What was switched on when the machine was booted was on in this run.
            result.event_totals |= machine.events.switched_on
            result.memory = memory_in_use(machine)
            result.slabs = director.slabs.result()
            result.vmalloc = self._vmalloc_result(result.cpus)
        return result

    def _vmalloc_result(self, cpus: list[CpuResult]) -> VmallocResult:
        before, now = self._before.vmalloc, self.machine.vm_areas.statistics()
        assert before is not None
        return VmallocResult(
            areas_allocated=sum(cpu.areas_allocated for cpu in cpus),
            areas_freed=sum(cpu.areas_freed for cpu in cpus),
            nr_vmalloc_pages=now.nr_vmalloc_pages,
            nr_lazy_pages=now.nr_lazy_pages,
            purges=now.nr_purges - before.nr_purges,
            flushes=now.nr_flushes - before.nr_flushes,
        )

    def _cpu_results(self) -> list[CpuResult]:
        host = sample(self.machine)
        interrupts = [cpu.nr_interrupts for cpu in self.machine.runtime.cpus]
        before = {cpu.cpu: cpu.interrupts for cpu in self._before.cpus}
        return [
            CpuResult(
                cpu=worker.cpu,
                operations=progress.operations,
                seconds=progress.seconds,
                allocated=progress.allocated,
                freed=progress.freed,
                failed=progress.failed,
                cross_cpu_frees=progress.cross_cpu,
                interrupts=interrupts[worker.cpu] - before[worker.cpu],
                host=host[worker.cpu].since(self._host_before.get(worker.cpu, HostUse())),
                objects_allocated=progress.objects_allocated,
                objects_freed=progress.objects_freed,
                cross_cpu_object_frees=progress.objects_cross_cpu,
                areas_allocated=progress.areas_allocated,
                areas_freed=progress.areas_freed,
            )
            for worker in self._director.cpus
            for progress in [worker.progress]
        ]
