"""
Free pointers as they are stored in free objects.

Plain: the address of the next free object, 0 at the end. Hardened (CONFIG_SLAB_FREELIST_HARDENED):
that, XOR a key of the cache, XOR the byte-swapped address of where it is stored, so that who can
overwrite one cannot choose where the next allocation lands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.units import PAGE_OFFSET

if TYPE_CHECKING:
    from concmem.runtime.api import Words


def encode(value: int, key: int, slot: int) -> int:
    """*value* as it is stored at address *slot*, and back (``freelist_ptr_encode``)."""
    return value ^ key ^ int.from_bytes(slot.to_bytes(8, "little"), "big")


class HardenedWords:
    """Memory words that are encoded on the way in and decoded on the way out."""

    __slots__ = ("_key", "_words")

    def __init__(self, words: Words, key: int) -> None:
        self._words = words
        self._key = key

    def __getitem__(self, index: int, /) -> int:
        return encode(self._words[index], self._key, PAGE_OFFSET + (index << 3))

    def __setitem__(self, index: int, value: int, /) -> None:
        self._words[index] = encode(value, self._key, PAGE_OFFSET + (index << 3))
