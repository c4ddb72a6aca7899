"""What one CPU of a stress run has done so far."""

from __future__ import annotations


class Progress:
    """Counters of one CPU, written by its own thread only. Numbers only ever grow."""

    __slots__ = (
        "allocated",
        "areas_allocated",
        "areas_freed",
        "cross_cpu",
        "failed",
        "freed",
        "objects_allocated",
        "objects_cross_cpu",
        "objects_freed",
        "operations",
        "seconds",
    )

    def __init__(self) -> None:
        self.operations = 0
        """Calls of an allocator: allocations, failed ones included, frees, drains and the like."""
        self.allocated = 0
        """Allocations that gave pages."""
        self.failed = 0
        """Allocations, of whatever kind, that gave ``None``."""
        self.freed = 0
        """Frees of pages."""
        self.cross_cpu = 0
        """Frees of pages that another CPU had allocated."""
        self.objects_allocated = 0
        """Objects that caches, ``kmalloc`` and ``vmalloc`` gave."""
        self.objects_freed = 0
        self.objects_cross_cpu = 0
        """Of them, those that another CPU had allocated."""
        self.areas_allocated = 0
        """Of the objects, those in the vmalloc range."""
        self.areas_freed = 0
        self.seconds = 0.0
        """Host seconds spent in workload bodies."""
