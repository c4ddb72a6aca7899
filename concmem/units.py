"""Page size, address layout and the kernel version modelled; sizes as people write them."""

from __future__ import annotations

import re
from typing import Final

from concmem.errors import BadArgument, BadArgumentType

KERNEL_VERSION: Final = "6.12"
"""The Linux line whose algorithms are followed (x86-64)."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096
"""Bytes in a page."""

MAX_PAGE_ORDER: Final = 10
"""Largest order of the buddy system, inclusive: blocks of 4 MiB."""

NR_PAGE_ORDERS: Final = 11

PAGEBLOCK_ORDER: Final = 9
"""Order of a page block, the unit that carries a migratetype: 2 MiB."""

PAGEBLOCK_NR_PAGES: Final = 512

PAGE_OFFSET: Final = 0xFFFF_8880_0000_0000
"""Start of the direct map: physical address 0 appears here."""

VMALLOC_START: Final = 0xFFFF_C900_0000_0000
"""First virtual address of the vmalloc range."""

VMALLOC_SIZE: Final = 32 << 40
"""Bytes in the vmalloc range: 32 TiB."""

VMALLOC_END: Final = VMALLOC_START + VMALLOC_SIZE
"""The first address behind it. (The kernel's macro is one less.)"""

KERNEL_DATA_START: Final = 0xFFFF_FFFF_8200_0000
"""Start of the kernel's own memory, which nobody allocates: static data, per-CPU data, stacks."""

KERNEL_DATA_SIZE: Final = 64 << 20
"""Bytes of it."""

HZ: Final = 250
"""Jiffies per second."""

MAX_NR_CPUS: Final = 256
"""CONFIG_NR_CPUS."""

_SUFFIXES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"(\d+)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)


def parse_size(size: int | str, name: str = "size") -> int:
    """
    Bytes from an int or from text such as ``"256M"``, ``"16 GiB"`` or ``"4096"``.

    Suffixes are powers of 1024, upper or lower case.

    Raises:
        BadArgument: *size* is not a size; the message starts with *name*.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise BadArgumentType(f"{name}: expected bytes or text like '256M', got {size!r}")
    if isinstance(size, int):
        if size < 0:
            raise BadArgument(f"{name}: must not be negative, got {size}")
        return size
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise BadArgument(f"{name}: expected a size like '256M' or '16G', got {size!r}")
    return int(match[1]) * _SUFFIXES[match[2].upper()]


def format_size(nr_bytes: int) -> str:
    """The shortest exact text for a size: ``268435456`` gives ``"256M"``."""
    for suffix in ("T", "G", "M", "K"):
        if nr_bytes and nr_bytes % _SUFFIXES[suffix] == 0:
            return f"{nr_bytes // _SUFFIXES[suffix]}{suffix}"
    return str(nr_bytes)
