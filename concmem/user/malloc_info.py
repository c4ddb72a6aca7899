"""What malloc has and where: ``mallinfo2``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.user.chunk import MINSIZE, NBINS, chunk2mem, protect_ptr
from concmem.user.malloc_state import FD, MallocState

if TYPE_CHECKING:
    from concmem.user.arena import Arenas
    from concmem.user.ptmalloc import Ptmalloc


class Mallinfo(NamedTuple):
    """``struct mallinfo2``. Chunks in tcaches are in use, as far as arenas know."""

    arena: int
    """Bytes that arenas have from the system."""
    ordblks: int
    """Free chunks in bins, and the tops."""
    smblks: int
    """Chunks in fastbins."""
    hblks: int
    """Chunks with a mapping of their own."""
    hblkhd: int
    """Bytes in them."""
    fsmblks: int
    """Bytes in fastbins."""
    uordblks: int
    """Bytes in use."""
    fordblks: int
    """Free bytes, fastbins included."""
    keepcost: int
    """Bytes of the main arena's top."""


class MallocInfo:
    """Reads the arenas."""

    def __init__(self, libc: Ptmalloc, arenas: Arenas) -> None:
        self._libc = libc
        self._arenas = arenas

    def mallinfo(self) -> Mallinfo:
        """All arenas, one after the other. May sleep."""
        params = self._libc.params
        rows = [self._read(arena) for arena in self._arenas.ring() if arena.address]
        sums = [sum(column) for column in zip(*rows, strict=True)] or [0] * 6
        memory, chunks, fast, fast_bytes, available, top = sums
        return Mallinfo(
            arena=memory,
            ordblks=chunks,
            smblks=fast,
            hblks=params.n_mmaps.value,
            hblkhd=params.mmapped_mem.value,
            fsmblks=fast_bytes,
            uordblks=memory - available,
            fordblks=available,
            keepcost=top,
        )

    def _read(self, av: MallocState) -> tuple[int, int, int, int, int, int]:
        """
        One arena, under its mutex.

        Since glibc 2.27 (bug 22408) malloc_info does so, too: without, it followed chains that changed.
        """
        with av.mutex:
            return self._of_arena(av)

    def _of_arena(self, av: MallocState) -> tuple[int, int, int, int, int, int]:
        """Bytes, free chunks, chunks and bytes in fastbins, free bytes, top. Caller holds the mutex."""
        libc = self._libc
        limit = av.system_mem.value // MINSIZE
        fast = fast_bytes = 0
        for head in av.fastbins:
            chunk = head.value
            while chunk:
                fast += 1
                fast_bytes += libc.chunksize(chunk)
                chunk = protect_ptr(chunk + FD, libc.load(chunk + FD))
        chunks, top = 1, libc.chunksize(av.top)
        available = top + fast_bytes
        for index in range(1, NBINS):
            for chunk in av.chunks_of(index):
                chunks += 1
                available += libc.chunksize(chunk)
                if chunks > limit:
                    raise libc.corrupt("mallinfo(): a bin is no ring", chunk2mem(chunk))
        keep = top if av.is_main else 0
        return av.system_mem.value, chunks, fast, fast_bytes, available, keep
