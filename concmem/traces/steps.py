"""
What a CPU of a replay does, one step after the other, and why an event gives no step.

Steps of pages name a *slot* (`Plan.nr_slots`), steps of slab objects an *object*
(`Plan.nr_objects`): the number of the allocation in the plan, from 0 in file order.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from concmem.mm.gfp import GfpFlags
from concmem.units import MAX_PAGE_ORDER

INFORMATIONAL: Final = "informational"
FAILED: Final = "allocation failed in the traced kernel"
BEFORE_TRACE: Final = "freed, allocated before the trace"
FREED_AGAIN: Final = "freed again, its allocation is not in the trace"

BATCHED_TWICE: Final = "batched: same free reported twice"
TOO_LARGE: Final = f"order above {MAX_PAGE_ORDER}"

NULL: Final = "free of NULL"
HIDDEN: Final = "the trace hides the address"
UNUSUAL_SIZE: Final = "object of 0 bytes, or of 2 MiB and more"
NOT_REPLAYED: Final = "freed, its allocation is not replayed"

KMALLOC: Final = -1
"""In place of a cache: what kmalloc allocates, and what kfree frees."""


class PageAllocStep(NamedTuple):
    """Allocate ``2**order`` pages and keep them as *slot*."""

    slot: int
    order: int
    gfp: GfpFlags
    migratetype: int
    """What the traced kernel used; follows from *gfp*."""
    line: int


class PageFreeStep(NamedTuple):
    """
    Free a slot, or a part of it: ``2**order`` pages that start *offset* pages into the block.

    A slot in `Plan.split_slots` is freed in parts, perhaps by several CPUs: split it where it is
    allocated, before any other CPU may see it.
    """

    slot: int
    offset: int
    """Pages from the first page of the slot; a multiple of ``2**order``."""
    order: int
    line: int
    alloc_cpu: int
    cross_cpu: bool
    """Another CPU frees than allocated."""
    implied: bool
    """The trace has no free of exactly these pages; it follows from the event of *line*."""


class Part(NamedTuple):
    """Pages of a slot that no step frees."""

    slot: int
    offset: int
    order: int


class KmallocStep(NamedTuple):
    """``kmalloc``: allocate *size* bytes and keep the address as *obj*."""

    obj: int
    size: int
    gfp: GfpFlags
    node: int
    """-1: any node."""
    traced_size: int
    """Bytes that the traced kernel set aside for it."""
    line: int


class CacheAllocStep(NamedTuple):
    """``kmem_cache_alloc``: take an object of `Plan.caches` [*cache*] and keep it as *obj*."""

    obj: int
    cache: int
    gfp: GfpFlags
    node: int
    """-1: any node."""
    line: int


class ObjectFreeStep(NamedTuple):
    """``kmem_cache_free``, or ``kfree`` if *cache* is `KMALLOC`, whatever allocated *obj*."""

    obj: int
    cache: int
    line: int
    alloc_cpu: int
    cross_cpu: bool
    """Another CPU frees than allocated."""
    implied: bool
    """The trace has no free of the object; it follows from the event of *line*."""


Step: TypeAlias = PageAllocStep | PageFreeStep | KmallocStep | CacheAllocStep | ObjectFreeStep
