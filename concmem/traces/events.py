"""What a kernel's page allocator and slab allocator reported: typed ``kmem`` events."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from concmem.mm.gfp import GfpFlags


class PageAlloc(NamedTuple):
    """``mm_page_alloc``: a CPU asked for ``2**order`` pages."""

    cpu: int
    pfn: int | None
    """First page frame; ``None`` when the kernel had no memory for it."""
    order: int
    migratetype: int
    gfp: GfpFlags
    line: int


class PageFree(NamedTuple):
    """``mm_page_free`` or ``mm_page_free_batched``: a CPU gave pages back."""

    cpu: int
    pfn: int
    order: int
    """For a batched free always 0, whatever the size of the page."""
    line: int
    batched: bool
    """Reported by ``mm_page_free_batched``: as a rule the second report of one free."""


class SlabAlloc(NamedTuple):
    """``kmalloc`` or ``kmem_cache_alloc``: a CPU asked for an object."""

    cpu: int
    ptr: int | None
    """Address or its hash, 0 if the allocation failed, ``None`` if the trace hides addresses."""
    cache: str
    """Name of the cache; empty for kmalloc and in traces of older kernels."""
    bytes_req: int
    bytes_alloc: int
    gfp: GfpFlags
    node: int
    """-1: any node."""
    call_site: str
    line: int
    event: str


class SlabFree(NamedTuple):
    """``kfree`` or ``kmem_cache_free``: a CPU gave an object back."""

    cpu: int
    ptr: int | None
    """Address or its hash, 0 for NULL, ``None`` if the trace hides addresses."""
    cache: str
    call_site: str
    line: int
    event: str


class Informational(NamedTuple):
    """
    A ``kmem`` event that reports no request: a refill, a drain, a fallback, a counter.

    The pages of a refill (``mm_page_alloc_zone_locked``) are reported again, by ``mm_page_alloc``,
    when somebody gets them.
    """

    cpu: int
    line: int
    event: str


KmemEvent: TypeAlias = PageAlloc | PageFree | SlabAlloc | SlabFree | Informational
