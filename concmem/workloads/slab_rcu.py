"""
RCU readers of a ``SLAB_TYPESAFE_BY_RCU`` cache: they look at objects that may be freed meanwhile.

Each CPU publishes some of its objects in cells. A reader takes an address from any of them and looks at
the object for as long as it is in its critical section. The object may be freed and be another owner's
by then, but its memory must be an object of the cache's type all the while: slabs wait for a grace
period before they go back to the buddy system.

Locks: none. A cell is written by its own CPU, and read by all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.workloads.slab_sources import PATIENT, check_mark

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.runtime.api import Cell
    from concmem.workloads.object_owner import CacheSource, OwnedObject
    from concmem.workloads.worker import Worker


class PublishedObjects:
    """
    Objects of one cache that readers can find.

    Args:
        per_cpu: how many each CPU publishes at most.
    """

    def __init__(self, machine: Machine, source: CacheSource, per_cpu: int) -> None:
        rt = machine.runtime
        self._memory = machine.memory
        self._source = source
        self._rcu = machine.rcu
        self._cpu_relax = rt.cpu_relax
        self._per_cpu = per_cpu
        self._cells: list[Cell[int]] = [
            rt.cell(0, "published") for _ in range(rt.nr_cpus * per_cpu)
        ]
        self._owned: list[list[OwnedObject | None]] = [[None] * per_cpu for _ in range(rt.nr_cpus)]

    def change_one(self, worker: Worker) -> None:
        """Publish an object in one of this CPU's cells, or take the one there back and free it."""
        index = int(worker.rng.random() * self._per_cpu)
        if self._owned[worker.cpu][index] is not None:
            self._withdraw(worker, index)
            return
        owned = worker.objects.alloc(self._source, PATIENT)
        if owned is not None:
            self._owned[worker.cpu][index] = owned
            self._cell(worker.cpu, index).value = owned.address

    def look_at_one(self, worker: Worker) -> None:
        """Be a reader of any CPU's object."""
        cell = self._cells[int(worker.rng.random() * len(self._cells))]
        self._rcu.read_lock()
        try:
            address = cell.value
            if address:
                who = f"RCU reader on cpu{worker.cpu}"
                check_mark(self._memory, address, who)
                self._cpu_relax()  # it may be freed here, and its slab wait for a grace period
                check_mark(self._memory, address, who)
        finally:
            self._rcu.read_unlock()

    def withdraw_all(self, worker: Worker) -> None:
        """Take all of this CPU's objects back; its owner will free them."""
        for index, owned in enumerate(self._owned[worker.cpu]):
            if owned is not None:
                self._unpublish(worker.cpu, index)
                worker.objects.held.append(owned)

    def _withdraw(self, worker: Worker, index: int) -> None:
        owned = self._owned[worker.cpu][index]
        assert owned is not None
        self._unpublish(worker.cpu, index)
        worker.objects.free(owned)

    def _unpublish(self, cpu: int, index: int) -> None:
        """From here on only readers that have been there before can see the object."""
        self._cell(cpu, index).value = 0
        self._owned[cpu][index] = None

    def _cell(self, cpu: int, index: int) -> Cell[int]:
        return self._cells[cpu * self._per_cpu + index]
