"""
Beginning and end of a thread's cache. What is in it, is in `Thread`; who uses it, in `malloc_fast_path`.

Follows ``tcache_init`` and ``tcache_thread_shutdown`` of glibc 2.36.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.user.chunk import request2size

if TYPE_CHECKING:
    from concmem.user.malloc import Malloc
    from concmem.user.thread import Thread

TCACHE_STRUCT_SIZE: Final = 640
"""``sizeof (tcache_perthread_struct)``. It is allocated, so that addresses are as in C; see `Thread.stacks`."""


class ThreadCache:
    """Beginning and end of a thread's tcache."""

    def __init__(self, malloc: Malloc, enabled: bool) -> None:
        self._malloc = malloc
        self._enabled = enabled

    def tcache_init(self, thread: Thread) -> None:
        """The thread gets a tcache, unless it is ending or there is no memory."""
        if thread.shutting_down or not self._enabled:
            return
        nb = request2size(TCACHE_STRUCT_SIZE)
        assert nb is not None
        address = self._malloc.arena_malloc(thread, nb)
        if address is not None:
            thread.connect(address)

    def tcache_thread_shutdown(self, thread: Thread) -> None:
        """
        Every chunk goes back to its arena.

        `shutting_down` is set first. Before glibc 2.27 (bug 22111) it was set last, and freeing the chunks
        made a new tcache, which was lost with what was in it.
        """
        thread.shutting_down = True
        self._free_all(thread)

    def _free_all(self, thread: Thread) -> None:
        if not thread.tcache_mem:
            return
        thread.leaving = [*thread.stacks, [0, thread.tcache_mem]]
        thread.disconnect()
        for stack in thread.leaving:
            while stack[-1]:
                thread.freeing = stack.pop()
                self._malloc.thread()  # as `free` does; it must not make a new tcache
                self._malloc.free_chunk(thread.freeing)
        thread.freeing = 0
        thread.leaving = []
