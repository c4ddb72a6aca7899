"""Memory pools that are too small: elements from the reserve, from the allocator, waited for, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from concmem.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from concmem.workloads.base import Workload, option, register
from concmem.workloads.object_owner import ObjectOwnershipError

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.mempool import Mempool
    from concmem.workloads.worker import Worker

SIZE = 120
WAIT = 0.002
"""Seconds that an allocation waits at most, so that a CPU that holds all elements goes on."""


class _Scarce:
    """A cache of which only so many objects may be in use at a time."""

    def __init__(self, machine: Machine, cache: KmemCache, limit: int) -> None:
        self._cache = cache
        self._limit = limit
        self._nr = machine.runtime.atomic(0, "stress scarce objects")

    def alloc(self, gfp: int) -> int | None:
        if self._nr.add_return(1) > self._limit or (address := self._cache.alloc(gfp)) is None:
            self._nr.dec()
            return None
        return address

    def free(self, address: int) -> None:
        self._cache.free(address)
        self._nr.dec()


class _Element(NamedTuple):
    address: int
    tag: bytes


@register("mempool")
@dataclass
class MempoolWorkload(Workload):
    """All CPUs share a pool of few elements over an allocator that has little more."""

    reserve: int = option(4, 1, 1000)
    """Elements kept in reserve."""
    more: int = option(2, 0, 1000)
    """Elements that the allocator has besides."""
    held: int = option(8, 1, 1000)
    """Elements that a CPU holds at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        self._machine = machine
        self._pools: list[Mempool] = []
        # Of each CPU's body only; the leak detector looks at them.
        self._elements: list[list[_Element]] = [[] for _ in range(machine.runtime.nr_cpus)]
        machine.kmemleak.register_root(self, MempoolWorkload._addresses)
        self._cache = machine.kmem_cache_create("stress-mempool", SIZE)
        machine.submit(0, self._create_pools).result()

    def _create_pools(self) -> None:
        create = self._machine.mempool_create
        scarce = _Scarce(self._machine, self._cache, self.reserve + self.more)
        self._pools.append(create(self.reserve, scarce.alloc, scarce.free))
        # One that gets only a part of its reserve.
        poor = _Scarce(self._machine, self._cache, 1)
        self._pools.append(create(2, poor.alloc, poor.free, None, True))

    def body(self, worker: Worker) -> None:
        random = worker.rng.random
        pool, poor = self._pools
        elements = self._elements[worker.cpu]
        try:
            while worker.running():
                worker.progress.operations += 1
                if elements and (len(elements) >= self.held or random() < 0.5):
                    self._free(pool, elements.pop(worker.rng.randrange(len(elements))))
                elif (element := self._alloc(worker, pool, random() < 0.3)) is not None:
                    elements.append(element)
                if random() < 0.05 and (poorly := self._alloc(worker, poor, True)) is not None:
                    self._free(poor, poorly)
        finally:
            while elements:
                self._free(pool, elements.pop())

    def end(self, machine: Machine) -> None:
        """Every CPU has left its body and given back what it had."""

        def destroy() -> None:
            for pool in self._pools:
                pool.destroy()

        machine.submit(0, destroy).result()

    def cleanup(self, machine: Machine) -> None:
        self._cache.destroy("stress-mempool")

    def _addresses(self) -> list[int]:
        return [element.address for elements in self._elements for element in list(elements)]

    def _alloc(self, worker: Worker, pool: Mempool, atomic: bool) -> _Element | None:
        progress = worker.progress
        address = pool.alloc(GFP_ATOMIC) if atomic else pool.alloc(GFP_KERNEL, WAIT)
        if address is None:
            progress.failed += 1
            return None
        tag = worker.rng.randbytes(SIZE)
        self._machine.memory.write(address, tag)
        return _Element(address, tag)

    def _free(self, pool: Mempool, element: _Element) -> None:
        if self._machine.memory.read(element.address, SIZE) != element.tag:
            raise ObjectOwnershipError(
                f"{pool!r}: the element at {element.address:#x} has two owners: it does not hold what "
                "was written there"
            )
        pool.free(element.address)
