"""
Chunks: how malloc cuts up memory (``struct malloc_chunk``).

A chunk starts at an address that is a multiple of 16; what the program gets starts 16 bytes on. Its fields
are real bytes in the memory of the process::

    chunk + 0    prev_size   bytes of the chunk before, only while that one is free
    chunk + 8    size        bytes of this chunk, with three flags in the low bits
    chunk + 16   fd          forward pointer of a free chunk   (here the program's memory starts)
    chunk + 24   bk          backward pointer of a free chunk

The last 8 bytes that the program may use are the `prev_size` of the chunk that follows, which nobody
else needs while this one is in use.

Follows ``malloc/malloc.c`` of glibc 2.36, 64 bit.
"""

from __future__ import annotations

from typing import Final

SIZE_SZ: Final = 8
"""Bytes of a size field."""

CHUNK_HDR_SZ: Final = 16
"""Bytes from a chunk to the program's memory."""

MALLOC_ALIGNMENT: Final = 16
"""Every address that malloc returns is a multiple of this."""

MALLOC_ALIGN_MASK: Final = 15

MINSIZE: Final = 32
"""The smallest chunk: fields and both pointers."""

PREV_INUSE: Final = 1
"""P: the chunk before is in use, or cached in a tcache or fastbin."""

IS_MMAPPED: Final = 2
"""M: the chunk has a mapping of its own."""

NON_MAIN_ARENA: Final = 4
"""A: the chunk belongs to an arena on mmapped heaps."""

SIZE_BITS: Final = 7

PTRDIFF_MAX: Final = (1 << 63) - 1
"""Larger requests fail."""

MAX_FAST: Final = 128
"""``global_max_fast``: the largest chunk for a fastbin, in bytes."""

NFASTBINS: Final = 10

NBINS: Final = 128

NSMALLBINS: Final = 64

MIN_LARGE_SIZE: Final = 1024
"""Chunks from this size on go to large bins, which hold ranges of sizes."""

FASTBIN_CONSOLIDATION_THRESHOLD: Final = 65536
"""A free that makes a chunk of at least so many bytes empties the fastbins, and may trim."""

TCACHE_MAX_BINS: Final = 64

TCACHE_FILL_COUNT: Final = 7
"""Chunks in one bin of a tcache, at most."""


def request2size(request: int) -> int | None:
    """Bytes of the chunk for *request* bytes; ``None`` if that is too much (``PTRDIFF_MAX``)."""
    if request > PTRDIFF_MAX:
        return None
    return max(MINSIZE, (request + SIZE_SZ + MALLOC_ALIGN_MASK) & ~MALLOC_ALIGN_MASK)


def mem2chunk(address: int) -> int:
    """The chunk of what the program has."""
    return address - CHUNK_HDR_SZ


def chunk2mem(chunk: int) -> int:
    """What the program gets of a chunk."""
    return chunk + CHUNK_HDR_SZ


def align_up(value: int, alignment: int) -> int:
    """The next multiple of *alignment*, a power of two."""
    return (value + alignment - 1) & -alignment


def fastbin_index(size: int) -> int:
    """The fastbin for chunks of *size* bytes; at 10 or above for those that have none."""
    return (size >> 4) - 2


def csize2tidx(size: int) -> int:
    """The tcache bin for chunks of *size* bytes: 0 for 32, 63 for 1040, above for larger ones."""
    return size - MINSIZE >> 4


def in_smallbin_range(size: int) -> bool:
    """Whether chunks of *size* bytes have a bin of their own."""
    return size < MIN_LARGE_SIZE


_LARGE_RANGES: Final = ((6, 48, 48), (9, 20, 91), (12, 10, 110), (15, 4, 119), (18, 2, 124))
"""(shift, largest ``size >> shift``, first index): bins 64 bytes wide, then 512, 4 KiB, 32 KiB, 256 KiB."""


def bin_index(size: int) -> int:
    """The small or large bin for chunks of *size* bytes, 2 to 126. Bin 1 is the unsorted one."""
    if size < MIN_LARGE_SIZE:
        return size >> 4
    for shift, last, first in _LARGE_RANGES:
        if size >> shift <= last:
            return first + (size >> shift)
    return 126


def protect_ptr(position: int, pointer: int) -> int:
    """
    Safe-linking (``PROTECT_PTR``): *pointer* as it is stored at address *position*.

    The same function takes it back.
    """
    return (position >> 12) ^ pointer
