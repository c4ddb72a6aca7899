"""
An arena (``struct malloc_state``): bins of free chunks and a top chunk, under one mutex.

The heads of the bins are real bytes: the circular lists run through `fd` and `bk` of the chunks and of the
heads, which lie in the process's memory as in C. An arena on mmapped heaps has its structure at the
beginning of its first heap; the main arena's is in a page of its own, as libc's data would be.

Lock order: arena -> mmap_lock (the mutex is held while a heap grows or shrinks, which may sleep).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.user.chunk import NBINS, NFASTBINS, bin_index, in_smallbin_range

if TYPE_CHECKING:
    from concmem.runtime.api import Cell, Runtime
    from concmem.user.user_memory import UserMemory

MALLOC_STATE_SIZE: Final = 2200
"""``sizeof (struct malloc_state)``"""

BINS_OFFSET: Final = 112
"""``offsetof (struct malloc_state, bins)``"""

FD: Final = 16
BK: Final = 24


class MallocState:
    """One arena. Sizes in bytes."""

    __guarded_by__: Final = {
        "top": "mutex",
        "last_remainder": "mutex",
        "binmap": "mutex",
        "max_system_mem": "mutex",
        "contiguous": "mutex",
        "segments": "mutex",
    }

    def __init__(self, rt: Runtime, memory: UserMemory, number: int) -> None:
        self.number = number
        """In the order in which arenas were made; 0 is the main arena."""
        self.mutex = rt.mutex("arena->mutex")
        self._load = memory.load
        self._store = memory.store
        self.address = 0
        """Where the structure is; see `init_state`."""
        self.fastbins = [rt.atomic(0, f"fastbinsY[{index}]") for index in range(NFASTBINS)]
        """First chunk of each. Pushed to by anybody with compare-exchange, popped under `mutex` only."""
        self.have_fastchunks = rt.cell(False, "av->have_fastchunks")
        """
        Whether a fastbin may have chunks. Read and stored without a lock: a value that is out of date
        costs or saves one look through the fastbins, whose chunks then wait for the next look.
        """
        self.system_mem = rt.cell(0, "av->system_mem")
        """Bytes from the system. Stored under `mutex`; `free` reads it without, as a first check."""
        self.max_system_mem = 0
        self.top = 0
        self.last_remainder = 0
        self.binmap = 0
        """Bit *i*: small or large bin *i* may have chunks."""
        self.contiguous = number == 0
        """Whether the break is only moved by malloc, as far as it knows."""
        self.segments: list[tuple[int, int]] = []
        """Main arena: ranges of memory, of which the last one ends with the top; kept for checks."""
        # free_list_lock of the arenas
        self.attached_threads = 0
        """Threads whose arena this is; 0: it is on the free list."""
        self.abandoned = False
        """Its last thread left it because it had no memory: so it is on no list."""
        self.next_free: MallocState | None = None
        self.next: Cell[MallocState] = rt.cell(self, "arena->next")
        """The ring of all arenas. Stored under list_lock; read without: what is in it stays in it."""

    @property
    def is_main(self) -> bool:
        return self.number == 0

    def init_state(self, address: int) -> None:
        """Empty bins in the structure at *address* (``malloc_init_state``)."""
        self.address = address
        for index in range(1, NBINS):
            head = self.bin_at(index)
            self._store(head + FD, head)
            self._store(head + BK, head)
        self.top = self.initial_top()

    def initial_top(self) -> int:
        """The top of an arena without memory: the unsorted bin, whose "size" field is 0."""
        return self.bin_at(1)

    # -- bins. Caller holds the mutex

    def bin_at(self, index: int) -> int:
        """The head of bin *index*, as if it were a chunk: only its fd and bk exist."""
        return self.address + BINS_OFFSET + (index - 1) * 16 - FD

    def unsorted_chunks(self) -> int:
        """The head of the unsorted bin."""
        return self.address + BINS_OFFSET - FD

    def chunks_of(self, index: int) -> Iterator[int]:
        """The chunks of a bin, from its front."""
        head = self.bin_at(index)
        chunk = self._load(head + FD)
        while chunk != head:
            yield chunk
            chunk = self._load(chunk + FD)

    def link(self, chunk: int, back: int, forward: int) -> None:
        """Put *chunk* between two neighbours of a list."""
        store = self._store
        store(chunk + BK, back)
        store(chunk + FD, forward)
        store(forward + BK, chunk)
        store(back + FD, chunk)

    def add_to_bin(self, chunk: int, size: int) -> None:
        """Put a chunk of the unsorted bin where it belongs: large bins are sorted by size."""
        load = self._load
        index = bin_index(size)
        back = self.bin_at(index)
        forward = load(back + FD)
        if not in_smallbin_range(size):
            head = back
            while forward != head and load(forward + 8) & ~7 > size:
                forward = load(forward + FD)
            if forward != head and load(forward + 8) & ~7 == size:
                forward = load(forward + FD)  # second of its size: the first one stays where it is
            back = load(forward + BK)
        self.binmap |= 1 << index
        self.link(chunk, back, forward)
