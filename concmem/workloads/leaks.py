"""
Leaks of a stress run, on a machine that has a leak detector.

Workloads keep what they have in lists of Python, and hand it to each other in queues: to the detector, all of
that is lost. So whatever an owner has counts as referred to, from when it is owned until it is about to be freed,
wherever it is meanwhile (`OwnerTable`). When everything was given back nothing counts any more, and what the run
has allocated and nothing leads to is a leak.

A machine without a detector has none of this: its owners are `ObjectOwner`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import MemoryLeak
from concmem.mm.debug.kmemleak import Kmemleak
from concmem.reports.run.rows import Leak
from concmem.workloads.object_owner import ObjectOwner, OwnedObject

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.statistics_kmemleak import UnreferencedObject
    from concmem.workloads.object_owner import Source
    from concmem.workloads.progress import Progress


class OwnerTable:
    """
    Addresses of all that the owners of a run have; roots of the detector.

    Locks: none. Changes of a dictionary are indivisible.
    """

    def __init__(self) -> None:
        self.addresses: dict[int, None] = {}

    def owner(self, machine: Machine, cpu: int, progress: Progress) -> ObjectOwner:
        """A new owner whose objects are in the table."""
        return _TabledOwner(machine, cpu, progress, self)


class _TabledOwner(ObjectOwner):
    """An owner whose objects are in a table."""

    def __init__(self, machine: Machine, cpu: int, progress: Progress, table: OwnerTable) -> None:
        super().__init__(machine, cpu, progress)
        self._addresses = table.addresses

    def own(
        self, source: Source, address: int | None, size: int, gfp: int = 0
    ) -> OwnedObject | None:
        if address is not None:
            self._addresses[address] = None
        return super().own(source, address, size, gfp)

    def disown(self, owned: OwnedObject) -> int:
        address = super().disown(owned)
        self._addresses.pop(address, None)
        return address


class LeakLog:
    """What a run has leaked. Made before the run."""

    def __init__(self, machine: Machine) -> None:
        self._kmemleak = machine.kmemleak if isinstance(machine.kmemleak, Kmemleak) else None
        self._table = OwnerTable()
        self.owner = ObjectOwner if self._kmemleak is None else self._table.owner
        """Makes an owner of objects, of a machine, a CPU and its progress."""
        self.leaks: tuple[Leak, ...] | None = None
        """``None``: nobody has looked, or there is no detector."""
        self._not_ours: set[tuple[int, int]] = set()
        if self._kmemleak is not None:
            self._not_ours = self._kmemleak.blocks()
            self._kmemleak.register_root(self._table, lambda table: list(table.addresses))

    def look(self) -> MemoryLeak | None:
        """Look for leaks, now that everything was given back; an error that names the first. Sleeps."""
        kmemleak = self._kmemleak
        if kmemleak is None or not kmemleak.statistics().enabled:
            return None
        kmemleak.unregister_root(self._table)
        msecs, kmemleak.msecs_min_age = kmemleak.msecs_min_age, 0
        try:
            kmemleak.scan()  # which learns what is in new objects; the next one tells what has not changed
            kmemleak.scan()
            found = [
                leak
                for leak in kmemleak.leaks()
                if (leak.address, leak.jiffies) not in self._not_ours
            ]
        finally:
            kmemleak.msecs_min_age = msecs
        self.leaks = tuple(map(_row, found))
        if not found:
            return None
        first = found[0]
        return MemoryLeak(
            f"{len(found)} object(s) are allocated, but nothing leads to them; the first is {first.address:#x} of "
            f"{first.size} bytes, allocated by {first.comm} in {' < '.join(_row(first).backtrace[:3])}"
        )


def _row(leak: UnreferencedObject) -> Leak:
    """As it is in the report of a run; without callers of memory management, which are always the same."""
    cpu = leak.pid if leak.comm != "hardirq" else -1
    return Leak(leak.address, leak.size, cpu, leak.jiffies, leak.callers or leak.backtrace)
