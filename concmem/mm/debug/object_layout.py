"""
What lies where in and around an object of a debug cache, and which bytes must be there.

::

    object - red_left_pad   left red zone
    object                  the object; what kmalloc was not asked for of it is red zone, too
    object + object_size    right red zone; without red zones: alignment padding
    object + inuse          the free pointer, if it is not inside of the object
                            two tracks: who allocated, who freed (SLAB_STORE_USER)
                            the size that kmalloc was asked for
    object + info_end       padding, up to the next object's left red zone
    object + span

Red zones are 0xcc around an object in use and 0xbb around a free one; a free object is 0x6b up to its last
byte, 0xa5; so is an object just handed out. Padding is 0x5a.

Follows ``init_object``, ``get_info_end`` and ``check_object`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.slab_flags import (
    SLAB_CONSISTENCY_CHECKS,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.slab_geometry import ORIG_SIZE_SIZE, TRACK_SIZE, WORD

if TYPE_CHECKING:
    from concmem.mm.slab_geometry import Geometry

SLUB_RED_INACTIVE: Final = 0xBB
SLUB_RED_ACTIVE: Final = 0xCC
POISON_INUSE: Final = 0x5A
POISON_FREE: Final = 0x6B
POISON_END: Final = 0xA5

Piece = tuple[int, int, bytes]
"""First byte and end, counted from the left red zone, and what is to be there."""


class ObjectLayout:
    """Of one debug cache. Sizes and offsets in bytes. Never changes."""

    __slots__ = (
        "checks",
        "free_pieces",
        "free_state",
        "freeptr_outside",
        "info_end",
        "inuse",
        "object_poison",
        "object_size",
        "orig_size_offset",
        "poison",
        "red_active",
        "red_left_pad",
        "red_zone",
        "size",
        "span",
        "store_user",
        "trace",
        "track_offset",
        "used_pieces",
        "used_state",
    )

    def __init__(
        self, object_size: int, geometry: Geometry, flags: int, has_ctor: bool, is_kmalloc: bool
    ) -> None:
        self.object_size = object_size
        self.inuse = geometry.inuse
        self.size = geometry.size
        """From one object to the next."""
        self.red_left_pad = geometry.red_left_pad
        self.span = geometry.size - geometry.red_left_pad
        """From an object to the next one's left red zone (``size_from_object``)."""
        self.checks = bool(flags & SLAB_CONSISTENCY_CHECKS)
        self.red_zone = bool(flags & SLAB_RED_ZONE)
        self.poison = bool(flags & SLAB_POISON)
        self.object_poison = self.poison and not has_ctor and not flags & SLAB_TYPESAFE_BY_RCU
        """Whether free objects themselves are poisoned (``__OBJECT_POISON``)."""
        self.store_user = bool(flags & SLAB_STORE_USER)
        self.trace = bool(flags & SLAB_TRACE)
        self.freeptr_outside = geometry.offset >= geometry.inuse
        self.track_offset = self.inuse + (WORD if self.freeptr_outside else 0)
        end = self.track_offset + (2 * TRACK_SIZE if self.store_user else 0)
        self.orig_size_offset = end if self.store_user and is_kmalloc else 0
        """Of the size that kmalloc was asked for; 0: it is not kept."""
        self.info_end = end + (ORIG_SIZE_SIZE if self.orig_size_offset else 0)
        self.red_active = bytes([SLUB_RED_ACTIVE]) * (self.inuse if self.red_zone else 0)
        self.free_pieces = self.init_pieces(SLUB_RED_INACTIVE, object_size)
        """What is written when an object becomes free."""
        self.used_pieces = self.init_pieces(SLUB_RED_ACTIVE, object_size)
        """What is written when it is handed out as a whole."""
        self.free_state = self._state(SLUB_RED_INACTIVE, self.object_poison)
        """What must be there while an object is free."""
        self.used_state = self._state(SLUB_RED_ACTIVE, False)
        """What must be there while it is in use, but for the red zone of what kmalloc was not asked for."""

    def init_pieces(self, value: int, poison_size: int) -> tuple[Piece, ...]:
        """
        What to write to have an object free, or in use (``init_object``).

        Args:
            value: of the red zones.
            poison_size: bytes that the owner may use.
        """
        pad = self.red_left_pad
        pieces = []
        if self.red_zone:
            pieces.append((0, bytes([value]) * pad))
        if self.object_poison:
            poison = bytes([POISON_FREE]) * (poison_size - 1) + bytes([POISON_END])
            pieces.append((pad, poison))
        if self.red_zone:
            pieces.append((pad + poison_size, bytes([value]) * (self.inuse - poison_size)))
        return _joined(pieces)

    def _state(self, value: int, object_poison: bool) -> tuple[Piece, ...]:
        pad, size = self.red_left_pad, self.object_size
        pieces = []
        if self.red_zone:
            pieces.append((0, bytes([value]) * pad))
        if object_poison:
            pieces.append((pad, bytes([POISON_FREE]) * (size - 1) + bytes([POISON_END])))
        if self.red_zone:
            pieces.append((pad + size, bytes([value]) * (self.inuse - size)))
        elif self.poison:
            pieces.append((pad + size, bytes([POISON_INUSE]) * (self.inuse - size)))
        if self.poison:
            pieces.append(
                (pad + self.info_end, bytes([POISON_INUSE]) * (self.span - self.info_end))
            )
        return _joined(pieces)


def _joined(pieces: list[tuple[int, bytes]]) -> tuple[Piece, ...]:
    """Those that follow each other as one: fewer to compare and to write."""
    joined: list[Piece] = []
    for start, data in pieces:
        if not data:
            continue
        if joined and joined[-1][1] == start:
            first, _, before = joined.pop()
            start, data = first, before + data
        joined.append((start, start + len(data), data))
    return tuple(joined)
