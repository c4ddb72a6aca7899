"""
One CPU of a replay: its steps, in order, and what it shares with the other CPUs.

A free whose allocation has not happened yet waits for it. Waiters sleep on one queue, and a CPU that
has allocated what another CPU frees looks whether anybody does::

    allocating                       freeing
    store the page or address        announce itself (nr_waiting)
    nr_waiting == 0? go on           take the lock; is it there? go on
    take the lock, wake all          sleep, which gives up the lock

The allocator stores before it looks, the waiter announces itself before it looks: in every order
one of the two sees the other, so no wake-up is lost and nobody takes the lock without need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from concmem.machine import Machine
from concmem.mm.gfp import COMP
from concmem.mm.page import Page
from concmem.traces.agreement import KmallocSizes
from concmem.traces.plan import Plan
from concmem.traces.steps import (
    CacheAllocStep,
    KmallocStep,
    ObjectFreeStep,
    PageAllocStep,
    PageFreeStep,
    Step,
)

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache

CHUNK: Final = 256
"""Steps between two looks whether to stop, and two reports of a CPU's progress."""

PENDING: Final = -1
"""In place of an object's address: it is not allocated yet."""
NO_MEMORY: Final = 0
"""In place of an object's address: the model could not serve it."""
FREED: Final = -2
"""In place of an object's address: it is freed."""


@dataclass
class CpuCounts:
    """What one CPU of a replay did."""

    page_allocs: int = 0
    page_frees: int = 0
    failed_pages: int = 0
    waits: int = 0
    migratetypes: Counter[tuple[int, int]] = field(default_factory=Counter)
    kmalloc_sizes: KmallocSizes = field(default_factory=Counter)


