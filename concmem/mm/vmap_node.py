"""
``struct vmap_node``: the virtual areas whose address falls to one of several equal shares.

Several nodes, so that CPUs do not all meet at one lock. They have nothing to do with NUMA.

Follows ``mm/vmalloc.c`` of Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.vmap_area import VmapArea, VmapTree
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime

MAX_VA_SIZE_PAGES: Final = 256
"""The largest area, in pages, that is kept in a pool."""


class VmapNode:
    """
    One share of the areas.

    Locks, none of which is taken inside another:
        busy.lock (irqsave)     busy: areas in use, by address
        lazy.lock (irqsave)     lazy: areas unmapped but not flushed, in the order they were freed
        pool_lock               pool: flushed areas by size in pages, to be handed out again

    Interrupts take the first two, since a handler may look up an area or take statistics.
    """

    __guarded_by__: Final = {"busy": "busy_lock", "lazy": "lazy_lock", "pool": "pool_lock"}

    def __init__(self, rt: Runtime) -> None:
        self.busy_lock = rt.spinlock("vmap_node->busy.lock", irqsave=True)
        self.busy = VmapTree()
        self.lazy_lock = rt.spinlock("vmap_node->lazy.lock", irqsave=True)
        self.lazy: list[VmapArea] = []
        self.pool_lock = rt.spinlock("vmap_node->pool_lock")
        self.pool: dict[int, list[tuple[int, int]]] = {}
        """Number of pages: address ranges, the one freed last at the end."""

    def insert_busy(self, va: VmapArea) -> None:
        """The area is in use from now on, and can be found."""
        with self.busy_lock:
            self.busy.insert(va)

    def add_lazy(self, va: VmapArea) -> None:
        """The area is unmapped and waits to be flushed."""
        with self.lazy_lock:
            self.lazy.append(va)

    def steal_lazy(self) -> list[VmapArea]:
        """All areas that wait to be flushed; they are the caller's from now on."""
        with self.lazy_lock:
            stolen, self.lazy = self.lazy, []
            return stolen

    def pool_del_va(self, size: int, align: int) -> tuple[int, int] | None:
        """A range of exactly *size* bytes at a multiple of *align*, if the pool has one."""
        with self.pool_lock:
            ranges = self.pool.get(size // PAGE_SIZE)
            if not ranges or ranges[-1][0] % align:
                return None
            return ranges.pop()

    def pool_add_va(self, va: VmapArea) -> bool:
        """Keep a flushed range; false when it is too large for that."""
        if va.nr_pages > MAX_VA_SIZE_PAGES:
            return False
        with self.pool_lock:
            self.pool.setdefault(va.nr_pages, []).append((va.va_start, va.va_end))
            return True

    def decay_pool(self, full: bool) -> list[tuple[int, int]]:
        """Take out a quarter of each size, or everything; the ranges (``decay_va_pool_node``)."""
        decayed = []
        with self.pool_lock:
            for nr_pages, ranges in list(self.pool.items()):
                nr = len(ranges) if full else len(ranges) >> 2
                decayed += ranges[:nr]
                del ranges[:nr]
                if not ranges:
                    del self.pool[nr_pages]
        return decayed
