"""
Who allocated and who freed an object, and what kmalloc was asked for: kept as bytes behind the object.

So they can be overwritten, as everything in memory can: a track whose stack nobody has saved is shown
without one. Follows ``set_track_update``, ``get_track`` and ``get_orig_size`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from concmem.mm.debug.report import Track
from concmem.mm.slab_geometry import ORIG_SIZE_SIZE, TRACK_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.object_layout import ObjectLayout
    from concmem.mm.debug.stack_depot import StackDepot
    from concmem.mm.memory import Memory
    from concmem.runtime.api import Runtime

TRACK_ALLOC: Final = 0
TRACK_FREE: Final = 1

_TRACK: Final = Struct("<QIii4xQ")
"""``struct track``: addr, handle, cpu, pid, when."""

_TEXT: Final = 0xFFFF_FFFF_8100_0000
"""Where a kernel's functions are; a track's ``addr`` is a made-up one, which is never 0."""


class SlubTracks:
    """Tracks of the objects of all debug caches of a machine."""

    def __init__(self, rt: Runtime, memory: Memory, depot: StackDepot) -> None:
        self._rt = rt
        self._memory = memory
        self.depot = depot
        self._pack = _TRACK.pack

    def set_track(
        self, layout: ObjectLayout, address: int, which: int, handle: int, cpu: int
    ) -> None:
        """CPU number *cpu* allocates, or frees, the object at *address*, from the stack of *handle*."""
        track = self._pack(_TEXT + (handle << 4), handle, cpu, cpu, self._rt.jiffies)
        self._memory.write(address + layout.track_offset + TRACK_SIZE * which, track)

    def get_track(self, layout: ObjectLayout, address: int, which: int) -> Track | None:
        """Who allocated (freed) the object last; ``None``: nobody, or it is not tracked."""
        if not layout.store_user:
            return None
        data = self._memory.read(address + layout.track_offset + TRACK_SIZE * which, TRACK_SIZE)
        addr, handle, cpu, pid, when = _TRACK.unpack(data)
        return Track(self.depot.fetch(handle), cpu, pid, when) if addr else None

    def init_tracking(self, layout: ObjectLayout, address: int) -> None:
        """Nobody has had the object yet."""
        if layout.store_user:
            self._memory.fill(address + layout.track_offset, 2 * TRACK_SIZE)

    def get_orig_size(self, layout: ObjectLayout, address: int) -> int:
        """Bytes that kmalloc was asked for; those of an object where that is not kept."""
        if not layout.orig_size_offset:
            return layout.object_size
        data = self._memory.read(address + layout.orig_size_offset, ORIG_SIZE_SIZE)
        return int.from_bytes(data, "little")

    def set_orig_size(self, layout: ObjectLayout, address: int, size: int) -> None:
        """Keep what kmalloc was asked for, if it is kept."""
        if layout.orig_size_offset:
            data = size.to_bytes(ORIG_SIZE_SIZE, "little")
            self._memory.write(address + layout.orig_size_offset, data)
