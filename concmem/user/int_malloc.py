"""
Finding a chunk in an arena (``_int_malloc``): fastbin, small bin, unsorted, large bin, any bin, top.

Whatever is found of the size asked for, while looking, goes into the thread's tcache as far as that has room.

All of it under the arena's mutex. May sleep, when the system is asked for memory.

Follows ``malloc/malloc.c`` of glibc 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    MALLOC_ALIGN_MASK,
    MINSIZE,
    NON_MAIN_ARENA,
    PREV_INUSE,
    SIZE_BITS,
    bin_index,
    chunk2mem,
    csize2tidx,
    fastbin_index,
    in_smallbin_range,
    protect_ptr,
)
from concmem.user.malloc_state import BK, FD

if TYPE_CHECKING:
    from concmem.user.int_free import IntFree
    from concmem.user.malloc_state import MallocState
    from concmem.user.ptmalloc import Ptmalloc
    from concmem.user.sysmalloc import SysMalloc
    from concmem.user.thread import Thread

MAX_ITERS: Final = 10000
"""Unsorted chunks that one request sorts, at most."""


class IntMalloc:
    """Takes chunks out of bins."""

    def __init__(self, libc: Ptmalloc, sys_malloc: SysMalloc, int_free: IntFree) -> None:
        self._libc = libc
        self._sys_malloc = sys_malloc
        self._int_free = int_free

    def int_malloc(self, av: MallocState, nb: int) -> int | None:
        """A chunk of *nb* bytes or a little more; the program's address. Caller holds the mutex."""
        thread = self._libc.threads.this()
        index = csize2tidx(nb)
        if nb <= self._libc.params.max_fast.value:
            address = self._from_fastbin(av, nb, thread, index)
            if address:
                return address
        if in_smallbin_range(nb):
            address = self._from_smallbin(av, nb, thread, index)
            if address:
                return address
        elif av.have_fastchunks.value:
            self._int_free.malloc_consolidate(av)
        while True:
            address = self._sort_unsorted(av, nb, thread, index)
            if address:
                return address
            address = self._from_largebin(av, nb) or self._from_bins(av, nb)
            if address:
                return address
            address = self._sys_malloc.split_top(av, nb)
            if address:
                return address
            if not av.have_fastchunks.value:
                return self._sys_malloc.sysmalloc(nb, av)
            self._int_free.malloc_consolidate(av)

    # -- fastbins: others push meanwhile, nobody else pops

    def _from_fastbin(self, av: MallocState, nb: int, thread: Thread, index: int) -> int | None:
        libc = self._libc
        fast_index = fastbin_index(nb)
        victim = self._remove_fb(av, fast_index, " 2")
        if not victim:
            return None
        if fastbin_index(libc.chunksize(victim)) != fast_index:
            raise libc.corrupt("malloc(): memory corruption (fast)", chunk2mem(victim))
        while thread.has_room(index):
            other = self._remove_fb(av, fast_index, " 3")
            if not other:
                break
            self._int_free.tcache_put(thread, other, index)
        return chunk2mem(victim)

    def _remove_fb(self, av: MallocState, index: int, where: str) -> int:
        """Pop a chunk (``REMOVE_FB``); 0 if there is none."""
        libc, head = self._libc, av.fastbins[index]
        victim = head.value
        while victim:
            if victim & MALLOC_ALIGN_MASK:
                raise libc.corrupt(
                    f"malloc(): unaligned fastbin chunk detected{where}", chunk2mem(victim)
                )
            following = protect_ptr(victim + FD, libc.load(victim + FD))
            if following & MALLOC_ALIGN_MASK:
                raise libc.corrupt(
                    "malloc(): unaligned fastbin chunk detected", chunk2mem(following)
                )
            found = head.cmpxchg(victim, following)
            if found == victim:
                break
            victim = found
        return victim

    # -- small bins: first in, first out

    def _from_smallbin(self, av: MallocState, nb: int, thread: Thread, index: int) -> int | None:
        libc = self._libc
        head = av.bin_at(bin_index(nb))
        victim = libc.load(head + BK)
        if victim == head:
            return None
        back = libc.load(victim + BK)
        if libc.load(back + FD) != victim:
            raise libc.corrupt("malloc(): smallbin double linked list corrupted", chunk2mem(victim))
        self._take_last(av, head, victim, nb)
        while thread.has_room(index) and (other := libc.load(head + BK)) != head:
            self._take_last(av, head, other, nb)
            self._int_free.tcache_put(thread, other, index)
        return chunk2mem(victim)

    def _take_last(self, av: MallocState, head: int, chunk: int, size: int) -> None:
        """Take the last chunk off a list, for use."""
        libc = self._libc
        back = libc.load(chunk + BK)
        libc.store(head + BK, back)
        libc.store(back + FD, head)
        self._set_inuse(av, chunk, size)

    def _set_inuse(self, av: MallocState, chunk: int, size: int) -> None:
        """The whole chunk is in use: the next one says so, and it says whose it is."""
        load, store = self._libc.load, self._libc.store
        store(chunk + size + 8, load(chunk + size + 8) | PREV_INUSE)
        if not av.is_main:
            store(chunk + 8, load(chunk + 8) | NON_MAIN_ARENA)

    # -- the unsorted bin

    def _sort_unsorted(self, av: MallocState, nb: int, thread: Thread, index: int) -> int | None:
        """Move every unsorted chunk to its bin, unless it is of the right size."""
        libc = self._libc
        head = av.unsorted_chunks()
        is_cached = False
        for _ in range(MAX_ITERS):
            victim = libc.load(head + BK)
            if victim == head:
                break
            size = self._check_unsorted(av, victim, head)
            back = libc.load(victim + BK)
            if (
                in_smallbin_range(nb)
                and back == head
                and victim == av.last_remainder
                and size > nb + MINSIZE
            ):
                # The rest of the last split: small requests in a row lie side by side.
                return self._split_remainder(av, victim, size, nb)
            libc.store(head + BK, back)
            libc.store(back + FD, head)
            if size != nb:
                av.add_to_bin(victim, size)
                continue
            self._set_inuse(av, victim, size)
            if not thread.has_room(index):
                return chunk2mem(victim)
            self._int_free.tcache_put(thread, victim, index)
            is_cached = True
        return self.tcache_get(thread, index) if is_cached else None

    def tcache_get(self, thread: Thread, index: int) -> int:
        """Pop the thread's own bin, which is not empty (``tcache_get``)."""
        libc = self._libc
        address, link = thread.top(index)
        self.check_link(address, libc.load(address), link)
        thread.stacks[index].pop()
        libc.store(address + 8, 0)
        thread.remember(address)
        return address

    def check_link(self, address: int, found: int, expected: int) -> None:
        """
        The chunk on top of a bin must still point to the next.

        glibc follows what it finds, and complains if that is not aligned when it gets there.
        """
        if found != expected:
            following = protect_ptr(address, found)
            detail = "unaligned tcache chunk detected"
            if not following & MALLOC_ALIGN_MASK:
                detail = f"corrupted tcache chunk, next is {following:#x}"
            raise self._libc.corrupt(f"malloc(): {detail}", address)

    def _check_unsorted(self, av: MallocState, victim: int, head: int) -> int:
        """The size of an unsorted chunk, if all about it agrees."""
        libc, load = self._libc, self._libc.load
        address = chunk2mem(victim)
        nomask = load(victim + 8)
        size = nomask & ~SIZE_BITS
        system_mem = av.system_mem.value
        if size <= CHUNK_HDR_SZ or size > system_mem:
            raise libc.corrupt("malloc(): invalid size (unsorted)", address)
        following = load(victim + size + 8)
        if following < CHUNK_HDR_SZ or following > system_mem:
            raise libc.corrupt("malloc(): invalid next size (unsorted)", address)
        if load(victim + size) & ~SIZE_BITS != size:
            raise libc.corrupt("malloc(): mismatching next->prev_size (unsorted)", address)
        if load(load(victim + BK) + FD) != victim or load(victim + FD) != head:
            raise libc.corrupt("malloc(): unsorted double linked list corrupted", address)
        if following & PREV_INUSE:
            raise libc.corrupt("malloc(): invalid next->prev_inuse (unsorted)", address)
        return size

    def _split_remainder(self, av: MallocState, victim: int, size: int, nb: int) -> int:
        """Cut *nb* bytes off the only unsorted chunk."""
        head, rest = av.unsorted_chunks(), victim + nb
        av.link(rest, head, head)
        av.last_remainder = rest
        self._set_heads(av, victim, size, nb)
        return chunk2mem(victim)

    def _set_heads(self, av: MallocState, victim: int, size: int, nb: int) -> None:
        flag = 0 if av.is_main else NON_MAIN_ARENA
        self._libc.store(victim + 8, nb | PREV_INUSE | flag)
        self._libc.set_size_of_free(victim + nb, size - nb)

    # -- larger chunks than needed: best fit

    def _from_largebin(self, av: MallocState, nb: int) -> int | None:
        """The smallest chunk that is large enough, of the bin for *nb*."""
        if in_smallbin_range(nb):
            return None
        load, chunksize = self._libc.load, self._libc.chunksize
        head = av.bin_at(bin_index(nb))
        first = load(head + FD)
        if first == head or chunksize(first) < nb:
            return None
        victim = load(head + BK)
        while (size := chunksize(victim)) < nb:
            victim = load(victim + BK)
        while (before := load(victim + BK)) != head and chunksize(before) == size:
            victim = before
        # The second of its size, if there are several: they were put in behind the first.
        following = load(victim + FD)
        if following != head and chunksize(following) == size:
            victim = following
        return self._take_from(av, victim, nb, "malloc(): corrupted unsorted chunks")

    def _from_bins(self, av: MallocState, nb: int) -> int | None:
        """The last chunk of the first bin with larger ones."""
        load = self._libc.load
        index = bin_index(nb) + 1
        while bins := av.binmap >> index:
            index += (bins & -bins).bit_length() - 1
            head = av.bin_at(index)
            victim = load(head + BK)
            if victim != head:
                return self._take_from(av, victim, nb, "malloc(): corrupted unsorted chunks 2")
            av.binmap &= ~(1 << index)
            index += 1
        return None

    def _take_from(self, av: MallocState, victim: int, nb: int, complaint: str) -> int:
        """Take *victim* out of its bin; what is left of it, if it can be a chunk, is unsorted."""
        size = self._libc.chunksize(victim)
        self._int_free.unlink_chunk(av, victim)
        if size - nb < MINSIZE:
            self._set_inuse(av, victim, size)
        else:
            self._int_free.add_unsorted(av, victim + nb, complaint)
            if in_smallbin_range(nb):
                av.last_remainder = victim + nb
            self._set_heads(av, victim, size, nb)
        return chunk2mem(victim)
