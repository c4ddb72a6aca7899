"""What the leak detector reports of itself and of what it has found: frozen, plain data."""

from __future__ import annotations

from typing import NamedTuple


class UnreferencedObject(NamedTuple):
    """A block of memory that nothing in memory leads to."""

    address: int
    size: int
    """Bytes."""
    comm: str
    """Name of the task that allocated it, ``hardirq`` for an interrupt handler."""
    pid: int
    """Its number, that of its CPU; 0 for interrupt handlers."""
    jiffies: int
    """When."""
    data: bytes
    """The first bytes of it."""
    checksum: int
    backtrace: tuple[str, ...]
    """Who allocated it, innermost first, as ``function+offset/length``."""
    callers: tuple[str, ...]
    """Of these, those that are no part of memory management."""


class KmemleakStatistics(NamedTuple):
    """The leak detector."""

    enabled: bool
    """Whether it still follows allocations."""
    nr_objects: int
    """Blocks that it knows at the moment."""
    nr_scans: int
    """Scans begun."""
