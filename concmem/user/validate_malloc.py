"""
Do the chunks, the bins, the tcaches and the table of live allocations of a process agree?

Called with every CPU parked between two operations, or asleep in one. Arenas whose mutex is held are left
out; an address that somebody is about to free may be anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from concmem.errors import HeapError
from concmem.units import PAGE_SIZE
from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    IS_MMAPPED,
    MINSIZE,
    NBINS,
    NON_MAIN_ARENA,
    PREV_INUSE,
    TCACHE_FILL_COUNT,
    align_up,
    bin_index,
    csize2tidx,
    fastbin_index,
    protect_ptr,
)
from concmem.user.heap import HEAP_INFO_SIZE
from concmem.user.malloc_state import BK, FD, MALLOC_STATE_SIZE
from concmem.user.validate_arenas import validate_arena_lists

if TYPE_CHECKING:
    from concmem.user.malloc import Malloc
    from concmem.user.malloc_state import MallocState

Used = dict[int, str]
"""By chunk: who has it, of those that their neighbours call in use."""


def validate_malloc(malloc: Malloc) -> None:
    """
    Every rule.

    Raises:
        HeapError: a heap does not tile into chunks, sizes or flags disagree, free neighbours were not
            merged, a bin has what it should not, or a chunk is lost or has two owners.
    """
    if malloc.memory.killed:
        return  # out of memory in the middle of an operation: a kernel would have killed the process
    checker = _Checker(malloc)
    validate_arena_lists(malloc)
    used = checker.used_chunks()
    regions = []
    for arena in malloc.arenas.ring():
        if arena.address and not arena.mutex.locked():
            found = list(checker.regions(arena))
            checker.check_arena(arena, found, used)
            regions += found
    checker.check_mmapped(regions)


class _Checker:
    """Walks one process's heaps, by loads that change nothing."""

    def __init__(self, malloc: Malloc) -> None:
        self._malloc = malloc
        self._threads = malloc.libc.threads.all()
        self._mapped: list[int] = []
        """Live chunks with mappings of their own; also a tcache may have one, if the threshold is low."""

    def load(self, address: int, what: str) -> int:
        word = self._malloc.libc.system.peek(address)
        if word is None:
            raise HeapError(f"{what}: {address:#x} is not mapped")
        return word

    # -- who has what

    def used_chunks(self) -> Used:
        """Chunks that look in use, with who has them."""
        used: Used = {}

        def add(address: int, who: str) -> None:
            chunk = address - CHUNK_HDR_SZ
            if self.load(chunk + 8, who) & IS_MMAPPED:
                self._mapped.append(address)
                return
            if chunk in used:
                raise HeapError(f"chunk {chunk:#x} is {used[chunk]}, and also {who}")
            used[chunk] = who

        for address in self._malloc.memory.live():
            add(address, "the program's")
        for thread in self._threads:
            if thread.tcache_mem:
                add(thread.tcache_mem, f"cpu{thread.cpu}'s tcache")
            for index, stack in enumerate(thread.stacks):
                self._check_stack(thread.key, index, stack)
                for address in stack[1:]:
                    add(address, f"in bin {index} of cpu{thread.cpu}'s tcache")
            for stack in thread.leaving:
                for address in stack[1:]:
                    add(address, f"in the tcache that cpu{thread.cpu} had")
        for arena in self._malloc.arenas.ring():
            if arena.address and not arena.mutex.locked():
                for index in range(len(arena.fastbins)):
                    for chunk in self._fastbin(arena, index):
                        add(chunk + CHUNK_HDR_SZ, f"in fastbin {index} of arena {arena.number}")
        return used

    def _check_stack(self, key: int, index: int, stack: list[int]) -> None:
        """The chain in the chunks' bytes is the stack."""
        where = f"tcache bin {index}"
        if not 0 < len(stack) <= TCACHE_FILL_COUNT + 1 or stack[0]:
            raise HeapError(f"{where}: {len(stack) - 1} chunks")
        for below, address in pairwise(stack):
            if self.load(address, where) != protect_ptr(address, below):
                raise HeapError(f"{where}: {address:#x} does not point to {below:#x}")
            if self.load(address + 8, where) != key:
                raise HeapError(f"{where}: {address:#x} has not got the key")
            size = self.load(address - 8, where) & ~7
            if csize2tidx(size) != index:
                raise HeapError(f"{where}: {address:#x} has a chunk of {size} bytes")

    def _fastbin(self, arena: MallocState, index: int) -> Iterator[int]:
        where = f"fastbin {index} of arena {arena.number}"
        chunk, seen = arena.fastbins[index].value, set[int]()
        while chunk:
            if chunk in seen:
                raise HeapError(f"{where}: {chunk:#x} is in it twice")
            seen.add(chunk)
            if fastbin_index(self.load(chunk + 8, where) & ~7) != index:
                raise HeapError(f"{where}: {chunk:#x} is of another size")
            yield chunk
            chunk = protect_ptr(chunk + FD, self.load(chunk + FD, where))

    # -- arenas

    def regions(self, arena: MallocState) -> Iterator[tuple[int, int]]:
        """The ranges that the arena cuts chunks from."""
        if arena.is_main:
            for start, end in arena.segments:
                yield start, end or arena.top + (self.load(arena.top + 8, "top") & ~7)
            return
        for heap in self._malloc.heaps.all():
            if heap.ar_ptr is arena:
                start = heap.address + HEAP_INFO_SIZE
                if heap.prev is None:
                    start = align_up(start + MALLOC_STATE_SIZE, 16)
                yield start, heap.address + heap.size

    def check_arena(self, arena: MallocState, regions: list[tuple[int, int]], used: Used) -> None:
        """Chunks, bins, and the bytes that the arena says it has."""
        binned = self._check_bins(arena)
        free, in_use = set[int](), set[int]()
        for start, end in regions:
            self._walk(arena, start, end, free, in_use)
        where = f"arena {arena.number}"
        if free != binned:
            chunk = min(free ^ binned)
            state = "in no bin" if chunk in free else "in a bin, but not free"
            raise HeapError(f"{where}: chunk {chunk:#x} is {state}")
        freeing = {thread.freeing - CHUNK_HDR_SZ for thread in self._threads if thread.freeing}
        mine = {chunk for chunk in used if any(start <= chunk < end for start, end in regions)}
        for chunk in sorted(in_use - mine - freeing):
            raise HeapError(f"{where}: chunk {chunk:#x} is lost: in use, but nobody's")
        for chunk in sorted(mine - in_use):
            raise HeapError(f"{where}: {chunk:#x} is {used[chunk]}, but is no chunk in use")
        total = sum(end - start for start, end in regions)
        if not arena.is_main:
            total = sum(heap.size for heap in self._malloc.heaps.all() if heap.ar_ptr is arena)
        # The main arena's first bytes may be lost to alignment, and what others took is counted.
        rest = arena.system_mem.value - total
        if len(arena.segments) < 2 and not 0 <= rest < (16 if arena.is_main else 1):
            raise HeapError(f"{where}: system_mem {arena.system_mem.value}, but it has {total}")

    def _walk(
        self, arena: MallocState, start: int, end: int, free: set[int], in_use: set[int]
    ) -> None:
        """From *start* to *end*, chunk by chunk."""
        where = f"arena {arena.number}"
        chunk, is_prev_free = start, False
        while chunk < end:
            header = self.load(chunk + 8, where)
            size = header & ~7
            if bool(header & PREV_INUSE) is is_prev_free:
                raise HeapError(f"{where}: P of chunk {chunk:#x} is wrong: {header:#x}")
            if chunk == arena.top:
                if chunk + size != end or is_prev_free:
                    raise HeapError(f"{where}: top {chunk:#x} of {size} bytes, end is {end:#x}")
                return
            if end - chunk <= 2 * CHUNK_HDR_SZ and size in (0, CHUNK_HDR_SZ):
                return  # fenceposts
            if size < MINSIZE or size % 16 or chunk + size > end or header & IS_MMAPPED:
                raise HeapError(f"{where}: chunk {chunk:#x} has a size field of {header:#x}")
            following = chunk + size
            if self.load(following + 8, where) & PREV_INUSE:
                in_use.add(chunk)
                if not arena.is_main and not header & NON_MAIN_ARENA:
                    raise HeapError(f"{where}: chunk {chunk:#x} says that it is the main arena's")
                is_prev_free = False
            else:
                if is_prev_free:
                    raise HeapError(f"{where}: free chunk {chunk:#x} was not merged")
                if self.load(following, where) != size:
                    raise HeapError(f"{where}: prev_size behind {chunk:#x} is not {size}")
                free.add(chunk)
                is_prev_free = True
            chunk = following
        if arena.top in range(start, end):
            raise HeapError(f"{where}: top {arena.top:#x} is inside a chunk")

    def _check_bins(self, arena: MallocState) -> set[int]:
        """Every chunk in a bin; each bin is a ring, has its sizes only, and large ones are sorted."""
        found: set[int] = set()
        for index in range(1, NBINS):
            where = f"bin {index} of arena {arena.number}"
            head = arena.bin_at(index)
            previous, chunk, above = head, self.load(head + FD, where), 1 << 64
            while True:
                if self.load(chunk + BK, where) != previous:
                    raise HeapError(f"{where}: {chunk:#x} does not point back to {previous:#x}")
                if chunk == head:
                    break
                if chunk in found:
                    raise HeapError(f"{where}: {chunk:#x} is in two bins")
                found.add(chunk)
                size = self.load(chunk + 8, where) & ~7
                if index > 1 and (bin_index(size) != index or size > above):
                    raise HeapError(f"{where}: {chunk:#x} of {size} bytes does not belong there")
                if index > 1 and not arena.binmap >> index & 1:
                    raise HeapError(f"{where}: has chunks, but binmap says that it has not")
                previous, chunk, above = chunk, self.load(chunk + FD, where), size
        return found

    # -- mappings

    def check_mmapped(self, regions: list[tuple[int, int]]) -> None:
        """Mappings of single chunks are apart from each other and from heaps, and are counted."""
        nr = total = end = 0
        for address in sorted(self._mapped):
            lead = self.load(address - CHUNK_HDR_SZ, "a mapped chunk")
            size = lead + (self.load(address - 8, "a mapped chunk") & ~7)
            start = address - CHUNK_HDR_SZ - lead
            if start % PAGE_SIZE or size % PAGE_SIZE or start < end:
                raise HeapError(f"mapped chunk {address:#x} is {start:#x}+{size:#x}")
            if any(low < start + size and start < high for low, high in regions):
                raise HeapError(f"mapped chunk {address:#x} is in a heap")
            nr, total, end = nr + 1, total + size, start + size
        params = self._malloc.params
        on_the_way = any(thread.freeing for thread in self._threads)
        if (nr, total) != (params.n_mmaps.value, params.mmapped_mem.value) and not on_the_way:
            raise HeapError(
                f"n_mmaps {params.n_mmaps.value} and mmapped_mem {params.mmapped_mem.value}, but "
                f"there are {nr} mapped chunks of {total} bytes"
            )
