"""Do the ring of arenas, their free list and the threads agree?"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from concmem.errors import HeapError

if TYPE_CHECKING:
    from concmem.user.malloc import Malloc
    from concmem.user.malloc_state import MallocState


def validate_arena_lists(malloc: Malloc) -> None:
    """
    An arena is in the ring once, and on the free list exactly while no thread uses it.

    Called with every CPU parked between two operations, or asleep in one.

    Raises:
        HeapError: which arena is where it should not be.
    """
    arenas = malloc.arenas
    ring = list(arenas.ring())
    if len({id(arena) for arena in ring}) != len(ring) or len(ring) > arenas.narenas.value:
        raise HeapError(f"the ring has {len(ring)} arenas, but narenas is {arenas.narenas.value}")
    threads = Counter(
        thread.arena.number for thread in malloc.libc.threads.all() if thread.arena is not None
    )
    free = _free_list(malloc)
    for arena in ring:
        number, attached = arena.number, arena.attached_threads
        if attached != threads[number]:
            raise HeapError(
                f"arena {number}: {attached} attached threads, but {threads[number]} use it"
            )
        is_free = number in free
        if is_free and attached:
            raise HeapError(
                f"arena {number}: is on the free list, with {attached} threads attached"
            )
        if not is_free and not attached and not _is_unused(malloc, arena):
            raise HeapError(f"arena {number}: no thread uses it, and it is not on the free list")


def _free_list(malloc: Malloc) -> set[int]:
    """Numbers of the arenas on the free list."""
    found: set[int] = set()
    arena = malloc.arenas.free_list
    while arena is not None:
        if arena.number in found:
            raise HeapError(f"arena {arena.number}: is on the free list twice")
        found.add(arena.number)
        arena = arena.next_free
    return found


def _is_unused(malloc: Malloc, arena: MallocState) -> bool:
    """
    Whether the arena may be on no list.

    The main arena is on none until the first thread comes; and a thread that changes its arena, since the
    one it had is out of memory, does not put that on the list.
    """
    return arena.is_main or arena.abandoned