class Slots:
    """
    What the CPUs of a replay allocate for each other, and the queue of those who wait for it.

    Each slot and each object is written once, by the CPU that allocates, and read by the one that
    frees.
    """

    def __init__(self, machine: Machine, plan: Plan) -> None:
        rt = machine.runtime
        self.pages: list[Page | None] = [None] * plan.pages.nr_slots
        self.done = bytearray(plan.pages.nr_slots)  # 1: the slot is final, even if it failed
        self.objects: list[int] = [PENDING] * plan.slab.nr_objects
        self.stop = rt.cell(False, "replay stop")
        self._nr_waiting = rt.atomic(0, "replay nr_waiting")
        self._lock = rt.spinlock("replay_lock")
        self._queue = rt.waitqueue(self._lock, "replay slots")

    def count_objects(self) -> tuple[int, int, int]:
        """Objects that were allocated, freed, and that the model could not serve."""
        freed, failed = self.objects.count(FREED), self.objects.count(NO_MEMORY)
        return len(self.objects) - self.objects.count(PENDING) - failed, freed, failed

    def wake_waiters(self) -> None:
        """Something that another CPU frees is allocated: see the module's text."""
        # No lock: read by an atomic operation, which is a full barrier, so that what was stored
        # before is seen to be stored before this looks.
        if self._nr_waiting.add_return(0):
            self.wake_all()

    def wake_all(self) -> None:
        """Have everybody who waits look again."""
        with self._lock:
            self._queue.wake_up_all()

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Sleep until *is_there* or the replay is broken off."""
        self._nr_waiting.inc()
        try:
            with self._lock:
                self._queue.wait_for(lambda: is_there() or self.stop.value)
        finally:
            self._nr_waiting.dec()


class ReplayCpu:
    """The CPU whose steps are *steps*. `caches` are the model's, by number in the plan."""

    def __init__(
        self,
        machine: Machine,
        plan: Plan,
        slots: Slots,
        caches: Sequence[KmemCache],
        steps: Sequence[Step],
    ) -> None:
        self._machine = machine
        self._plan = plan
        self._slots = slots
        self._caches = caches
        self._steps = steps
        self.counts = CpuCounts()
        self.progress = 0
        """Steps done, every so often."""

    def run(self) -> CpuCounts:
        """Do all steps, on the model's CPU. May sleep."""
        slots = self._slots
        try:
            self._run_steps()
        except BaseException:
            # Whoever waits for this CPU's allocations would wait for ever.
            slots.stop.value = True
            raise
        finally:
            self.progress = len(self._steps)
            if slots.stop.value:
                slots.wake_all()
        return self.counts

    def _run_steps(self) -> None:
        """
        The loop that decides how long a replay takes.

        Objects are the bulk of a trace, so what is done to them is written out. What became of
        them is counted afterwards, see `Slots.count_objects`.
        """
        steps, stop = self._steps, self._slots.stop
        objects, cross = self._slots.objects, self._plan.slab.cross_objects
        wake_waiters, nr_nodes = self._slots.wake_waiters, len(self._machine.nodes)
        allocs = [cache.alloc for cache in self._caches]
        frees = [cache.free for cache in self._caches]
        frees.append(self._machine.kfree)  # so that KMALLOC, -1, is its index
        for start in range(0, len(steps), CHUNK):
            self.progress = start
            if stop.value:
                break
            for step in steps[start : start + CHUNK]:
                try:
                    if type(step) is CacheAllocStep:
                        obj, cache, gfp, node, _ = step
                        if node < 0 or node >= nr_nodes:
                            objects[obj] = allocs[cache](gfp) or NO_MEMORY
                        else:
                            objects[obj] = allocs[cache](gfp, node) or NO_MEMORY
                        if cross[obj]:
                            wake_waiters()
                    elif type(step) is ObjectFreeStep:
                        obj, cache, _, _, _, _ = step
                        address = objects[obj]
                        if address == PENDING:
                            address = self._wait_for_object(obj)
                        if address > 0:
                            frees[cache](address)
                            objects[obj] = FREED
                    elif type(step) is PageAllocStep:
                        self._alloc_pages(step)
                    elif type(step) is PageFreeStep:
                        self._free_pages(step)
                    elif type(step) is KmallocStep:
                        self._kmalloc(step)
                        if cross[step.obj]:
                            wake_waiters()
                except Exception as error:
                    error.add_note(f"line {step.line} of the trace")
                    raise

    def _wait_for_object(self, obj: int) -> int:
        """Sleep until *obj* is allocated; its address, or `PENDING` if that will not be."""
        objects = self._slots.objects
        self.counts.waits += 1
        self._slots.wait_for(lambda: objects[obj] != PENDING)
        return objects[obj]

    def _kmalloc(self, step: KmallocStep) -> None:
        obj, size, gfp, node, traced_size, _ = step
        machine = self._machine
        address = machine.kmalloc(size, gfp, node if 0 <= node < len(machine.nodes) else None)
        if address is not None:
            self.counts.kmalloc_sizes[size, traced_size, machine.ksize(address)] += 1
        self._slots.objects[obj] = address or NO_MEMORY

    def _alloc_pages(self, step: PageAllocStep) -> None:
        slot, order, gfp, migratetype, _ = step
        plan, slots, counts = self._plan.pages, self._slots, self.counts
        split = slot in plan.split_slots
        page = self._machine.alloc_pages(order, gfp & ~COMP if split else gfp)
        if page is None:
            counts.failed_pages += 1
        else:
            if split and order:
                self._machine.split_page(page)
            counts.page_allocs += 1
            counts.migratetypes[migratetype, page.migratetype] += 1
        slots.pages[slot] = page
        slots.done[slot] = 1
        if plan.cross_slots[slot]:
            slots.wake_waiters()

    def _free_pages(self, step: PageFreeStep) -> None:
        slot, offset, order, _, _, _, _ = step
        slots = self._slots
        # No lock: a slot that is done stays done.
        if not slots.done[slot]:
            self.counts.waits += 1
            slots.wait_for(lambda: slots.done[slot] == 1)
        page = slots.pages[slot]
        if page is not None:
            free_part(self._machine, page, offset, order, slot in self._plan.pages.split_slots)
            self.counts.page_frees += 1


def free_part(machine: Machine, page: Page, offset: int, order: int, split: bool) -> None:
    """Free ``2**order`` pages that start *offset* pages behind *page*. On a CPU."""
    if not split:
        machine.free_pages(page, order)
        return
    for pfn in range(page.pfn + offset, page.pfn + offset + (1 << order)):
        machine.free_pages(machine.pfn_to_page(pfn), 0)
