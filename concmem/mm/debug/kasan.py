"""
Checked mode: every use of memory by its users is looked up, and what is wrong is found where it is done.

As with KASAN: objects and pages that are free, and what lies between objects, may not be used; freed objects
are kept in :mod:`~concmem.mm.debug.quarantine` for a while. Who allocated and who freed an object is kept beside
memory, not in it.

The shadow of an object changes when nobody else has it: after the allocator has handed it out, before
it gets it back. No lock.

Follows ``mm/kasan/common.c`` and ``generic.c`` of Linux 6.12. Objects of SLAB_TYPESAFE_BY_RCU caches may be used
after they were freed, so they are not watched for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from concmem.errors import InvalidAccess, KernelBug
from concmem.mm.debug.kasan_bulk import KasanBulk
from concmem.mm.debug.kasan_report import KasanReporter
from concmem.mm.debug.quarantine import Quarantine, Quarantined
from concmem.mm.debug.report import Track
from concmem.mm.debug.shadow import (
    GRANULE,
    PAGE_FREE,
    PAGE_REDZONE,
    SLAB_FREE,
    SLAB_REDZONE,
    Shadow,
)
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmem_cache import Functions
from concmem.mm.memory import pfn_to_virt
from concmem.mm.slab_flags import SLAB_TYPESAFE_BY_RCU
from concmem.mm.slab_geometry import align_up
from concmem.mm.slub import describe_bad_free
from concmem.units import PAGE_SHIFT, PAGE_SIZE, VMALLOC_START

if TYPE_CHECKING:
    from concmem.mm.debug.page_report import PageReporter
    from concmem.mm.debug.report import DebugReports
    from concmem.mm.debug.stack_depot import StackDepot
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.mem_map import MemMap
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.mm.slub_fast_path import Free
    from concmem.runtime.api import Runtime

_SKIP: Final = 2
"""Frames between whoever called the cache's `alloc` or `free` and the look at the stack."""


