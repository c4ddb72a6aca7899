"""
Replaying a plan: each traced CPU's steps on a CPU of their own, in order.

A free whose allocation has not happened yet waits for it. Waiters sleep on one queue, and a CPU that
allocates looks whether anybody does::

    allocating                       freeing
    store the page                   announce itself (nr_waiting)
    nr_waiting == 0? go on           take the lock; page there? go on
    take the lock, wake all          sleep, which gives up the lock

The allocator stores before it looks, the waiter announces itself before it looks: in every order
one of the two sees the other, so no wake-up is lost and nobody takes the lock without need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from concmem.errors import BadArgument, PageCountError
from concmem.machine import Machine
from concmem.mm.gfp import COMP
from concmem.mm.page import Page
from concmem.mm.statistics import MachineStatistics
from concmem.runtime.free import wait_interruptibly
from concmem.traces.plan import AllocStep, FreeStep, Plan, Step

PROGRESS_EVERY: Final = 256
"""Steps between two reports of a CPU's progress."""


@dataclass
class CpuCounts:
    """What one CPU of a replay did."""

    allocs: int = 0
    frees: int = 0
    failed: int = 0
    waits: int = 0
    migratetypes: Counter[tuple[int, int]] = field(default_factory=Counter)


@dataclass
class ReplayResult:
    """What a replay did. Filled also when it was broken off."""

    cpus: dict[int, int]
    """Traced CPU to model CPU."""
    allocs: int = 0
    frees: int = 0
    """Free steps done; each is one free of the trace, or one that it lost."""
    failed: int = 0
    """Allocations that the model could not serve; their frees are skipped."""
    waits: int = 0
    """Frees that had to wait for the allocation on another CPU."""
    seconds: float = 0.0
    migratetype_agreement: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(traced, model's) migratetype of each allocation."""
    at_end: MachineStatistics | None = None
    """Before what is still live is freed."""
    verified: bool = False

    def add(self, counts: CpuCounts) -> None:
        """Add what one CPU did."""
        self.allocs += counts.allocs
        self.frees += counts.frees
        self.failed += counts.failed
        self.waits += counts.waits
        self.migratetype_agreement += counts.migratetypes

    @property
    def steps(self) -> int:
        return self.allocs + self.frees + self.failed

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0


class Player:
    """
    One replay of *plan* on *machine*.

    Raises:
        BadArgument: the machine has fewer CPUs than the trace.
    """

    def __init__(self, machine: Machine, plan: Plan) -> None:
        if machine.runtime.nr_cpus < len(plan.cpus):
            raise BadArgument(
                f"cpus: the trace has {len(plan.cpus)} CPUs, the machine {machine.runtime.nr_cpus}"
            )
        self._machine = machine
        self._plan = plan
        rt = machine.runtime
        # Each slot is written once, by the CPU that allocates, and read by the one that frees.
        self._pages: list[Page | None] = [None] * plan.nr_slots
        self._done = bytearray(plan.nr_slots)  # 1: the slot is final, even if it failed
        self._nr_waiting = rt.atomic(0, "replay nr_waiting")
        self._lock = rt.spinlock("replay_lock")
        self._queue = rt.waitqueue(self._lock, "replay slots")
        self._stop = rt.cell(False, "replay stop")
        self.progress = [0] * len(plan.cpus)
        """Steps done by each CPU, every so often."""
        self.nr_steps = sum(len(steps) for steps in plan.steps.values())
        self.result = ReplayResult({cpu: i for i, cpu in enumerate(plan.cpus)})

    def run(self) -> ReplayResult:
        """Replay, verify, free what is left, verify again."""
        self._play()
        self.result.at_end = self._machine.statistics()
        self._machine.verify()
        if self._stop.value:
            self.result.verified = True
            raise KeyboardInterrupt
        self._machine.run([self._free_what_is_left])
        self._machine.verify()
        self._check_nothing_left()
        self.result.verified = True
        return self.result

    def _play(self) -> None:
        """Run every CPU's steps. Ctrl-C stops them at their next step, and is raised by `run`."""
        bodies = [
            self._body(number, self._plan.steps[cpu]) for number, cpu in enumerate(self._plan.cpus)
        ]
        start = perf_counter()
        futures = [self._machine.submit(cpu, body) for cpu, body in enumerate(bodies)]
        try:
            wait_interruptibly(futures)
        except KeyboardInterrupt:
            self.stop()
            wait_interruptibly(futures)
        self.result.seconds = perf_counter() - start
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failure(s) on the CPUs", failures)
        for future in futures:
            self.result.add(future.result())

    def stop(self) -> None:
        """Break the replay off: every CPU stops at its next step."""
        self._stop.value = True

    def _body(self, number: int, steps: tuple[Step, ...]) -> Callable[[], CpuCounts]:
        def body() -> CpuCounts:
            counts = CpuCounts()
            try:
                for index, step in enumerate(steps):
                    if not index % PROGRESS_EVERY:
                        self.progress[number] = index
                        if self._stop.value:
                            break
                    if isinstance(step, AllocStep):
                        self._alloc(step, counts)
                    else:
                        self._free(step, counts)
            except BaseException:
                # Whoever waits for this CPU's allocations would wait for ever.
                self._stop.value = True
                raise
            finally:
                self.progress[number] = len(steps)
                if self._stop.value:
                    with self._lock:
                        self._queue.wake_up_all()
            return counts

        return body

    def _alloc(self, step: AllocStep, counts: CpuCounts) -> None:
        split = step.slot in self._plan.split_slots
        page = self._machine.alloc_pages(step.order, step.gfp & ~COMP if split else step.gfp)
        if page is None:
            counts.failed += 1
        else:
            if split and step.order:
                self._machine.split_page(page)
            counts.allocs += 1
            counts.migratetypes[step.migratetype, page.migratetype] += 1
        self._pages[step.slot] = page
        self._done[step.slot] = 1
        # No lock: see the module's text. Read by an atomic operation, which is a full barrier: the
        # slot is seen to be done before this looks.
        if self._nr_waiting.add_return(0):
            with self._lock:
                self._queue.wake_up_all()

    def _free(self, step: FreeStep, counts: CpuCounts) -> None:
        # No lock: a slot that is done stays done.
        if not self._done[step.slot]:
            counts.waits += 1
            self._wait_for(step.slot)
        page = self._pages[step.slot]
        if page is None:
            return
        self._free_part(step.slot, page, step.offset, step.order)
        counts.frees += 1

    def _wait_for(self, slot: int) -> None:
        self._nr_waiting.inc()
        try:
            with self._lock:
                self._queue.wait_for(lambda: self._done[slot] == 1 or self._stop.value)
        finally:
            self._nr_waiting.dec()

    def _free_part(self, slot: int, page: Page, offset: int, order: int) -> None:
        if slot not in self._plan.split_slots:
            self._machine.free_pages(page, order)
            return
        for pfn in range(page.pfn + offset, page.pfn + offset + (1 << order)):
            self._machine.free_pages(self._machine.pfn_to_page(pfn), 0)

    def _free_what_is_left(self) -> None:
        for slot, offset, order in self._plan.live_at_end:
            page = self._pages[slot]
            if page is not None:
                self._free_part(slot, page, offset, order)

    def _check_nothing_left(self) -> None:
        """Every page came back, unless the replay was broken off or an allocation failed."""
        if self._stop.value:
            return
        for zone in self._machine.zones:
            cached = sum(pcp.count for pcp in zone.pageset.all())
            free = zone.nr_free_pages_snapshot()
            if free + cached != zone.managed_pages:
                raise PageCountError(
                    f"zone {zone.name}: {zone.managed_pages - free - cached} pages still allocated "
                    "after the replay freed all"
                )
