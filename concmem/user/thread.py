"""
A thread of the process: its tcache, its arena, and what it remembers of the page tables.

Threads of a process are CPUs, so this is per-CPU data. No lock: only its own CPU touches it, except that
entries of `tlb` and `spots` are dropped by whoever unmaps their pages, by indivisible steps.

The tcache has 64 bins of at most 7 chunks. A bin is a stack of addresses, last in, first out; the same chain
is in the chunks' bytes, as the program could find it: the next address, obfuscated (safe-linking), and the
key that marks a chunk as being in a tcache. At the bottom of each stack lies a 0, the end of the chain.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from concmem.units import PAGE_SHIFT, PAGE_SIZE
from concmem.user.chunk import (
    MINSIZE,
    NON_MAIN_ARENA,
    PREV_INUSE,
    TCACHE_FILL_COUNT,
    TCACHE_MAX_BINS,
    protect_ptr,
)

if TYPE_CHECKING:
    from concmem.runtime.api import Words
    from concmem.user.malloc_state import MallocState
    from concmem.user.user_memory import Tlb

MAX_TCACHE_REQUEST: Final = 1032
"""Bytes of the largest request that a tcache serves."""

MAX_SPOTS: Final = 1 << 16
"""Addresses that a thread remembers, at most."""

_NO_CHUNKS: Final[list[int]] = []
"""A bin for sizes that have none: popping fails."""

_NO_BINS: Final = [_NO_CHUNKS]
_NO_HEADERS: Final[dict[int, list[int]]] = {}

_BIN_OF_REQUEST: Final = [max(0, request - 9 >> 4) for request in range(MAX_TCACHE_REQUEST + 1)]


class Thread:
    """``tcache``, ``thread_arena`` and the like of one thread."""

    __slots__ = (
        "arena",
        "by_header",
        "by_size",
        "counts",
        "cpu",
        "freeing",
        "key",
        "leaving",
        "shutting_down",
        "spots",
        "stacks",
        "tcache_mem",
        "tlb",
        "words",
    )

    words: Words
    """Memory as this CPU sees it. See `start`."""

    def __init__(self, key: int) -> None:
        self.key = key
        """``tcache_key``: random, the same in all threads."""
        self.cpu = -1
        """The CPU's number; -1 while there is no thread."""
        self.tlb: Tlb = {}
        self.spots: dict[int, tuple[int, int, dict[int, int]]] = {}
        """
        By address of a small chunk: the index of its first word, its page number, and the page's owners.

        For the fast paths. An address at the beginning of a page has none: its size is in another page.
        """
        self.arena: MallocState | None = None
        """``thread_arena``"""
        self.tcache_mem = 0
        """Where the tcache's structure is allocated; 0: there is no tcache."""
        self.shutting_down = False
        """``tcache_shutting_down``: the thread ends, and makes no new tcache."""
        self.freeing = 0
        """An address that is neither the program's any more, nor in a bin yet."""
        self.leaving: list[list[int]] = []
        """The bins of a tcache that is being given back."""
        self.counts: Counter[str] = Counter()
        """Events of this CPU, for statistics."""
        self.disconnect()

    def start(self, cpu: int, words: Words) -> None:
        """A thread begins on this CPU."""
        self.cpu = cpu
        self.words = words

    def remember(self, address: int) -> None:
        """*address*, whose page is in `tlb`, is in the tcache, or was: the fast paths may have it."""
        page = address >> PAGE_SHIFT
        if not address % PAGE_SIZE or page not in self.tlb:
            return
        base, owners = self.tlb[page]
        if len(self.spots) >= MAX_SPOTS:
            self.spots.clear()
        self.spots[address] = (address + base >> 3, page, owners)

    # -- tcache

    def disconnect(self) -> None:
        """Have no tcache."""
        self.stacks: list[list[int]] = []
        """``tcache->entries`` and, as their lengths less 1, ``tcache->counts``; empty without tcache."""
        self.by_size = _NO_BINS
        """The bin for each request, by its bytes."""
        self.by_header = _NO_HEADERS
        """The bin for each chunk, by its size field."""
        self.tcache_mem = 0

    def connect(self, tcache_mem: int) -> None:
        """Have an empty tcache, whose structure is at *tcache_mem*."""
        stacks = [[0] for _ in range(TCACHE_MAX_BINS)]
        self.stacks = stacks
        self.by_size = [stacks[index] for index in _BIN_OF_REQUEST]
        self.by_header = {
            MINSIZE + 16 * index | flags: stack
            for index, stack in enumerate(stacks)
            for flags in (0, PREV_INUSE, NON_MAIN_ARENA, PREV_INUSE | NON_MAIN_ARENA)
        }
        self.tcache_mem = tcache_mem

    def has_room(self, index: int) -> bool:
        """Whether bin *index* exists and takes another chunk."""
        return index < len(self.stacks) and len(self.stacks[index]) <= TCACHE_FILL_COUNT

    def nr_cached(self, index: int) -> int:
        """Chunks in bin *index*."""
        return len(self.stacks[index]) - 1 if index < len(self.stacks) else 0

    def top(self, index: int) -> tuple[int, int]:
        """
        The address on top. The caller has asked `nr_cached`.

        Returns:
            The address, and what its chunk must have as its next pointer.
        """
        address, below = self.stacks[index][-1], self.stacks[index][-2]
        return address, protect_ptr(address, below)
