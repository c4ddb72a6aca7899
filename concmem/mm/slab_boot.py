"""Putting the slab allocator together (``kmem_cache_init``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from concmem.mm.kmem_cache import FreelistOptions, KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_obj_ext import SlabObjExts
from concmem.mm.slab_page import SlabPages
from concmem.mm.slab_sysfs import SlabSysfs
from concmem.mm.slub import Slub
from concmem.mm.slub_alloc import SlubAlloc
from concmem.mm.slub_bulk import SlubBulk
from concmem.mm.slub_cpu import CpuSlabs
from concmem.mm.slub_free import SlubFree

if TYPE_CHECKING:
    from concmem.mm.log import KernelLog
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.rcu import Rcu
    from concmem.runtime.api import Runtime

T = TypeVar("T")

REPLACEABLE = (
    CpuSlabs,
    KmemCache,
    KmemCacheCpu,
    KmemCacheNode,
    SlabCommon,
    SlabObjExts,
    SlabPages,
    SlabSysfs,
    Slub,
    SlubAlloc,
    SlubBulk,
    SlubFree,
)
"""Classes of the slab allocator that a machine may replace by a subclass."""


class Make(Protocol):
    """Which class to use for one: itself, or its replacement."""

    def __call__(self, cls: type[T], /) -> type[T]: ...


def kmem_cache_init(
    rt: Runtime,
    page_alloc: PageAllocator,
    rcu: Rcu,
    log: KernelLog,
    make: Make,
    merge: bool,
    freelist: FreelistOptions,
) -> SlabCommon:
    """The slab allocator, without a cache."""
    memory, nodes = page_alloc.memory, page_alloc.nodes
    words = rt.percpu(lambda: rt.watch_words(memory.words(), "freelist pointers"), "slab words")
    pages = make(SlabPages)(
        rt, page_alloc, rcu, make(SlabObjExts)(memory, page_alloc.mem_map.slabs)
    )
    cpu_slabs = make(CpuSlabs)(rt, pages, words.this)
    slub = make(Slub)(
        rt,
        memory,
        page_alloc.mem_map,
        nodes,
        log,
        make(SlubAlloc)(rt, nodes, pages, cpu_slabs),
        make(SlubFree)(pages, cpu_slabs),
    )
    return make(SlabCommon)(
        rt,
        slub,
        pages,
        cpu_slabs,
        make(SlubBulk)(slub),
        make(SlabSysfs)(rt),
        rcu,
        log,
        len(nodes),
        merge,
        freelist,
        (make(KmemCache), make(KmemCacheCpu), make(KmemCacheNode)),
    )
