"""
Freeing a chunk: into the tcache, a fastbin, the unsorted bin or the top (``_int_free``).

Small chunks go to fastbins without the arena's mutex: a push is one compare-exchange. Since chunks are popped
under the mutex only, one popper at a time, a head that looks the same *is* the same (no ABA).

Everything else merges with free neighbours, under the mutex.

Follows ``malloc/malloc.c`` of glibc 2.36, checks and their order included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    FASTBIN_CONSOLIDATION_THRESHOLD,
    MALLOC_ALIGN_MASK,
    MINSIZE,
    NFASTBINS,
    PREV_INUSE,
    SIZE_BITS,
    TCACHE_FILL_COUNT,
    chunk2mem,
    csize2tidx,
    fastbin_index,
    protect_ptr,
)
from concmem.user.malloc_state import BK, FD

if TYPE_CHECKING:
    from concmem.user.malloc_state import MallocState
    from concmem.user.ptmalloc import Ptmalloc
    from concmem.user.sysmalloc import SysMalloc
    from concmem.user.thread import Thread


class IntFree:
    """Puts chunks into bins, and takes free neighbours out of theirs."""

    def __init__(self, libc: Ptmalloc, sys_malloc: SysMalloc) -> None:
        self._libc = libc
        self._sys_malloc = sys_malloc

    # -- free

    def int_free(self, av: MallocState, chunk: int) -> None:
        """Free *chunk*. Caller does not hold ``av->mutex``. May sleep."""
        size = self.check_size(chunk)
        thread = self._libc.threads.this()
        if self._put_tcache(thread, chunk, size):
            return
        if size <= self._libc.params.max_fast.value:
            self.check_next_fast(av, chunk, size, locked=False)
            self._push_fastbin(av, chunk, size, locked=False)
            return
        with av.mutex:
            self._free_normal(av, chunk, size)

    def free_locked(self, av: MallocState, chunk: int) -> None:
        """The same, with ``av->mutex`` held."""
        size = self.check_size(chunk)
        thread = self._libc.threads.this()
        if self._put_tcache(thread, chunk, size):
            return
        if size <= self._libc.params.max_fast.value:
            self.check_next_fast(av, chunk, size, locked=True)
            self._push_fastbin(av, chunk, size, locked=True)
        else:
            self._free_normal(av, chunk, size)

    def check_size(self, chunk: int) -> int:
        """The chunk's size, if it can be one."""
        libc = self._libc
        size = libc.chunksize(chunk) if not chunk & MALLOC_ALIGN_MASK else 0
        if chunk & MALLOC_ALIGN_MASK or chunk > (1 << 64) - size:
            raise libc.corrupt("free(): invalid pointer", chunk2mem(chunk))
        if size < MINSIZE or size & MALLOC_ALIGN_MASK:
            raise libc.corrupt("free(): invalid size", chunk2mem(chunk))
        return size

    # -- tcache

    def _put_tcache(self, thread: Thread, chunk: int, size: int) -> bool:
        """Push it to the thread's own bin, if that takes it."""
        index = csize2tidx(size)
        self.check_tcache(thread, chunk, index)
        if not thread.has_room(index):
            return False
        self.tcache_put(thread, chunk, index)
        return True

    def tcache_put(self, thread: Thread, chunk: int, index: int) -> None:
        """Push *chunk*, which the caller owns, to a bin that has room."""
        address, stack = chunk2mem(chunk), thread.stacks[index]
        self._libc.store(address, protect_ptr(address, stack[-1]))
        self._libc.store(address + 8, thread.key)
        stack.append(address)
        thread.remember(address)

    def check_tcache(self, thread: Thread, chunk: int, index: int) -> None:
        """A chunk that has the key may be in the bin already: walk it."""
        if index >= len(thread.stacks):
            return
        libc, address = self._libc, chunk2mem(chunk)
        if libc.load(address + 8) != thread.key:
            return
        entry, count = thread.stacks[index][-1], 0
        while entry:
            if count >= TCACHE_FILL_COUNT:
                raise libc.corrupt("free(): too many chunks detected in tcache", address)
            if entry & MALLOC_ALIGN_MASK:
                raise libc.corrupt("free(): unaligned chunk detected in tcache 2", address)
            if entry == address:
                raise libc.corrupt("free(): double free detected in tcache 2", address)
            entry = protect_ptr(entry, libc.load(entry))
            count += 1

    # -- fastbins

    def check_next_fast(self, av: MallocState, chunk: int, size: int, locked: bool) -> None:
        """Does the chunk behind it have a size that can be?"""
        # No lock: `system_mem` may be about to change, so what looks wrong is looked at again.
        if self._is_next_fast_ok(av, chunk, size):
            return
        if not locked:
            with av.mutex:
                locked = self._is_next_fast_ok(av, chunk, size)
            if locked:
                return
        raise self._libc.corrupt("free(): invalid next size (fast)", chunk2mem(chunk))

    def _is_next_fast_ok(self, av: MallocState, chunk: int, size: int) -> bool:
        nomask = self._libc.load(chunk + size + 8)
        return nomask > CHUNK_HDR_SZ and nomask & ~SIZE_BITS < av.system_mem.value

    def _push_fastbin(self, av: MallocState, chunk: int, size: int, locked: bool) -> None:
        """One compare-exchange, tried until it succeeds."""
        av.have_fastchunks.value = True
        index = fastbin_index(size)
        head = av.fastbins[index]
        old = head.value
        while True:
            self.check_fasttop(chunk, old)
            self._libc.store(chunk + FD, protect_ptr(chunk + FD, old))
            found = head.cmpxchg(old, chunk)
            if found == old:
                break
            old = found
        self._check_old_head(old, index, locked)

    def check_fasttop(self, chunk: int, head: int) -> None:
        """The head of its fastbin is the only one that is looked at."""
        if chunk == head:
            raise self._libc.corrupt("double free or corruption (fasttop)", chunk2mem(chunk))

    def _check_old_head(self, old: int, index: int, locked: bool) -> None:
        """
        Is the chunk that was the head of the right size?

        Only with the mutex held: else it may be somebody else's by now, and anything (bug 15073, glibc 2.18).
        """
        if locked and old:
            self._check_fastbin_entry(old, index)

    def _check_fastbin_entry(self, old: int, index: int) -> None:
        if fastbin_index(self._libc.chunksize(old)) != index:
            raise self._libc.corrupt("invalid fastbin entry (free)", chunk2mem(old))

    # -- the rest. Caller holds av->mutex

    def check_normal(self, av: MallocState, chunk: int, size: int) -> None:
        """A chunk that is neither cached nor small: what can be wrong with it and the one behind."""
        libc = self._libc
        address, following = chunk2mem(chunk), chunk + size
        if chunk == av.top:
            raise libc.corrupt("double free or corruption (top)", address)
        if av.contiguous and following >= av.top + libc.chunksize(av.top):
            raise libc.corrupt("double free or corruption (out)", address)
        nomask = libc.load(following + 8)
        if not nomask & PREV_INUSE:
            raise libc.corrupt("double free or corruption (!prev)", address)
        if nomask <= CHUNK_HDR_SZ or nomask & ~SIZE_BITS >= av.system_mem.value:
            raise libc.corrupt("free(): invalid next size (normal)", address)

    def _free_normal(self, av: MallocState, chunk: int, size: int) -> None:
        self.check_normal(av, chunk, size)
        size = self._merge(av, chunk, size, "while consolidating", "free()")
        if size >= FASTBIN_CONSOLIDATION_THRESHOLD:
            if av.have_fastchunks.value:
                self.malloc_consolidate(av)
            self._trim(av)

    def _trim(self, av: MallocState) -> None:
        """A lot is free: perhaps the system gets some of it."""
        libc = self._libc
        pad = libc.params.top_pad.value
        if not av.is_main:
            self._sys_malloc.heap_trim(av, pad)
        elif libc.chunksize(av.top) >= libc.params.trim_threshold.value:
            self._sys_malloc.systrim(pad, av)

    def _merge(self, av: MallocState, chunk: int, size: int, when: str, who: str) -> int:
        """
        Merge *chunk* with free neighbours into the unsorted bin, or into the top.

        Returns:
            The bytes of what it has become.
        """
        libc = self._libc
        following = chunk + size
        following_size = libc.chunksize(following)
        if not libc.load(chunk + 8) & PREV_INUSE:
            before = libc.load(chunk)
            chunk -= before
            size += before
            if libc.chunksize(chunk) != before:
                raise libc.corrupt(f"corrupted size vs. prev_size {when}", chunk2mem(chunk))
            self.unlink_chunk(av, chunk)
        if following == av.top:
            size += following_size
            libc.store(chunk + 8, size | PREV_INUSE)
            av.top = chunk
            return size
        if libc.load(following + following_size + 8) & PREV_INUSE:
            libc.store(following + 8, libc.load(following + 8) & ~PREV_INUSE)
        else:
            self.unlink_chunk(av, following)
            size += following_size
        self.add_unsorted(av, chunk, f"{who}: corrupted unsorted chunks")
        libc.set_size_of_free(chunk, size)
        return size

    def add_unsorted(self, av: MallocState, chunk: int, complaint: str) -> None:
        """Put *chunk* at the front of the unsorted bin."""
        head = av.unsorted_chunks()
        forward = self._libc.load(head + FD)
        if self._libc.load(forward + BK) != head:
            raise self._libc.corrupt(complaint, chunk2mem(forward))
        av.link(chunk, head, forward)

    def unlink_chunk(self, av: MallocState, chunk: int) -> None:
        """Take a free chunk out of its bin (``unlink_chunk``)."""
        load, store = self._libc.load, self._libc.store
        if load(chunk + self._libc.chunksize(chunk)) != self._libc.chunksize(chunk):
            raise self._libc.corrupt("corrupted size vs. prev_size", chunk2mem(chunk))
        forward, back = load(chunk + FD), load(chunk + BK)
        if load(forward + BK) != chunk or load(back + FD) != chunk:
            raise self._libc.corrupt("corrupted double-linked list", chunk2mem(chunk))
        store(forward + BK, back)
        store(back + FD, forward)

    def malloc_consolidate(self, av: MallocState) -> None:
        """Empty the fastbins: merge their chunks with their neighbours."""
        libc = self._libc
        av.have_fastchunks.value = False
        for index in range(NFASTBINS):
            chunk = av.fastbins[index].xchg(0)
            while chunk:
                if chunk & MALLOC_ALIGN_MASK:
                    raise libc.corrupt(
                        "malloc_consolidate(): unaligned fastbin chunk detected", chunk2mem(chunk)
                    )
                size = libc.chunksize(chunk)
                if fastbin_index(size) != index:
                    raise libc.corrupt("malloc_consolidate(): invalid chunk size", chunk2mem(chunk))
                following = protect_ptr(chunk + FD, libc.load(chunk + FD))
                self._merge(av, chunk, size, "in fastbins", "malloc_consolidate()")
                chunk = following
