"""
malloc, free and their relatives in one process.

A request goes to the thread's tcache, then to its arena, and above `mmap_threshold` to a mapping of its own.

Lock order:
    list_lock -> arena->mutex -> mmap_lock (of the process)
    free_list_lock is a leaf

Without a lock, by design, with the argument beside the code: pushes to fastbins, `have_fastchunks`,
`system_mem` in the first check of `free`, the parameters, `next_to_use`, `arena->next`, `aligned_heap_area`.

Follows ``malloc/malloc.c`` of glibc 2.36. Not modelled: huge pages, memory tags, perturbation, hooks, fork.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from concmem.errors import BadArgument, BadArgumentType, ObjectHandedOutTwice
from concmem.units import PAGE_SIZE
from concmem.user.arena import Arenas
from concmem.user.chunk import (
    CHUNK_HDR_SZ,
    IS_MMAPPED,
    MALLOC_ALIGNMENT,
    MINSIZE,
    NON_MAIN_ARENA,
    SIZE_SZ,
    csize2tidx,
    mem2chunk,
    request2size,
)
from concmem.user.heap import Heaps
from concmem.user.int_free import IntFree
from concmem.user.int_malloc import IntMalloc
from concmem.user.int_realloc import IntRealloc
from concmem.user.malloc_fast_path import make_free, make_malloc
from concmem.user.malloc_info import Mallinfo, MallocInfo
from concmem.user.malloc_state import MallocState
from concmem.user.ptmalloc import Ptmalloc
from concmem.user.sysmalloc import SysMalloc
from concmem.user.tcache import ThreadCache
from concmem.user.thread import Thread

if TYPE_CHECKING:
    from concmem.runtime.api import Runtime
    from concmem.user.system import System

T = TypeVar("T")


class Malloc:
    """
    The allocator of one process.

    Args:
        system: the process.
        tcache: False does without thread caches.
        classes: replacements for classes of malloc (`REPLACEABLE`).
    """

    def __init__(
        self,
        rt: Runtime,
        system: System,
        tcache: bool = True,
        classes: Mapping[type, type] | None = None,
    ) -> None:
        chosen = classes or {}

        def make(cls: type[T]) -> type[T]:
            return cast(type[T], chosen.get(cls, cls))

        self.libc = libc = Ptmalloc(rt, system)
        self.params = libc.params
        self.memory = libc.memory
        self.heaps = make(Heaps)(libc)
        self.arenas = rt.watch(make(Arenas)(libc, self.heaps, make(MallocState)))
        self._sys_malloc = make(SysMalloc)(libc, self.heaps)
        self.int_free = make(IntFree)(libc, self._sys_malloc)
        self._sys_malloc.int_free = self.int_free
        self._int_malloc = make(IntMalloc)(libc, self._sys_malloc, self.int_free)
        self._int_realloc = make(IntRealloc)(libc, self._int_malloc, self.int_free)
        self.tcache = make(ThreadCache)(self, tcache)
        self._info = make(MallocInfo)(libc, self.arenas)
        self.malloc = make_malloc(self, libc)
        self.free = make_free(self, libc)
        self.mallopt = libc.params.mallopt

    # -- threads

    def thread(self) -> Thread:
        """This CPU's thread, started if it is new (``ptmalloc_init``, ``tcache_init``). May sleep."""
        thread = self.libc.threads.this()
        if thread.cpu < 0:
            thread.start(self.libc.rt.smp_processor_id(), self.libc.system.words())
        # No lock: stored once, under the mutex of the arena that it makes usable.
        if not self.arenas.main_arena.address:
            with self.arenas.list_lock:
                if not self.arenas.main_arena.address:
                    self.arenas.ptmalloc_init()
        if not thread.tcache_mem:
            self.tcache.tcache_init(thread)
        return thread

    def thread_exit(self) -> None:
        """The thread on this CPU ends: its tcache and its arena are given back. May sleep."""
        thread = self.libc.threads.this()
        if thread.cpu < 0:
            return
        self.tcache.tcache_thread_shutdown(thread)
        self.arenas.thread_exit(thread)
        thread.shutting_down = False
        thread.cpu = -1

    def end(self) -> None:
        """The process is no more: its threads' data is given back."""
        self.libc.rt.free_percpu(self.libc.threads, Thread(0))

    # -- malloc

    def malloc_general(self, size: int) -> int | None:
        """What the tcache does not serve at once."""
        _check_size("size", size)
        nb = request2size(size)
        if nb is None:
            return None
        thread = self.thread()
        if thread.nr_cached(csize2tidx(nb)):
            return self.tcache_get_slow(thread, size)  # a request for 0 bytes, or a page start
        return self._given(self.arena_malloc(thread, nb))

    def tcache_get_slow(self, thread: Thread, size: int) -> int:
        """From the thread's tcache, which has a chunk, whatever page it is in."""
        nb = request2size(size)
        assert nb is not None
        address = self._int_malloc.tcache_get(thread, csize2tidx(nb))
        self._given(address)
        return address

    def _given(self, address: int | None) -> int | None:
        """The program gets *address*."""
        if address is not None and not self.memory.give(address):
            raise ObjectHandedOutTwice(
                f"malloc: {address:#x} was handed out on cpu{self.libc.rt.smp_processor_id()}, "
                "but the program has it already"
            )
        return address

    def arena_malloc(self, thread: Thread, nb: int) -> int | None:
        """A chunk of *nb* bytes from the thread's arena, or from another if that has no memory."""

        def allocate(arena: MallocState | None, nb: int) -> int | None:
            if arena is None:  # a mapping of its own is the last resort
                return self._sys_malloc.sysmalloc(nb, None)
            return self._int_malloc.int_malloc(arena, nb)

        return self._in_arena(thread, nb, allocate)

    def _in_arena(self, thread: Thread, nb: int, allocate: Any) -> int | None:
        arena = self._arena_get(thread, nb)
        if arena is None:
            alone: int | None = allocate(None, nb)
            return alone
        try:
            address: int | None = allocate(arena, nb)
            if address is None:
                full, arena = arena, None  # which `arena_get_retry` unlocks
                arena = self.arenas.arena_get_retry(full, thread, nb)
                if arena is not None:
                    address = allocate(arena, nb)
        finally:
            if arena is not None:
                arena.mutex.release()
        return address

    def _arena_get(self, thread: Thread, nb: int) -> MallocState | None:
        if not self.arenas.main_arena.address:
            return None  # no memory for the first page
        return self.arenas.arena_get(thread, nb)

    def calloc(self, n: int, size: int) -> int | None:
        """*n* times *size* bytes of zeros. Never from the tcache, as in glibc. May sleep."""
        _check_size("n", n)
        _check_size("size", size)
        nb = request2size(n * size)
        if nb is None:
            return None
        address = self._given(self.arena_malloc(self.thread(), nb))
        # A mapping of its own is new, and so zero.
        if address is not None and not self._header(address) & IS_MMAPPED:
            self.memory.clear(address, self.libc.chunksize(mem2chunk(address)) - SIZE_SZ)
        return address

    def memalign(self, alignment: int, size: int) -> int | None:
        """*size* bytes at a multiple of *alignment*, which is rounded up to a power of two."""
        _check_size("alignment", alignment)
        _check_size("size", size)
        if alignment <= MALLOC_ALIGNMENT:
            return self.malloc(size)
        if alignment > 1 << 63:
            return None
        alignment = max(MINSIZE, 1 << (alignment - 1).bit_length())
        nb = request2size(size)
        if nb is None or request2size(size + alignment + MINSIZE) is None:
            return None

        def allocate(arena: MallocState | None, nb: int) -> int | None:
            if arena is None:
                padded = self._sys_malloc.sysmalloc(nb + alignment + MINSIZE, None)
            else:
                padded = self._int_malloc.int_malloc(arena, nb + alignment + MINSIZE)
            return padded and self._int_realloc.align_chunk(arena, padded, alignment, nb)

        thread = self.thread()
        if not self.arenas.main_arena.address:
            return None
        return self._given(self._in_arena(thread, nb, allocate))

    def aligned_alloc(self, alignment: int, size: int) -> int | None:
        """The same, by the name that C11 has for it; *alignment* must be a power of two."""
        _check_size("alignment", alignment)
        if alignment & (alignment - 1) or not alignment:
            raise BadArgument(f"alignment: must be a power of two, got {alignment}")
        return self.memalign(alignment, size)

    # -- free

    def free_general(self, address: int | None) -> None:
        """What does not simply go to a bin of the tcache."""
        if address is None or _check_address(address) == 0:
            return
        thread = self.thread()
        thread.freeing = address  # before it is nobody's, so that it is not lost meanwhile
        try:
            if not self.memory.take(address):
                raise self.bad_free(thread, address)
            self.free_chunk(address)
        finally:
            thread.freeing = 0

    def free_chunk(self, address: int) -> None:
        """Free what is nobody's now."""
        chunk = mem2chunk(address)
        header = self.libc.load(chunk + 8)
        if header & IS_MMAPPED:
            self._check_mmapped(chunk)
            self.params.set_dynamic_threshold(self.libc.chunksize(chunk))
            self._sys_malloc.munmap_chunk(chunk)
        else:
            self.int_free.int_free(self._arena_for_chunk(chunk, header), chunk)

    def _arena_for_chunk(self, chunk: int, header: int) -> MallocState:
        if not header & NON_MAIN_ARENA:
            return self.arenas.main_arena
        heap = self.heaps.heap_for_ptr(chunk)
        if heap is None or heap.ar_ptr is None:
            raise self.libc.corrupt("free(): chunk of no heap", chunk + CHUNK_HDR_SZ)
        return heap.ar_ptr

    def _check_mmapped(self, chunk: int) -> None:
        """``munmap_chunk``: the mapping is whole pages, and the memory at a power of two in it."""
        libc, address = self.libc, chunk + CHUNK_HDR_SZ
        lead = libc.load(chunk)
        total, offset = lead + libc.chunksize(chunk), address % PAGE_SIZE
        if (chunk - lead | total) % PAGE_SIZE or offset & (offset - 1):
            raise libc.corrupt("munmap_chunk(): invalid pointer", address)

    def bad_free(self, thread: Thread, address: int) -> Exception:
        """
        The error for freeing what the program has not got, as glibc would word it.

        It goes through the checks of `int_free` in their order, and changes nothing.
        """
        libc, chunk, check = self.libc, mem2chunk(address), self.int_free
        if chunk & 15:
            return libc.corrupt("free(): invalid pointer", address)
        header = libc.load(chunk + 8)
        if header & IS_MMAPPED:
            self._check_mmapped(chunk)
            return libc.corrupt("munmap_chunk(): invalid pointer", address)
        arena = self._arena_for_chunk(chunk, header)
        size = check.check_size(chunk)
        index = csize2tidx(size)
        check.check_tcache(thread, chunk, index)
        if size <= self.params.max_fast.value:
            check.check_next_fast(arena, chunk, size, locked=False)
            check.check_fasttop(chunk, arena.fastbins[size // 16 - 2].value)
        else:
            with arena.mutex:
                check.check_normal(arena, chunk, size)
        return libc.corrupt("free(): not allocated, though glibc would not notice", address)

    # -- realloc

    def realloc(self, address: int | None, size: int) -> int | None:
        """
        *size* bytes with the contents of *address*; ``None``, and nothing is changed, without memory.

        ``realloc(None, size)`` allocates, ``realloc(address, 0)`` frees and returns ``None``. May sleep.
        """
        _check_size("size", size)
        if address is None or _check_address(address) == 0:
            return self.malloc(size)
        if size == 0:
            self.free(address)
            return None
        thread = self.thread()
        if not self.memory.is_live(address):
            raise self.libc.corrupt("realloc(): invalid pointer", address)
        nb = request2size(size)
        if nb is None:
            return None
        if self._resize_in_place(address, nb):
            return address
        new = self._given(self.arena_malloc(thread, nb))
        if new is not None:
            self.memory.copy(new, address, min(size, self.malloc_usable_size(address)))
            self.free(address)
        return new

    def _resize_in_place(self, address: int, nb: int) -> bool:
        chunk = mem2chunk(address)
        old_size = self._int_realloc.check_realloc(chunk)
        header = self.libc.load(chunk + 8)
        if header & IS_MMAPPED:
            # A mapping needs 8 bytes more than a chunk, whose last 8 are in the next one.
            return old_size - SIZE_SZ >= nb
        arena = self._arena_for_chunk(chunk, header)
        with arena.mutex:
            return self._int_realloc.int_realloc(arena, chunk, old_size, nb)

    # -- the rest

    def _header(self, address: int) -> int:
        return self.libc.load(mem2chunk(address) + 8)

    def malloc_usable_size(self, address: int | None) -> int:
        """Bytes that the program may use at *address*: what it asked for, or more."""
        if address is None or _check_address(address) == 0:
            return 0
        self.thread()
        if not self.memory.is_live(address):
            raise self.libc.corrupt("malloc_usable_size(): invalid pointer", address)
        header = self._header(address)
        return (header & ~7) - (CHUNK_HDR_SZ if header & IS_MMAPPED else SIZE_SZ)

    def malloc_trim(self, pad: int = 0) -> bool:
        """
        Give free memory back, and leave *pad* bytes of top; whether there was any. May sleep.

        Only the break: the free pages inside heaps are not given back.
        """
        _check_size("pad", pad)
        self.thread()
        result = False
        for arena in self.arenas.ring():
            if arena.address:
                with arena.mutex:
                    self.int_free.malloc_consolidate(arena)
                    if arena.is_main:
                        result = self._sys_malloc.systrim(pad, arena) or result
        return result

    def mallinfo(self) -> Mallinfo:
        """``mallinfo2``: sums over all arenas, each locked in turn. May sleep."""
        self.thread()
        return self._info.mallinfo()


REPLACEABLE: Final = (
    Arenas,
    Heaps,
    IntFree,
    IntMalloc,
    IntRealloc,
    MallocInfo,
    MallocState,
    SysMalloc,
    ThreadCache,
)
"""Classes that ``classes=`` may replace by a subclass."""


def _check_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if value < 0:
        raise BadArgument(f"{name}: must not be negative, got {value}")


def _check_address(address: object) -> int:
    if isinstance(address, bool) or not isinstance(address, int):
        raise BadArgumentType(f"address: expected an address, got {address!r}")
    if not 0 <= address < 1 << 64:
        raise BadArgument(f"address: {address:#x} is no address of 64 bits")
    return address
