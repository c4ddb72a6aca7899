"""
Memory pressure: allocate until there is no more, with a shrinker that gives some of it back.

Locks:
    cache->lock     the pages of one cache; a leaf: freed outside of it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL, NORETRY, NOWARN
from concmem.mm.reclaim import Shrinker
from concmem.workloads.base import Workload, option, register

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.runtime.api import Runtime
    from concmem.workloads.worker import Owned, Worker

PATIENT: Final = GFP_KERNEL | NORETRY | NOWARN
"""May reclaim, but gives up after one round."""

URGENT: Final = GFP_ATOMIC | NOWARN
"""May not sleep, and may use part of the reserves."""


class Cache:
    """The reclaimable pages of one CPU; anybody may take them."""

    def __init__(self, rt: Runtime) -> None:
        self.lock = rt.spinlock("cache->lock")
        self.pages: list[Owned] = []  # lock

    def add(self, owned: Owned) -> None:
        """Keep *owned* until somebody needs the memory."""
        with self.lock:
            self.pages.append(owned)

    def take(self) -> Owned | None:
        """The page that came last, which the caller then owns; ``None`` when there is none."""
        with self.lock:
            return self.pages.pop() if self.pages else None


@register("pressure")
@dataclass
class Pressure(Workload):
    """Allocate to exhaustion, atomically and patiently, against a shrinker; free a part; again."""

    max_order: int = option(3, 0, 10)
    """Largest order; a failure of a high order is followed by one of order 0."""
    keep: int = option(50, 0, 100)
    """Per cent of what a CPU holds that it keeps when memory is exhausted."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        rt = machine.runtime
        self._workers = workers
        self._this_cpu = rt.smp_processor_id
        self._caches = [Cache(rt) for _ in range(rt.nr_cpus)]
        self._shrinker = Shrinker(self._count_objects, self._scan_objects, "stress-cache")
        machine.register_shrinker(self._shrinker)

    def end(self, machine: Machine) -> None:
        machine.unregister_shrinker(self._shrinker)

    # -- the shrinker; on any CPU, or on kswapd

    def _count_objects(self) -> int:
        # No lock: an estimate, by which reclaim decides how much to ask for.
        return sum(len(cache.pages) for cache in self._caches)

    def _scan_objects(self, nr: int) -> int:
        """Free up to *nr* blocks, other CPUs' first; how many pages that gave."""
        here = self._workers[self._this_cpu()]
        pages = scanned = 0
        for i in range(1, len(self._caches) + 1):
            cache = self._caches[(here.cpu + i) % len(self._caches)]
            while scanned < nr and (owned := cache.take()) is not None:
                scanned += 1
                pages += 1 << owned[1]
                here.free(owned)
        return pages

    # -- the CPUs

    def body(self, worker: Worker) -> None:
        random, held = worker.rng.random, worker.held
        cache = self._caches[worker.cpu]
        while worker.running():
            order = 0 if random() < 0.7 else int(random() * (self.max_order + 1))
            owned = worker.alloc(order, URGENT if random() < 0.3 else PATIENT)
            if owned is None:
                if order:
                    worker.hold(0, PATIENT)
                self._give_up_some(worker, cache)
            elif random() < 0.5:
                cache.add(owned)
            else:
                held.append(owned)

    def _give_up_some(self, worker: Worker, cache: Cache) -> None:
        """Out of memory: free a part of what this CPU holds, and one page of its cache."""
        worker.rng.shuffle(worker.held)
        keep = len(worker.held) * self.keep // 100
        while len(worker.held) > keep:
            worker.free(worker.held.pop())
        owned = cache.take()
        if owned is not None:
            worker.free(owned)

    def leave(self, worker: Worker) -> None:
        cache = self._caches[worker.cpu]
        while (owned := cache.take()) is not None:
            worker.held.append(owned)
