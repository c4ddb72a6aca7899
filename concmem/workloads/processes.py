"""
System calls: heaps that grow and shrink, mappings that come and go, and memory that is used.

Each CPU has a process of its own, whose heap it moves, and maps in one that all CPUs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from concmem.units import PAGE_SIZE
from concmem.workloads.base import Workload, option, register
from concmem.workloads.object_owner import ObjectOwnershipError

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.process import Process
    from concmem.workloads.worker import Worker


class _Mapping(NamedTuple):
    process: Process
    address: int
    nr_pages: int
    tag: int
    """In the first word of each page, with the page's address."""

    def write(self) -> None:
        for number in range(self.nr_pages):
            address = self.address + number * PAGE_SIZE
            self.process.write_u64(address, self.tag ^ address)

    def check(self) -> None:
        """Raise `ObjectOwnershipError` if somebody else has written there."""
        for number in range(self.nr_pages):
            address = self.address + number * PAGE_SIZE
            found = self.process.read_u64(address)
            if found != self.tag ^ address:
                raise ObjectOwnershipError(
                    f"{self.process}: the page at {address:#x} should hold {self.tag ^ address:#x} "
                    f"and holds {found:#x}"
                )


@register("processes")
@dataclass
class Processes(Workload):
    """Move the heap, map and unmap, in a process of each CPU and in one of all."""

    heap_pages: int = option(16, 1, 4096)
    """Pages of a heap, at most."""
    held: int = option(6, 1, 1000)
    """Mappings that a CPU keeps at most."""
    max_pages: int = option(6, 1, 1024)
    """Pages of a mapping, at most."""

    def start(self, machine: Machine, workers: Sequence[Worker]) -> None:
        nr_cpus = machine.runtime.nr_cpus
        self._own = [machine.process(f"stress-{cpu}") for cpu in range(nr_cpus)]
        self._shared = machine.process("stress-shared")

    def body(self, worker: Worker) -> None:
        random = worker.rng.random
        own = self._own[worker.cpu]
        heap = _Mapping(own, own.brk(0), 0, worker.cpu << 48)
        mappings: list[_Mapping] = []
        while worker.running():
            worker.progress.operations += 1
            if random() < 0.3:
                heap = self._move_heap(worker, heap)
            elif mappings and (len(mappings) >= self.held or random() < 0.4):
                self._unmap(mappings.pop(worker.rng.randrange(len(mappings))))
            elif (mapping := self._map(worker)) is not None:
                mappings.append(mapping)
            else:
                worker.progress.failed += 1
        for mapping in mappings:
            self._unmap(mapping)

    def end(self, machine: Machine) -> None:
        """Every CPU has left its body: a last look, and on one of them all processes end."""
        machine.procfs.read(f"{self._shared.pid}/smaps")

        def exit_all() -> None:
            for process in (*self._own, self._shared):
                process.exit()

        machine.submit(0, exit_all).result()

    def _move_heap(self, worker: Worker, heap: _Mapping) -> _Mapping:
        """To any size; what was there before and still is has kept what it held."""
        nr_pages = worker.rng.randint(0, self.heap_pages)
        wanted = heap.address + nr_pages * PAGE_SIZE
        heap.check()
        if heap.process.brk(wanted) != wanted:
            worker.progress.failed += 1
            return heap
        heap._replace(nr_pages=min(nr_pages, heap.nr_pages)).check()
        heap = heap._replace(nr_pages=nr_pages)
        heap.write()
        return heap

    def _map(self, worker: Worker) -> _Mapping | None:
        rng = worker.rng
        process = self._own[worker.cpu] if rng.random() < 0.5 else self._shared
        nr_pages = rng.randint(1, self.max_pages)
        address = process.mmap(nr_pages * PAGE_SIZE)
        if address is None:
            return None
        mapping = _Mapping(process, address, nr_pages, (worker.cpu << 48) + rng.getrandbits(40))
        mapping.write()
        return mapping

    @staticmethod
    def _unmap(mapping: _Mapping) -> None:
        mapping.check()
        mapping.process.munmap(mapping.address, mapping.nr_pages * PAGE_SIZE)
