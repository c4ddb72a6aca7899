"""
The director of a stress run: a thread that starts phases, verifies between operations, and ends.

It is a thread of its own so that ``KeyboardInterrupt``, which Python raises in the main thread
wherever that happens to be, never comes in the middle of what it does to the machine.

Locks: none. `errors`, `phases` and `verifications` are written by this thread only and read by
others for display; `stopping` is set by anybody, once.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from time import perf_counter
from typing import TYPE_CHECKING, Any

from concmem.errors import CacheBusy, PageCountError
from concmem.workloads.leaks import LeakLog
from concmem.workloads.peaks import MixedLog, PeakLog
from concmem.workloads.progress import Progress
from concmem.workloads.result import MemoryResult, PhaseResult, flatten
from concmem.workloads.slab_activity import SlabActivityLog
from concmem.workloads.worker import Worker

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.workloads.base import Workload
    from concmem.workloads.scenario import Phase, Scenario


class Director(threading.Thread):
    """Runs *scenario* on *machine*. `start` it, `wait` for it, read what it found."""

    def __init__(self, machine: Machine, scenario: Scenario) -> None:
        super().__init__(name="concmem-stress", daemon=True)
        self.machine = machine
        self.scenario = scenario
        progress = machine.runtime.percpu(Progress, "stress_progress")
        self.leaks = LeakLog(machine)
        self.workers = [
            Worker(machine, cpu, progress.of(cpu), self.leaks.owner)
            for cpu in range(len(progress.all()))
        ]
        """One for each CPU, then one for each kernel thread, whose shrinkers free pages."""
        self.cpus = self.workers[: machine.runtime.nr_cpus]
        self.errors: list[BaseException] = []
        self.phases: list[PhaseResult] = []
        self.verifications = 0
        self.current = ""
        """What is going on: the name of a workload, or ``verify``."""
        self.stopping = False
        self._next_verify: float | None = None  # a time of perf_counter()
        self.slabs = SlabActivityLog(machine)
        self.mixed = MixedLog(machine)
        self.peaks = PeakLog(machine)
        self._began = perf_counter()
        self._allocated_before = 0
        self._ended = False
        self._running = threading.Lock()
        self._running.acquire()

    def wait(self, seconds: float) -> bool:
        """
        Wait for the end, at most so long; whether it has come.

        Not by `join`: Ctrl-C in the middle of that makes CPython 3.11 take the thread for ended.
        """
        if not self._ended and self._running.acquire(timeout=seconds):
            self._running.release()  # if Ctrl-C comes before this, the flag is there
        return self._ended

    def operations(self) -> int:
        """Operations so far, kernel threads included."""
        return sum(worker.progress.operations for worker in self.workers)

    def stop(self) -> None:
        """End soon: bodies after their current operation, the run without its next phase."""
        self.stopping = True
        for worker in self.workers:
            worker.stopped = True

    def _seconds(self) -> float:
        """Since the run began."""
        return perf_counter() - self._began

    # -- this thread

    def run(self) -> None:
        """All phases, and the last verification."""
        try:
            self._direct()
        finally:
            self._ended = True
            self._running.release()

    def _direct(self) -> None:
        if self.scenario.verify_every:
            self._next_verify = perf_counter() + self.scenario.verify_every
        try:
            self._settle()
            self._allocated_before = memory_in_use(self.machine).allocated
            for phase in self.scenario.phases:
                if self.stopping:
                    break
                self._run_phase(phase)
            self._verify()
            if not self.errors:
                self._settle()
            leak = self.leaks.look()
            if leak is not None:
                self._failed(leak)
            elif not self.errors:
                self._check_all_freed()
        except BaseException as error:
            self._failed(error)
        self.current = ""

    def _failed(self, error: BaseException) -> None:
        """Keep what went wrong, and end the run."""
        self.errors.extend(flatten(error))
        self.stop()

    def _run_phase(self, phase: Phase) -> None:
        self.current = phase.name
        began, operations = perf_counter(), self.operations()
        workload = phase.workload()
        self.slabs.phase_begins()
        workload.start(self.machine, self.workers)
        try:
            self._release_cpus(phase)
            futures = [
                self.machine.submit(worker.cpu, self._on_cpu, workload, worker)
                for worker in self.cpus
            ]
            self._watch(futures, phase, began)
            if not self.errors:  # what the phase has made is still there, if its CPUs have left
                self.peaks.look(self._seconds(), phase.name)
        finally:
            workload.end(self.machine)
            self._on_all_cpus(workload)
            self.slabs.phase_ends()
            self._clean_up(workload)
        self.phases.append(
            PhaseResult(
                phase.name,
                self.operations() - operations,
                perf_counter() - began,
                not self.stopping,
            )
        )

    def _release_cpus(self, phase: Phase) -> None:
        ops = self.scenario.ops
        for worker in self.cpus:
            quota = 1 << 62 if ops is None else max(1, round(ops * self.scenario.share(phase)))
            worker.limit = worker.progress.operations + quota
            worker.stopped = False
        # After the flags were cleared: in either order, somebody sees the other's store.
        if self.stopping:
            self.stop()

    def _watch(self, futures: list[Future[None]], phase: Phase, began: float) -> None:
        """Until all bodies have ended: verify at intervals, stop them at the deadline."""
        seconds = self.scenario.seconds
        deadline = None if seconds is None else began + seconds * self.scenario.share(phase)
        pending = set(futures)
        while pending:
            times = [time for time in (deadline, self._next_verify) if time is not None]
            timeout = max(0.0, min(times) - perf_counter()) if times else None
            done, pending = wait(pending, timeout, FIRST_EXCEPTION)
            self._collect(done)
            now = perf_counter()
            if deadline is not None and now >= deadline:
                deadline = None
                for worker in self.cpus:
                    worker.stopped = True
            if self.errors:
                self._next_verify = None
            elif pending and self._next_verify is not None and now >= self._next_verify:
                self._verify()
                self.current = phase.name
                self._next_verify = perf_counter() + self.scenario.verify_every

    def _collect(self, done: set[Future[None]]) -> None:
        for future in done:
            error = future.exception()
            if error is not None:
                self._failed(error)

    def _on_all_cpus(self, workload: Workload) -> None:
        """Free what is left over, and hear of interrupt handlers that failed."""
        futures = {
            self.machine.submit(worker.cpu, self._give_back, workload, worker)
            for worker in self.cpus
        }
        wait(futures)
        self._collect(futures)
        self._collect_interrupt_failures()

    def _collect_interrupt_failures(self) -> None:
        try:
            self.machine.run([])  # raises what handlers raised that nobody waited for
        except BaseExceptionGroup as group:
            self._failed(group)

    def _verify(self) -> None:
        self.current = "verify"
        try:
            self.machine.verify()
        except Exception as error:
            self._failed(error)
        self.verifications += 1
        self.mixed.look(self._seconds())
        self._collect_interrupt_failures()

    def _clean_up(self, workload: Workload) -> None:
        """Have *workload* destroy its caches."""
        try:
            self.machine.submit(0, workload.cleanup, self.machine).result()
        except CacheBusy as error:
            if not self.errors:  # else objects may well be lost
                self._failed(error)

    def _settle(self) -> None:
        """Wait for all that is freed later, and have caches keep no empty slab."""
        machine = self.machine

        def settle() -> None:
            machine.workqueue.drain()
            machine.rcu.rcu_barrier()
            for cache in machine.slab.caches():
                cache.shrink()
            machine.rcu.rcu_barrier()

        machine.submit(0, settle).result()

    def _check_all_freed(self) -> None:
        """Every page that the run allocated must be back."""
        memory = memory_in_use(self.machine)
        lost = memory.allocated - self._allocated_before
        if not lost:
            return
        pages = [page for page in self.machine.mem_map.pages.values() if page.order >= 0]
        caches = [cache.statistics() for cache in self.machine.slab.caches()]
        objects = ", ".join(f"{s.name} {s.active_objects}" for s in caches if s.active_objects)
        self._failed(
            PageCountError(
                f"{lost} page(s) are still allocated after everything was freed: free "
                f"{memory.free} + cached {memory.cached} of {memory.managed} managed; "
                f"the first of them are {pages[:3]}"
                + (f"; objects in use: {objects}" if objects else "")
            )
        )

    # -- the CPUs' threads

    def _on_cpu(self, workload: Workload, worker: Worker) -> None:
        """One CPU's part of a phase. Whatever happens, it leaves and gives its pages back."""
        errors: list[Exception] = []
        began = perf_counter()
        for step in (workload.body, workload.leave):
            try:
                step(worker)
            except Exception as error:
                errors.append(error)
                self.stop()
        errors += worker.release()
        worker.progress.seconds += perf_counter() - began
        if errors:
            raise ExceptionGroup(f"cpu{worker.cpu}: workload {workload.name!r}", errors)

    @staticmethod
    def _give_back(workload: Workload, worker: Worker) -> None:
        workload.leftovers(worker)
        errors = worker.release()
        if errors:
            raise ExceptionGroup(f"cpu{worker.cpu}: giving pages back", errors)


def memory_in_use(machine: Machine) -> MemoryResult:
    """Pages by where they are, with all CPUs parked; page sets of kernel threads included."""

    def count() -> MemoryResult:
        managed = free = cached = 0
        for zone in machine.zones:
            managed += zone.managed_pages
            free += sum(area.nr_free << order for order, area in enumerate(zone.free_area))
            cached += sum(pageset.count for pageset in zone.pageset.all())
        return MemoryResult(managed, free, cached, managed - free - cached)

    return machine.runtime.stop_machine(count)


def describe(scenario: Scenario) -> dict[str, Any]:
    """A scenario as plain data."""
    plain = {name: getattr(scenario, name) for name in scenario.__dataclass_fields__}
    plain["phases"] = [
        {"name": phase.name, "weight": phase.weight, **phase.options} for phase in scenario.phases
    ]
    return plain
