"""What slab caches did in a run, from their own statistics: plain data."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.mm.kmem_cache import KmemCache


class SlabActivity(NamedTuple):
    """One cache, or all of the run that had its name."""

    name: str
    object_size: int
    """Bytes."""
    alloc_fastpath: int
    """Allocations from the free list of the CPU's own slab."""
    alloc_slowpath: int
    free_fastpath: int
    """Frees to it."""
    free_slowpath: int
    """Remote frees: to slabs of other CPUs, or of none."""
    slabs_allocated: int
    slabs_freed: int
    order_fallback: int = 0
    """Of the slabs allocated, those of the smaller order, since there was no block of the usual one."""

    @property
    def operations(self) -> int:
        """Allocations and frees."""
        return self.alloc_fastpath + self.alloc_slowpath + self.free_fastpath + self.free_slowpath

    @property
    def alloc_hit_rate(self) -> float:
        """The part of the allocations that the fast path did, 0 to 1."""
        return _rate(self.alloc_fastpath, self.alloc_slowpath)

    @property
    def free_hit_rate(self) -> float:
        """The part of the frees that the fast path did, 0 to 1."""
        return _rate(self.free_fastpath, self.free_slowpath)

    def to_json(self) -> dict[str, Any]:
        """All fields, with the sum and the rates."""
        return {
            **self._asdict(),
            "operations": self.operations,
            "alloc_hit_rate": self.alloc_hit_rate,
            "free_hit_rate": self.free_hit_rate,
        }


def _rate(fast: int, slow: int) -> float:
    return fast / (fast + slow) if fast + slow else 0.0


_EVENTS = {
    "alloc_fastpath": "alloc_fastpath",
    "alloc_slowpath": "alloc_slowpath",
    "free_fastpath": "free_fastpath",
    "free_slowpath": "free_slowpath",
    "slabs_allocated": "alloc_slab",
    "slabs_freed": "free_slab",
    "order_fallback": "order_fallback",
}
"""Field of `SlabActivity`: event of the cache."""


class SlabActivityLog:
    """
    Sums over the phases of a run.

    Caches that come and go within a phase are not in it; those of a workload are, since they live
    until the phase ends. Used by the directing thread only, while no CPU is in a body.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before: dict[KmemCache, dict[str, int]] = {}
        self._totals: dict[str, Counter[str]] = {}
        self._sizes: dict[str, int] = {}

    def phase_begins(self) -> None:
        """Remember what every cache has done so far."""
        self._before = {cache: _events(cache) for cache in self._machine.slab.caches()}

    def phase_ends(self) -> None:
        """Add what every cache has done since."""
        for cache in self._machine.slab.caches():
            before = self._before.get(cache, {})
            total = self._totals.setdefault(cache.name, Counter())
            self._sizes[cache.name] = cache.object_size
            for event, value in _events(cache).items():
                total[event] += value - before.get(event, 0)

    def result(self) -> tuple[SlabActivity, ...]:
        """Every cache that did something, the most active first."""
        rows = [
            SlabActivity(
                name=name,
                object_size=self._sizes[name],
                **{field: max(0, total[event]) for field, event in _EVENTS.items()},
            )
            for name, total in self._totals.items()
        ]
        rows = [row for row in rows if row.operations]
        rows.sort(key=lambda row: (-row.operations, row.name))
        return tuple(rows)


def _events(cache: KmemCache) -> dict[str, int]:
    events = cache.statistics().events
    return {event: sum(events[event]) for event in _EVENTS.values()}
