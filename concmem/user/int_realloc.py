"""
Changing a chunk's size, and chunks at special addresses (``_int_realloc``, ``_int_memalign``).

The caller holds the arena's mutex. May sleep.

Follows ``malloc/malloc.c`` of glibc 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    IS_MMAPPED,
    MINSIZE,
    NON_MAIN_ARENA,
    PREV_INUSE,
    SIZE_BITS,
    align_up,
    chunk2mem,
    mem2chunk,
)

if TYPE_CHECKING:
    from concmem.user.int_free import IntFree
    from concmem.user.int_malloc import IntMalloc
    from concmem.user.malloc_state import MallocState
    from concmem.user.ptmalloc import Ptmalloc


class IntRealloc:
    """Grows and shrinks chunks where they are, and cuts aligned ones out of larger ones."""

    def __init__(self, libc: Ptmalloc, int_malloc: IntMalloc, int_free: IntFree) -> None:
        self._libc = libc
        self._int_malloc = int_malloc
        self._int_free = int_free

    def check_realloc(self, chunk: int) -> int:
        """The size of a chunk that is to be changed, if it can be one."""
        libc = self._libc
        size = libc.chunksize(chunk) if not chunk & 15 else 0
        if chunk & 15 or chunk > (1 << 64) - size:
            raise libc.corrupt("realloc(): invalid pointer", chunk2mem(chunk))
        return size

    def int_realloc(self, av: MallocState, chunk: int, old_size: int, nb: int) -> bool:
        """Make *chunk* one of *nb* bytes without moving it; whether that was possible."""
        libc, system_mem = self._libc, av.system_mem.value
        address = chunk2mem(chunk)
        if libc.load(chunk + 8) <= CHUNK_HDR_SZ or old_size >= system_mem:
            raise libc.corrupt("realloc(): invalid old size", address)
        following = chunk + old_size
        nomask = libc.load(following + 8)
        following_size = nomask & ~SIZE_BITS
        if nomask <= CHUNK_HDR_SZ or following_size >= system_mem:
            raise libc.corrupt("realloc(): invalid next size", address)
        size = old_size
        if old_size < nb:
            size = old_size + following_size
            if following == av.top and size >= nb + MINSIZE:
                self._set_size(av, chunk, nb)
                av.top = chunk + nb
                libc.store(av.top + 8, size - nb | PREV_INUSE)
                return True
            if (
                following == av.top
                or size < nb
                or libc.load(following + following_size + 8) & PREV_INUSE
            ):
                return False
            self._int_free.unlink_chunk(av, following)
        self._give_back_end(av, chunk, size, nb)
        return True

    def _set_size(self, av: MallocState, chunk: int, size: int) -> None:
        """The size of a chunk in use; whether the one before it is in use stays."""
        flags = self._libc.load(chunk + 8) & PREV_INUSE | (0 if av.is_main else NON_MAIN_ARENA)
        self._libc.store(chunk + 8, size | flags)

    def _give_back_end(self, av: MallocState, chunk: int, size: int, nb: int) -> None:
        """*chunk* owns *size* bytes and needs *nb*: free what can be a chunk."""
        libc = self._libc
        end = chunk + size
        libc.store(end + 8, libc.load(end + 8) | PREV_INUSE)
        if size - nb < MINSIZE:
            self._set_size(av, chunk, size)
            return
        self._set_size(av, chunk, nb)
        rest = chunk + nb
        libc.store(rest + 8, size - nb | PREV_INUSE | (0 if av.is_main else NON_MAIN_ARENA))
        self._int_free.free_locked(av, rest)

    def align_chunk(
        self, av: MallocState | None, address: int, alignment: int, nb: int
    ) -> int | None:
        """
        Cut a chunk of *nb* bytes at a multiple of *alignment* out of a larger one (``_int_memalign``).

        *alignment* is a power of two above 16. Only a mapped chunk has no arena.
        """
        libc = self._libc
        chunk = mem2chunk(address)
        if address % alignment:
            target = mem2chunk(align_up(address, alignment))
            if target - chunk < MINSIZE:
                target += alignment
            lead = target - chunk
            if libc.load(chunk + 8) & IS_MMAPPED:
                libc.store(target, libc.load(chunk) + lead)
                libc.store(target + 8, libc.chunksize(chunk) - lead | IS_MMAPPED)
                return chunk2mem(target)
            assert av is not None
            flag = 0 if av.is_main else NON_MAIN_ARENA
            size = libc.chunksize(chunk) - lead
            libc.store(target + 8, size | PREV_INUSE | flag)
            libc.store(target + size + 8, libc.load(target + size + 8) | PREV_INUSE)
            libc.store(chunk + 8, lead | libc.load(chunk + 8) & PREV_INUSE | flag)
            self._int_free.free_locked(av, chunk)
            chunk = target
        if av is not None and not libc.load(chunk + 8) & IS_MMAPPED:
            size = libc.chunksize(chunk)
            if size > nb + MINSIZE:
                self._give_back_end(av, chunk, size, nb)
        return chunk2mem(chunk)
