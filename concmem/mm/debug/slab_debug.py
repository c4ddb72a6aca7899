"""
The ``slab_debug=`` boot parameter: which caches are debugged, and how.

Blocks, separated by ``;``, of letters and, after a comma, the caches that they are for::

    FZ                      all caches: consistency checks and red zones
    FZPU,kmalloc-64         this cache only
    F;Z,dentry;-,vma*       all; dentry another way; those whose names begin with vma not at all

Letters, in either case: ``F`` consistency checks, ``Z`` red zones, ``P`` poison, ``U`` user tracking, ``T``
trace, ``A`` fault injection; ``-`` nothing; ``O`` no red zones, poison or tracking for caches whose slabs they
would make larger. None: ``FZPU``.

Follows ``setup_slub_debug`` and ``kmem_cache_flags`` of ``mm/slub.c``, Linux 6.12, which skips what it does not
understand; here that is an error.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.slab_flags import (
    DEBUG_DEFAULT_FLAGS,
    SLAB_CONSISTENCY_CHECKS,
    SLAB_FAILSLAB,
    SLAB_POISON,
    SLAB_RED_ZONE,
    SLAB_STORE_USER,
    SLAB_TRACE,
)

_LETTERS: Final = {
    "F": SLAB_CONSISTENCY_CHECKS,
    "Z": SLAB_RED_ZONE,
    "P": SLAB_POISON,
    "U": SLAB_STORE_USER,
    "T": SLAB_TRACE,
    "A": SLAB_FAILSLAB,
}


class _Block(NamedTuple):
    """Flags for some caches."""

    flags: int
    names: tuple[str, ...]
    """Of caches; ``*`` at the end: all that begin so."""

    def matches(self, name: str) -> bool:
        return any(
            name.startswith(each[:-1]) if each.endswith("*") else name == each
            for each in self.names
        )


class SlabDebugOptions(NamedTuple):
    """The parameter, understood."""

    flags: int = 0
    """For caches that no block names."""
    blocks: tuple[_Block, ...] = ()
    disable_higher_order: bool = False
    """``O``."""

    def flags_for(self, name: str, flags: int) -> int:
        """Those of a cache that is created with *flags* (``kmem_cache_flags``)."""
        for block in self.blocks:
            if block.matches(name):
                return flags | block.flags
        return flags | self.flags


def parse_slab_debug(value: str | bool | None) -> SlabDebugOptions:
    """
    Understand ``slab_debug=``.

    Args:
        value: text; True for all of ``FZPU`` in all caches; False, ``None`` or no text for none.

    Raises:
        BadArgument: there is something else in it.
    """
    if value is None or value is False or value == "":
        return SlabDebugOptions()
    if value is True:
        return SlabDebugOptions(DEBUG_DEFAULT_FLAGS)
    if not isinstance(value, str):
        raise BadArgumentType(f"slab_debug: expected text such as 'FZPU,kmalloc-64', got {value!r}")
    everywhere: int | None = None
    blocks = []
    higher_order = False
    for text in filter(None, value.split(";")):
        letters, comma, names = text.partition(",")
        flags = _parse_letters(letters, value)
        higher_order |= "O" in letters.upper()
        if comma:
            blocks.append(_Block(flags, _parse_names(names, value)))
        else:
            everywhere = flags
    # With caches named and no block for all of them, the others are not debugged.
    return SlabDebugOptions(everywhere or 0, tuple(blocks), higher_order)


def _parse_letters(letters: str, value: str) -> int:
    if not letters:
        return DEBUG_DEFAULT_FLAGS
    flags = 0
    for letter in letters.upper():
        if letter == "-":
            flags = 0
        elif letter in _LETTERS:
            flags |= _LETTERS[letter]
        elif letter != "O":
            raise BadArgument(
                f"slab_debug: {letter!r} in {value!r} is no letter of it; there are F Z P U T A O and -"
            )
    return flags


def _parse_names(names: str, value: str) -> tuple[str, ...]:
    found = tuple(names.split(","))
    for name in found:
        if not name or "*" in name[:-1] or not name.isprintable() or " " in name or "/" in name:
            raise BadArgument(
                f"slab_debug: expected names of caches, perhaps with a * at the end, after the comma in "
                f"{value!r}, got {name!r}"
            )
    return found
