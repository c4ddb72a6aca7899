"""
Where malloc meets the kernel: memory from it (``sysmalloc``), and back to it (``systrim`` and others).

The main arena grows and shrinks by moving the break, with `top_pad` bytes to spare; if the break was moved by
somebody else meanwhile, it goes on behind that. Other arenas grow inside their heaps, and then by further
heaps. Large chunks get a mapping of their own.

All but the mapped chunks: the caller holds the arena's mutex. May sleep.

Follows ``malloc/malloc.c`` and ``malloc/arena.c`` of glibc 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.units import PAGE_SIZE
from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    IS_MMAPPED,
    MALLOC_ALIGN_MASK,
    MINSIZE,
    NON_MAIN_ARENA,
    PREV_INUSE,
    SIZE_SZ,
    align_up,
    chunk2mem,
)
from concmem.user.heap import HEAP_INFO_SIZE, HeapInfo, Heaps
from concmem.user.params import HEAP_MAX_SIZE

if TYPE_CHECKING:
    from concmem.user.int_free import IntFree
    from concmem.user.malloc_state import MallocState
    from concmem.user.ptmalloc import Ptmalloc

MMAP_AS_MORECORE_SIZE: Final = 1 << 20
"""Where the break cannot move: bytes to map at least."""


class SysMalloc:
    """Asks for memory, and gives it back."""

    int_free: IntFree

    def __init__(self, libc: Ptmalloc, heaps: Heaps) -> None:
        self._libc = libc
        self._heaps = heaps

    def sysmalloc(self, nb: int, av: MallocState | None) -> int | None:
        """A chunk of *nb* bytes that the bins and the top do not have; the program's address."""
        params = self._libc.params
        # No lock: limits that are out of date by a few are kept by the next request.
        if av is None or (
            nb >= params.mmap_threshold.value and params.n_mmaps.value < params.n_mmaps_max.value
        ):
            address = self._sysmalloc_mmap(nb)
            if address is not None:
                return address
            tried_mmap = True
        else:
            tried_mmap = False
        if av is None:
            return None
        old_top = av.top
        old_size = self._libc.chunksize(old_top)
        self._check_top(av, old_top, old_size)
        if av.is_main:
            self._libc.system.count("user_malloc_brk")
            self._libc.threads.this().counts["brk"] += 1
            self._grow_main(av, nb, old_top, old_size)
        elif not self._grow_heap(av, nb, old_top, old_size) and not tried_mmap:
            return self._sysmalloc_mmap(nb)
        av.max_system_mem = max(av.max_system_mem, av.system_mem.value)
        return self.split_top(av, nb)

    def split_top(self, av: MallocState, nb: int) -> int | None:
        """*nb* bytes from the front of the top, if it is large enough."""
        libc, victim = self._libc, av.top
        size = libc.chunksize(victim)
        if size > av.system_mem.value:
            raise libc.corrupt("malloc(): corrupted top size", victim)
        if size < nb + MINSIZE:
            return None
        av.top = victim + nb
        libc.store(victim + 8, nb | PREV_INUSE | (0 if av.is_main else NON_MAIN_ARENA))
        libc.store(av.top + 8, size - nb | PREV_INUSE)
        return chunk2mem(victim)

    def _check_top(self, av: MallocState, old_top: int, old_size: int) -> None:
        if old_top == av.initial_top() and not old_size:
            return
        if (
            old_size < MINSIZE
            or not self._libc.load(old_top + 8) & PREV_INUSE
            or (old_top + old_size) % PAGE_SIZE
        ):
            raise self._libc.corrupt("sysmalloc: old top is no top chunk", old_top)

    # -- mappings

    def _sysmalloc_mmap(self, nb: int) -> int | None:
        """A chunk of its own (``sysmalloc_mmap``). No lock needed."""
        libc = self._libc
        size = align_up(nb + SIZE_SZ, PAGE_SIZE)
        chunk = libc.system.mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
        if chunk is None:
            return None
        libc.store(chunk, 0)
        libc.store(chunk + 8, size | IS_MMAPPED)
        libc.params.n_mmaps.inc()
        libc.params.mmapped_mem.add(size)
        libc.system.count("user_malloc_mmap")
        libc.threads.this().counts["mmap"] += 1
        return chunk2mem(chunk)

    def munmap_chunk(self, chunk: int) -> None:
        """Unmap a mapped chunk. No lock needed. The caller has checked it."""
        libc = self._libc
        lead = libc.load(chunk)
        start = chunk - lead
        total = lead + libc.chunksize(chunk)
        libc.params.n_mmaps.dec()
        libc.params.mmapped_mem.add(-total)
        libc.memory.forget_chunk(start, start + total)
        libc.system.count("user_free_mapped")
        libc.threads.this().counts["munmap"] += 1
        libc.system.munmap(start, total)

    # -- heaps

    def _grow_heap(self, av: MallocState, nb: int, old_top: int, old_size: int) -> bool:
        """More of the heap that the top is in, or a further heap."""
        libc, heaps = self._libc, self._heaps
        heap = heaps.heap_for_ptr(old_top)
        assert heap is not None
        had = heap.size
        if heaps.grow_heap(heap, MINSIZE + nb - old_size):
            av.system_mem.value += heap.size - had
            libc.store(old_top + 8, heap.address + heap.size - old_top | PREV_INUSE)
            return True
        new = heaps.new_heap(nb + MINSIZE + HEAP_INFO_SIZE, libc.params.top_pad.value)
        if new is None:
            return False
        new.ar_ptr, new.prev = av, heap
        av.system_mem.value += new.size
        av.top = new.address + HEAP_INFO_SIZE
        libc.store(av.top + 8, new.size - HEAP_INFO_SIZE | PREV_INUSE)
        self._fence_heap(av, old_top, old_size)
        return True

    def _fence_heap(self, av: MallocState, old_top: int, old_size: int) -> None:
        """The old heap's last bytes become fenceposts, so that nothing merges beyond them."""
        libc = self._libc
        rest = (old_size - MINSIZE) & ~MALLOC_ALIGN_MASK
        libc.store(old_top + rest + CHUNK_HDR_SZ + 8, 0 | PREV_INUSE)
        if rest >= MINSIZE:
            libc.store(old_top + rest + 8, CHUNK_HDR_SZ | PREV_INUSE)
            libc.store(old_top + rest + CHUNK_HDR_SZ, CHUNK_HDR_SZ)
            libc.store(old_top + 8, rest | PREV_INUSE | NON_MAIN_ARENA)
            self.int_free.free_locked(av, old_top)
        else:
            libc.store(old_top + 8, rest + CHUNK_HDR_SZ | PREV_INUSE)
            libc.store(old_top + rest + CHUNK_HDR_SZ, rest + CHUNK_HDR_SZ)

    # -- brk

    def _grow_main(self, av: MallocState, nb: int, old_top: int, old_size: int) -> None:
        """Move the break, or, where it cannot move, map memory instead. Without memory, nothing."""
        libc = self._libc
        size = nb + libc.params.top_pad.value + MINSIZE
        if av.contiguous:
            size -= old_size
        size = align_up(size, PAGE_SIZE)
        brk = libc.system.sbrk(size) if size < HEAP_MAX_SIZE << 20 else None
        end = None
        if brk is None:
            if av.contiguous:
                size = align_up(size + old_size, PAGE_SIZE)
            size = max(size, MMAP_AS_MORECORE_SIZE)
            brk = libc.system.mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS)
            if brk is None:
                return
            av.contiguous = False
            end = brk + size
        av.system_mem.value += size
        old_end = old_top + old_size
        if brk == old_end and end is None:
            libc.store(old_top + 8, size + old_size | PREV_INUSE)
            return
        if av.contiguous and old_size and brk < old_end:
            raise libc.corrupt("break adjusted to free malloc space", brk)
        self._new_top(av, brk, size, end, (old_top, old_size))

    def _new_top(
        self, av: MallocState, brk: int, size: int, end: int | None, old: tuple[int, int]
    ) -> None:
        """
        The new memory, *size* bytes from *brk*, is not behind the old top: the break was moved by others.

        Make it begin at an aligned address and end with a page, and fence the old top off.
        """
        libc = self._libc
        old_top, old_size = old
        start, correction = brk, 0
        if av.contiguous:
            if old_size:
                av.system_mem.value += brk - (old_top + old_size)
            start = align_up(brk, 16)
            correction = start - brk + old_size
            correction = align_up(brk + size + correction, PAGE_SIZE) - (brk + size)
            found = libc.system.sbrk(correction)
            if found is None:
                # No more: see at least where the break is now.
                correction = 0
                found = libc.system.sbrk(0)
            end = found
        elif end is None:
            end = libc.system.sbrk(0)
        if end is None:
            return
        if old_size:
            av.segments[-1] = av.segments[-1][0], old_top + old_size
        av.segments.append((start, 0))
        av.top = start
        libc.store(start + 8, end - start + correction | PREV_INUSE)
        av.system_mem.value += correction
        if old_size:
            rest = (old_size - 2 * CHUNK_HDR_SZ) & ~MALLOC_ALIGN_MASK
            libc.store(old_top + 8, rest | PREV_INUSE)
            libc.store(old_top + rest + 8, CHUNK_HDR_SZ | PREV_INUSE)
            libc.store(old_top + rest + CHUNK_HDR_SZ + 8, CHUNK_HDR_SZ | PREV_INUSE)
            if rest >= MINSIZE:
                self.int_free.free_locked(av, old_top)

    # -- trim

    def systrim(self, pad: int, av: MallocState) -> bool:
        """Lower the break, so that *pad* bytes of top are left; whether there was something to give."""
        libc = self._libc
        top_size = libc.chunksize(av.top)
        extra = self._extra(top_size, pad)
        if extra <= 0:
            return False
        current = libc.system.sbrk(0)
        # Only if the break is where malloc left it: somebody else may have taken memory behind it.
        if current is None or current != av.top + top_size:
            return False
        libc.memory.forget(current - extra, current)
        libc.system.count("user_free_heap")
        libc.threads.this().counts["brk_shrink"] += 1
        libc.system.sbrk(-extra)
        now = libc.system.sbrk(0)
        if now is None or now >= current:
            return False
        av.system_mem.value -= current - now
        libc.store(av.top + 8, top_size - (current - now) | PREV_INUSE)
        return True

    @staticmethod
    def _extra(top_size: int, pad: int) -> int:
        """Bytes, whole pages, that a top can do without."""
        area = top_size - MINSIZE - 1
        return area - pad & -PAGE_SIZE if area > pad else 0

    def heap_trim(self, av: MallocState, pad: int) -> bool:
        """Delete heaps at the end of the arena that are all free, and shrink what is left."""
        libc, heaps = self._libc, self._heaps
        heap = heaps.heap_for_ptr(av.top)
        assert heap is not None
        while av.top == heap.address + HEAP_INFO_SIZE and heap.prev is not None:
            previous = heap.prev
            if not self._delete_last_heap(av, heap, previous, pad):
                break
            heap = previous
        top_size = libc.chunksize(av.top)
        if top_size < libc.params.trim_threshold.value:
            return False
        extra = self._extra(top_size, pad)
        if extra <= 0 or not heaps.shrink_heap(heap, extra):
            return False
        libc.threads.this().counts["heap_shrink"] += 1
        av.system_mem.value -= extra
        libc.store(av.top + 8, top_size - extra | PREV_INUSE)
        return True

    def _delete_last_heap(self, av: MallocState, heap: HeapInfo, prev: HeapInfo, pad: int) -> bool:
        """*heap* is all free: delete it if the one before has enough; its end becomes the top."""
        libc = self._libc
        # Behind the last chunk of `prev` come two fenceposts, the second of which has size 0.
        last = prev.address + prev.size - CHUNK_HDR_SZ & ~MALLOC_ALIGN_MASK
        end = prev.address + prev.size
        if libc.load(last + 8) != PREV_INUSE:
            raise libc.corrupt("heap_trim: no fencepost at the end of the heap", last)
        chunk = last - libc.load(last)
        new_size = end - chunk
        is_prev_free = not libc.load(chunk + 8) & PREV_INUSE
        if is_prev_free:
            new_size += libc.load(chunk)
        if new_size + HEAP_MAX_SIZE - prev.size < pad + MINSIZE + PAGE_SIZE:
            return False
        av.system_mem.value -= heap.size
        self._heaps.delete_heap(heap)
        libc.threads.this().counts["heap_delete"] += 1
        if is_prev_free:
            chunk -= libc.load(chunk)
            self.int_free.unlink_chunk(av, chunk)
        av.top = chunk
        libc.store(chunk + 8, new_size | PREV_INUSE)
        return True
