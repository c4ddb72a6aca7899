"""
Arenas: which one a thread allocates from.

The first thread uses the main arena. Every further thread gets, when it first needs memory, an arena that no
thread uses (from the free list), or a new one, or, at the limit, shares one (`reused_arena`): the first in
the ring whose mutex is free, else the thread waits for the next in turn. The limit is 8 for each CPU, once
there are more than `arena_test` arenas.

An arena is on the free list exactly while no thread is attached to it, and at most once.

Lock order:
    list_lock        the ring (`next`): arenas are added, never taken out
      -> arena->mutex
    free_list_lock   free list, `attached_threads`; a leaf

Follows ``malloc/arena.c`` of glibc 2.36.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.mm.mman import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, PROT_WRITE
from concmem.runtime.api import lockless_reads
from concmem.units import PAGE_SIZE
from concmem.user.chunk import PREV_INUSE, align_up
from concmem.user.heap import HEAP_INFO_SIZE, Heaps
from concmem.user.malloc_state import MALLOC_STATE_SIZE, MallocState

if TYPE_CHECKING:
    from concmem.user.ptmalloc import Ptmalloc
    from concmem.user.thread import Thread

_NO_LIMIT: Final = 1 << 62


class Arenas:
    """All arenas of a process."""

    # Read without the lock by `_get_free_list`, to see whether it is worth the lock.
    __guarded_by__: Final = {"free_list": lockless_reads("free_list_lock")}

    def __init__(self, libc: Ptmalloc, heaps: Heaps, state_class: type[MallocState]) -> None:
        rt = libc.rt
        self._libc = libc
        self._heaps = heaps
        self._state_class = state_class
        self.list_lock = rt.mutex("list_lock")
        self.free_list_lock = rt.spinlock("free_list_lock")
        self.free_list: MallocState | None = None
        self.main_arena = self._make_state(0)
        self._first_thread = rt.atomic(0, "main thread")
        self.narenas = rt.atomic(1, "narenas")
        self._last_number = rt.atomic(0, "arena number")
        # Computed by whoever needs it first; all compute the same.
        self._narenas_limit = rt.cell(0, "narenas_limit")
        # Read and stored without a lock by `reused_arena`: that two threads start at the same arena
        # costs them time only, since each trylocks what it uses.
        self._next_to_use = rt.cell(self.main_arena, "next_to_use")

    def _make_state(self, number: int) -> MallocState:
        return self._libc.rt.watch(self._state_class(self._libc.rt, self._libc.memory, number))

    def ptmalloc_init(self) -> None:
        """The main arena comes up, empty. May sleep. Caller holds `list_lock`."""
        address = self._libc.system.mmap(
            PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
        )
        if address is None:
            return
        with self.main_arena.mutex:
            self.main_arena.init_state(address)

    def ring(self) -> Iterator[MallocState]:
        """Every arena, the main one first. No lock: `next` is set before an arena can be reached."""
        arena = self.main_arena
        while True:
            yield arena
            arena = arena.next.value
            if arena is self.main_arena:
                return

    # -- the arena of a thread

    def arena_get(self, thread: Thread, size: int) -> MallocState | None:
        """The thread's arena, locked; its first time, one is found. ``None`` without memory."""
        arena = thread.arena
        if arena is None:
            return self._arena_get2(thread, size, None)
        arena.mutex.acquire()
        return arena

    def arena_get_retry(self, arena: MallocState, thread: Thread, size: int) -> MallocState | None:
        """
        *arena*, locked, has no memory: unlock it, and lock another that may have.

        From the main arena, any; from one that lives on mappings, the main arena, which has brk.
        """
        arena.mutex.release()
        if arena is self.main_arena:
            return self._arena_get2(thread, size, arena)
        self.main_arena.mutex.acquire()
        return self.main_arena

    def _arena_get2(
        self, thread: Thread, size: int, avoid: MallocState | None
    ) -> MallocState | None:
        if avoid is None and self._claim_main(thread):
            return thread.arena
        arena = self._get_free_list(thread)
        if arena is not None:
            arena.mutex.acquire()
            return arena
        limit = self._limit()
        while (n := self.narenas.value) < limit:
            if self.narenas.cmpxchg(n, n + 1) == n:
                arena = self._int_new_arena(thread, size)
                if arena is None:
                    self.narenas.dec()
                return arena
        return self._reused_arena(thread, avoid)

    def _claim_main(self, thread: Thread) -> bool:
        """The first thread of a process has the main arena; locked. One step decides who is it."""
        if self._first_thread.value or self._first_thread.cmpxchg(0, 1):
            return False
        with self.free_list_lock:
            self.main_arena.attached_threads = 1
        thread.arena = self.main_arena
        self.main_arena.mutex.acquire()
        return True

    def _limit(self) -> int:
        """How many arenas there may be."""
        limit = self._narenas_limit.value
        if limit:
            return limit
        params = self._libc.params
        if params.arena_max.value:
            limit = params.arena_max.value
        elif self.narenas.value > params.arena_test.value:
            limit = 8 * self._libc.rt.nr_cpus
        else:
            return _NO_LIMIT  # not known yet: there are few
        self._narenas_limit.value = limit
        return limit

    # -- new arenas

    def _int_new_arena(self, thread: Thread, size: int) -> MallocState | None:
        """An arena on a heap of its own, locked, attached to *thread*, and in the ring."""
        libc = self._libc
        needed = HEAP_INFO_SIZE + MALLOC_STATE_SIZE + 16
        heap = self._heaps.new_heap(needed + size, libc.params.top_pad.value)
        if heap is None:
            heap = self._heaps.new_heap(needed, libc.params.top_pad.value)
            if heap is None:
                return None
        arena = self._make_state(self._last_number.add_return(1))
        heap.ar_ptr = arena
        with arena.mutex:
            arena.init_state(heap.address + HEAP_INFO_SIZE)
            arena.system_mem.value = arena.max_system_mem = heap.size
            arena.top = align_up(heap.address + HEAP_INFO_SIZE + MALLOC_STATE_SIZE, 16)
            libc.store(arena.top + 8, heap.address + heap.size - arena.top | PREV_INUSE)
        with self.free_list_lock:
            arena.attached_threads = 1
            self._detach(thread.arena)
        thread.arena = arena
        with self.list_lock:
            arena.next.value = self.main_arena.next.value
            self.main_arena.next.value = arena
        # Not under list_lock: others may lock the arena between, but none that holds it wants the list.
        arena.mutex.acquire()
        return arena

    # -- sharing

    def _reused_arena(self, thread: Thread, avoid: MallocState | None) -> MallocState:
        """At the limit: an arena that others use too, locked."""
        start = arena = self._next_to_use.value
        found = None
        while found is None:
            if arena.mutex.trylock():
                found = arena
            else:
                arena = arena.next.value
                if arena is start:
                    break
        if found is None:
            # All are busy: wait for this one, or, when it is out of memory, the one behind it.
            found = arena.next.value if arena is avoid else arena
            found.mutex.acquire()
        with self.free_list_lock:
            self._detach(thread.arena)
            self._remove_from_free_list(found)
            found.attached_threads += 1
        thread.arena = found
        self._next_to_use.value = found.next.value
        return found

    # -- the free list. Caller holds free_list_lock, except for the first and the last

    def _get_free_list(self, thread: Thread) -> MallocState | None:
        """An arena that no thread uses, now attached to *thread*; not locked."""
        # No lock: when the list is empty now, an arena that comes later serves the next thread.
        if self.free_list is None:
            return None
        with self.free_list_lock:
            arena = self.free_list
            if arena is None:
                return None
            self.free_list = arena.next_free
            if arena.attached_threads:
                raise self._libc.corrupt(
                    f"get_free_list: arena {arena.number} is on the free list, but "
                    f"{arena.attached_threads} thread(s) are attached to it",
                    arena.address,
                )
            arena.attached_threads = 1
            self._detach(thread.arena)
        thread.arena = arena
        return arena

    def _remove_from_free_list(self, arena: MallocState) -> None:
        """
        Take an arena that is about to be attached off the list, if it is on it.

        Since glibc 2.24 (bug 20370): without this it was on the list with a thread attached.
        """
        previous, each = None, self.free_list
        while each is not None:
            if each is arena:
                if previous is None:
                    self.free_list = each.next_free
                else:
                    previous.next_free = each.next_free
                return
            previous, each = each, each.next_free

    @staticmethod
    def _detach(arena: MallocState | None) -> None:
        """A thread takes another arena (``detach_arena``). The old one is not put on the list."""
        if arena is not None:
            arena.attached_threads -= 1
            arena.abandoned = not arena.attached_threads

    def thread_exit(self, thread: Thread) -> None:
        """The thread needs no arena any more (``__malloc_arena_thread_freeres``)."""
        arena, thread.arena = thread.arena, None
        if arena is None:
            return
        with self.free_list_lock:
            if self._last_thread_detached(arena):
                arena.next_free = self.free_list
                self.free_list = arena

    def _last_thread_detached(self, arena: MallocState) -> bool:
        """
        One thread less; whether that was the last. Caller holds free_list_lock.

        Since glibc 2.23 (bug 19048): before, every thread that ended put its arena on the list.
        """
        arena.attached_threads -= 1
        return arena.attached_threads == 0
