"""Making memory pools on top of the allocators (``mempool_create_slab_pool`` and relatives)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.mempool import AllocFn, FreeFn, Mempool

if TYPE_CHECKING:
    from concmem.mm.kmalloc import Kmalloc
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime


class Mempools:
    """What makes the memory pools of a machine."""

    def __init__(
        self,
        rt: Runtime,
        events: VmEvents,
        kmalloc: Kmalloc,
        page_alloc: PageAllocator,
        pool_class: type[Mempool],
    ) -> None:
        self._rt = rt
        self._events = events
        self._kmalloc = kmalloc
        self._page_alloc = page_alloc
        self._pool_class = pool_class

    def create(
        self,
        min_nr: int,
        cache_or_alloc: KmemCache | Callable[..., Any],
        free: Callable[..., None] | None = None,
        pool_data: object = None,
        allocator_first: bool = False,
    ) -> Mempool:
        """
        A pool of at least *min_nr* elements (``mempool_create``). On a CPU; may sleep.

        Args:
            min_nr: elements kept in reserve; 0 for a pool that only has its users wait for each other.
            cache_or_alloc: a cache, whose objects are the elements; or a function that allocates one,
                ``alloc(gfp)``, or with *pool_data* ``alloc(gfp, pool_data)``.
            free: the function that frees one, ``free(element)``, or ``free(element, pool_data)``.
            pool_data: handed to both functions, if it is not ``None``.
            allocator_first: ask the allocator before the reserve, as Linux does.

        Returns:
            The pool. When memory is short it has fewer elements than *min_nr*: see ``pool.curr_nr``.

        Raises:
            BadArgument: something cannot be.
        """
        if isinstance(cache_or_alloc, KmemCache):
            if free is not None:
                raise BadArgument("free: the objects of a cache are freed to it; leave this out")
            cache = cache_or_alloc
            return self._make(min_nr, cache.alloc, cache.free, cache, allocator_first)
        if not callable(cache_or_alloc):
            raise BadArgumentType(
                f"cache_or_alloc: expected a cache or a function, got {cache_or_alloc!r}"
            )
        if not callable(free):
            raise BadArgumentType(f"free: expected a function, got {free!r}")
        alloc_fn, free_fn = cache_or_alloc, free
        if pool_data is not None:
            return self._make(
                min_nr,
                lambda gfp: alloc_fn(gfp, pool_data),
                lambda element: free_fn(element, pool_data),
                pool_data,
                allocator_first,
            )
        return self._make(min_nr, alloc_fn, free_fn, None, allocator_first)

    def create_kmalloc_pool(self, min_nr: int, size: int, allocator_first: bool = False) -> Mempool:
        """A pool of *size* bytes of `kmalloc` each (``mempool_create_kmalloc_pool``)."""
        kmalloc = self._kmalloc
        return self._make(
            min_nr, lambda gfp: kmalloc.kmalloc(size, gfp), kmalloc.kfree, size, allocator_first
        )

    def create_page_pool(self, min_nr: int, order: int, allocator_first: bool = False) -> Mempool:
        """A pool of blocks of ``2**order`` pages (``mempool_create_page_pool``)."""
        page_alloc = self._page_alloc
        return self._make(
            min_nr,
            lambda gfp: page_alloc.alloc_pages(order, gfp),
            lambda page: page_alloc.free_pages(page, order),
            order,
            allocator_first,
        )

    def _make(
        self,
        min_nr: int,
        alloc_fn: AllocFn,
        free_fn: FreeFn,
        pool_data: object,
        allocator_first: bool,
    ) -> Mempool:
        rt = self._rt
        rt.smp_processor_id()  # elements are allocated here: only on a CPU
        return rt.watch(
            self._pool_class(
                rt, self._events, min_nr, alloc_fn, free_fn, pool_data, allocator_first
            )
        )