class Kasan:
    """
    Of one machine.

    Args:
        raises: whether a wrong access raises `InvalidAccess`, besides its report.
    """

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        mem_map: MemMap,
        depot: StackDepot,
        reports: DebugReports,
        page_reporter: PageReporter,
        raises: bool,
    ) -> None:
        self._rt = rt
        self.slabs = mem_map.slabs
        self._depot = depot
        self._raises = raises
        self.shadow = Shadow(memory.size)
        self.quarantine = Quarantine(rt, memory.size)
        self._allocated: dict[int, Track] = {}
        self._freed: dict[int, Track] = {}
        self._reporter = KasanReporter(
            rt, mem_map, self.shadow, reports, page_reporter, self.tracks
        )

    # -- accesses

    def check(self, address: int, nr_bytes: int, is_write: bool) -> None:
        """
        Report an access if it is wrong.

        Raises:
            InvalidAccess: it is, and this machine raises that.
        """
        bad = self.shadow.first_bad(address, nr_bytes)
        if bad is None:
            return
        text = self._reporter.report_access(address, nr_bytes, is_write, bad, self._raises)
        if self._raises:
            raise InvalidAccess(text)

    def tracks(self, address: int) -> tuple[Track | None, Track | None]:
        """Who allocated, and who freed, the object at *address* last."""
        return self._allocated.get(address), self._freed.get(address)

    # -- pages

    def unpoison_pages(self, page: Page, order: int) -> None:
        """They are somebody's."""
        self.shadow.unpoison(pfn_to_virt(page.pfn), PAGE_SIZE << order)

    def poison_pages(self, page: Page, order: int) -> None:
        """They are free."""
        self.shadow.poison(pfn_to_virt(page.pfn), PAGE_SIZE << order, PAGE_FREE)

    def kmalloc_large(self, address: int, size: int, order: int) -> None:
        """Of whole pages only *size* bytes were asked for."""
        rest = align_up(size, GRANULE)
        self.shadow.poison(address + rest, (PAGE_SIZE << order) - rest, PAGE_REDZONE)
        self.shadow.unpoison(address, size)

    def krealloc(self, address: int, new_size: int, old_size: int) -> None:
        """Of *old_size* bytes that there are, *new_size* are asked for now."""
        if address >= VMALLOC_START:
            return
        rest = align_up(new_size, GRANULE)
        self.shadow.poison(address + rest, max(0, old_size - rest), SLAB_REDZONE)
        self.shadow.unpoison(address, new_size)

    # -- slabs

    def poison_slab(self, base: int, order: int) -> None:
        """Nobody has any object of a new slab."""
        self.shadow.poison(base, PAGE_SIZE << order, SLAB_REDZONE)

    def unpoison(self, address: int, nr_bytes: int) -> None:
        """For a constructor."""
        self.shadow.unpoison(address, nr_bytes)

    def poison_object(self, address: int, nr_bytes: int) -> None:
        """It is done."""
        self.shadow.poison(address, nr_bytes, SLAB_REDZONE)

    def watch(self, s: KmemCache, functions: Functions) -> Functions:
        """*functions* of *s*, so that all its objects are watched."""
        alloc: Any = functions.alloc
        free = functions.free
        sized = s.layout is not None
        slab_alloc, slab_free = self.slab_alloc, self.slab_free

        def kasan_alloc(
            gfp: int = GFP_KERNEL, node: int | None = None, *orig_size: int
        ) -> int | None:
            """As ``cache.alloc`` of any cache."""
            address: int | None = alloc(gfp, node, *orig_size) if sized else alloc(gfp, node)
            if address is not None:
                slab_alloc(s, address, *orig_size)
            return address

        def kasan_free(address: int) -> None:
            """As ``cache.free`` of any cache; the object is not used again at once."""
            slab_free(s, address, free)

        return Functions(kasan_alloc, kasan_free, KasanBulk(functions.bulk, self, free))

    def slab_alloc(self, s: KmemCache, address: int, size: int | None = None) -> None:
        """The object is somebody's, who may use *size* bytes."""
        if size is None:
            size = s.object_size
        start = align_up(size, GRANULE)
        if start < s.object_size:
            self.shadow.poison(address + start, s.object_size - start, SLAB_REDZONE)
        self.shadow.unpoison(address, size)
        self._allocated[address] = self._track()
        self._freed.pop(address, None)

    def slab_free(self, s: KmemCache, address: int, free: Free) -> None:
        """
        The object is nobody's any more (``__kasan_slab_free``). On a CPU.

        Args:
            free: gives it back to the allocator, as its owner would.

        Raises:
            BadFree, DoubleFree: it was not.
        """
        if s.flags & SLAB_TYPESAFE_BY_RCU or address.__class__ is not int or not s.refcount:
            free(address)
            return
        slab = self.slabs.get(address >> PAGE_SHIFT)
        self._rt.smp_processor_id()  # on no CPU: NotACpu, before anything is changed
        # One step, so of two CPUs that free the same object one finds nothing.
        index = (
            slab.owners.pop(address, None) if slab is not None and slab.slab_cache is s else None
        )
        if slab is None or index is None:
            raise self.bad_free(s, slab, address)
        self.shadow.poison(address, s.object_size, SLAB_FREE)
        self._freed[address] = self._track()
        self.quarantine.put(Quarantined(s, slab, address, index, free))

    def bad_free(self, s: KmemCache, slab: Page | None, address: int) -> KernelBug:
        """Report that nobody has the object at *address*; what to raise."""
        error = describe_bad_free(self._rt, s, slab, address)
        self._reporter.report_free(address, error)
        return error

    def _track(self) -> Track:
        cpu = self._rt.smp_processor_id()
        handle = self._depot.save(_SKIP)
        return Track(self._depot.fetch(handle), cpu, cpu, self._rt.jiffies)
