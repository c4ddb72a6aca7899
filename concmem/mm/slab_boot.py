"""Putting the slab allocator together (``kmem_cache_init``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from concmem.mm.debug.slab_debugging import SlabDebugging
from concmem.mm.debug.slub_check import SlubCheck
from concmem.mm.debug.slub_debug import SlubDebug
from concmem.mm.debug.slub_debug_alloc import SlubDebugAlloc
from concmem.mm.debug.slub_debug_free import SlubDebugFree
from concmem.mm.debug.slub_report import SlubReporter
from concmem.mm.debug.slub_track import SlubTracks
from concmem.mm.debug.slub_validate import SlubValidate
from concmem.mm.kmem_cache import FreelistOptions, KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_page import SlabPages
from concmem.mm.slub import Slub
from concmem.mm.slub_alloc import SlubAlloc
from concmem.mm.slub_bulk import SlubBulk
from concmem.mm.slub_cpu import CpuSlabs
from concmem.mm.slub_free import SlubFree

if TYPE_CHECKING:
    from concmem.mm.debug.debugging import Debugging
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
    SlabPages,
    Slub,
    SlubAlloc,
    SlubBulk,
    SlubCheck,
    SlubDebugAlloc,
    SlubDebugFree,
    SlubFree,
    SlubValidate,
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
    debug: Debugging,
) -> SlabCommon:
    """The slab allocator, without a cache."""
    memory, nodes = page_alloc.memory, page_alloc.nodes
    words = rt.percpu(lambda: rt.watch_words(memory.words(), "freelist pointers"), "slab words")
    reporter = SlubReporter(rt, memory, SlubTracks(rt, memory, debug.depot), debug.reports)
    check = make(SlubCheck)(rt, memory, reporter)
    pages = make(SlabPages)(rt, page_alloc, rcu, check, debug.kasan)
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
    slub_debug = SlubDebug(
        slub,
        make(SlubDebugAlloc)(rt, nodes, pages, cpu_slabs, check),
        make(SlubDebugFree)(rt, pages, cpu_slabs, check),
        check,
    )
    return make(SlabCommon)(
        rt,
        slub,
        pages,
        cpu_slabs,
        make(SlubBulk)(slub),
        SlabDebugging(
            debug.slab_debug,
            slub_debug,
            check,
            make(SlubValidate)(check),
            debug.kasan,
            debug.failslab,
        ),
        rcu,
        len(nodes),
        merge,
        freelist,
        (make(KmemCache), make(KmemCacheCpu), make(KmemCacheNode)),
    )
