"""
What the tcache serves: one chunk from, or to, a bin of the calling thread. No lock.

Written out and bound for each process, as closures: a call here would cost more than the work (compare
`concmem.mm.slub_fast_path`). Everything starts from this CPU's own `Thread`; what is shared is the page's
table of owners, and the bytes, both found by `Thread.spots`. An address that is not in there yet takes the
long way once.

There is no point between two steps that another thread could disturb: bins are the thread's own, and a
chunk in them, or on its way, is nobody else's. A signal handler must not call malloc; interrupts of the
kernel do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from concmem.user.malloc import Malloc
    from concmem.user.ptmalloc import Ptmalloc


class AllocateMemory(Protocol):
    """The type of ``malloc``."""

    def __call__(self, size: int, /) -> int | None: ...


class FreeMemory(Protocol):
    """The type of ``free``."""

    def __call__(self, address: int | None, /) -> None: ...


def make_malloc(malloc_object: Malloc, libc: Ptmalloc) -> AllocateMemory:
    """``malloc`` of one process."""
    area, cond_resched, offset = libc.rt.area, libc.rt.cond_resched, libc.threads.offset
    malloc_general = malloc_object.malloc_general
    tcache_get_slow = malloc_object.tcache_get_slow

    def malloc(size: int, /) -> int | None:
        """
        Allocate *size* bytes. On a CPU; may sleep.

        Returns:
            An address, a multiple of 16, or ``None`` when there is no memory. 0 bytes are allocated, too.

        Raises:
            HeapCorruption: the program has damaged its heap.
            OutOfMemory: a page fault of malloc's own found no memory. A kernel would kill the process:
                do not use its malloc any more.
        """
        here = area()
        if here[0]:
            cond_resched()
        if size.__class__ is not int or size < 0:
            return malloc_general(size)
        thread = here[offset]
        address = -1
        try:
            stack = thread.by_size[size]
            address = stack.pop()
            index, page, owners = thread.spots[address]
        except (LookupError, TypeError):
            if address >= 0:
                stack.append(address)
            return tcache_get_slow(thread, size) if address > 0 else malloc_general(size)
        words = thread.words
        # The pointer in the chunk must be what it was (safe-linking); and nobody may have the chunk: one
        # step, by identity, as `link` is an object of its own.
        link = page ^ stack[-1]
        if words[index] != link or owners.setdefault(address, link) is not link:
            stack.append(address)
            return tcache_get_slow(thread, size)
        words[index + 1] = 0
        return address  # type: ignore[no-any-return]  # areas hold anything

    return malloc


def make_free(malloc_object: Malloc, libc: Ptmalloc) -> FreeMemory:
    """``free`` of one process."""
    area, offset = libc.rt.area, libc.threads.offset
    free_general = malloc_object.free_general

    def free(address: int | None, /) -> None:
        """
        Free what any of the allocation functions gave; 0 and ``None`` are nothing. On a CPU; may sleep.

        Raises:
            HeapCorruption: the address is not allocated, or the heap is damaged: as glibc would word it.
        """
        thread = area()[offset]
        if address.__class__ is not int:  # a float may equal an address
            free_general(address)
            return
        try:
            index, page, owners = thread.spots[address]  # None is in none
            words = thread.words
            stack = thread.by_header[words[index - 1]]
            if len(stack) > 7:
                free_general(address)
                return
            # In one step: is it the program's, and now nobody's?
            del owners[address]
        except (LookupError, TypeError):
            free_general(address)
            return
        words[index] = page ^ stack[-1]
        words[index + 1] = thread.key
        stack.append(address)

    return free
