"""
``vmalloc`` churn: areas of all sizes, pages mapped for a moment, and frees from interrupts.

Locks: see `Slots`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from concmem.mm.gfp import GFP_KERNEL, NORETRY, NOWARN, ZERO
from concmem.units import PAGE_SIZE
from concmem.workloads.base import Workload, option, register
from concmem.workloads.interrupts import Slots
from concmem.workloads.object_owner import FunctionSource, ObjectOwnershipError
from concmem.workloads.slab_sources import PATIENT

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.page import Page
    from concmem.workloads.object_owner import OwnedObject
    from concmem.workloads.worker import Owned, Worker


@register("vmalloc-churn")
@dataclass
class VmallocChurn(Workload):
    """Allocate and free vmalloc areas of all sizes, map pages, and free from interrupts."""

    held: int = option(24, 1, 10_000)
    """Areas that a CPU keeps at most."""
    max_pages: int = option(32, 1, 4096)
    """Pages of an area, at most; small ones are more frequent."""
    map_pages: int = option(12, 1, 1024)
    """Pages mapped together by vm_map_ram and vmap, at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._machine = machine
        self._call_on = rt.call_on
        self._workers = workers[: rt.nr_cpus]
        self._slots = [Slots(rt, 4) for _ in self._workers]
        self._vfree = FunctionSource(machine, "vfree")
        self._kvfree = FunctionSource(machine, "kvfree")

    def body(self, worker: Worker) -> None:
        random, objects = worker.rng.random, worker.objects
        held = objects.held
        while worker.running():
            what = random()
            if what < 0.1:
                self._map_for_a_moment(worker)
            elif what < 0.11:
                worker.progress.operations += 1
                self._machine.vm_unmap_aliases()
            elif held and (len(held) >= self.held or what < 0.5):
                self._free_one(worker)
            elif not objects.hold(self._alloc(worker)):
                objects.drop_half()

    def leave(self, worker: Worker) -> None:
        self._slots[worker.cpu].wait_until_idle()

    # -- areas

    def _alloc(self, worker: Worker) -> OwnedObject | None:
        """An area of any size, which need not end where a page does."""
        rng, machine = worker.rng, self._machine
        size = rng.randint(1, rng.randint(1, self.max_pages) * PAGE_SIZE)
        gfp = PATIENT | ZERO if rng.random() < 0.3 else PATIENT
        if rng.random() < 0.2:
            address = machine.kvmalloc(size, gfp)
            return worker.objects.own(self._kvfree, address, size, gfp)
        vmalloc = machine.vzalloc if gfp & ZERO else machine.vmalloc
        return worker.objects.own(self._vfree, vmalloc(size, gfp), size, gfp)

    def _free_one(self, worker: Worker) -> None:
        """Free any area held, here or in an interrupt on some CPU."""
        owned = worker.objects.take_any()
        if worker.rng.random() < 0.7:
            worker.objects.free(owned)
            return
        target = worker.rng.choice(self._workers)
        slots = self._slots[worker.cpu]

        def handler() -> None:
            try:
                target.objects.free(owned)
            finally:
                slots.give_back()

        slots.take()
        self._call_on(target.cpu, handler, wait=False)

    # -- mappings

    def _map_for_a_moment(self, worker: Worker) -> None:
        """Map pages of one's own, write through the mapping, and find it in the pages."""
        mine: list[Owned] = []
        try:
            for _ in range(worker.rng.randint(1, self.map_pages)):
                owned = worker.alloc(0, GFP_KERNEL | NORETRY | NOWARN)
                if owned is None:
                    break
                mine.append(owned)
            if mine:
                pages = [page for page, _, _ in mine]
                if worker.rng.random() < 0.7:
                    self._use_mapping(worker, pages, self._machine.vm_map_ram, self._unmap_ram)
                else:
                    self._use_mapping(worker, pages, self._machine.vmap, self._vunmap)
        finally:
            worker.held += mine
        while worker.held:
            worker.free(worker.held.pop())

    def _unmap_ram(self, address: int, count: int) -> None:
        self._machine.vm_unmap_ram(address, count)

    def _vunmap(self, address: int, count: int) -> None:
        self._machine.vunmap(address)

    def _use_mapping(
        self,
        worker: Worker,
        pages: list[Page],
        map_pages: Callable[[list[Page]], int | None],
        unmap: Callable[[int, int], None],
    ) -> None:
        """Give each page's second half a pattern by way of the mapping; leave the page's tag alone."""
        memory, progress = self._machine.memory, worker.progress
        address = map_pages(pages)
        progress.operations += 1
        if address is None:
            progress.failed += 1
            return
        half = PAGE_SIZE // 2
        patterns = [(page.pfn << 16 | worker.cpu).to_bytes(8, "little") for page in pages]
        for number, pattern in enumerate(patterns):
            memory.write(address + number * PAGE_SIZE + half, pattern * (half // 8))
        for number, (page, pattern) in enumerate(zip(pages, patterns, strict=True)):
            start = self._machine.page_address(page)
            good = memory.read(start + half, half) == pattern * (half // 8)
            if number:  # across the border to the page before
                border = memory.read(address + number * PAGE_SIZE - 8, 16)
                good = good and border == patterns[number - 1] + memory.read(start, 8)
            if not good:
                raise ObjectOwnershipError(
                    f"page {number} of {len(pages)} mapped at {address:#x}, pfn {page.pfn:#x}: the "
                    f"mapping and the page do not hold the same"
                )
        progress.operations += 1
        unmap(address, len(pages))
