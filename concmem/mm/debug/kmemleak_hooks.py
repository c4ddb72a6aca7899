"""
What has the allocators tell the leak detector: a subclass for each that calls it, for machines that have one.

A machine without a detector is made of the classes themselves, and pays nothing. Caches get other functions
for `alloc` and `free`, around the usual ones.

A block becomes known when it is allocated and its new owner does not know of it yet, and is forgotten before it
is freed: else somebody might be given it again, and say so, too early. Whether it is going to be freed is looked
at first, so that a free that is an error leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmalloc import Kmalloc
from concmem.mm.mempool import Mempool
from concmem.mm.slab_common import SlabCommon
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE
from concmem.mm.vm_area import is_complete
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_area import VM_ALLOC
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.kmemleak import Kmemleak
    from concmem.mm.kmem_cache import Bulk, KmemCache
    from concmem.mm.page import Page
    from concmem.mm.slub_fast_path import Alloc, Free
    from concmem.mm.vm_area import Caller
    from concmem.mm.vmap_area import VmStruct

T = TypeVar("T")


def tracked(base: type[T], cls: type[T], kmemleak: Kmemleak) -> type[T]:
    """What to make objects of *cls* with, which is *base* or takes its place: it, told to call *kmemleak*."""
    mixin = _TRACKED.get(base)
    return (
        cls if mixin is None else cast("type[T]", partial(_mixed(mixin, cast(Any, cls)), kmemleak))
    )


@cache
def _mixed(mixin: type, cls: type) -> type:
    """*mixin* for *cls*, which is the class that it is made for, or takes its place."""
    return mixin if issubclass(mixin, cls) else type(cls.__name__, (mixin, cls), {})


class TrackedSlabCommon(SlabCommon):
    """Caches whose `alloc` and `free` call the detector."""

    def __init__(self, kmemleak: Kmemleak, *args: Any) -> None:
        self._kmemleak = kmemleak
        super().__init__(*args)

    def make_parts(self, s: KmemCache) -> dict[str, Any]:
        parts = super().make_parts(s)
        if not s.flags & SLAB_NOLEAKTRACE:
            slabs = self.slub.mem_map.slabs
            parts["alloc"] = _tracked_alloc(s, parts["alloc"], self._kmemleak)
            parts["free"] = _tracked_free(s, parts["free"], self._kmemleak, slabs.get)
            parts["bulk"] = _TrackedBulk(parts["bulk"], self._kmemleak, slabs.get)
        return parts


def _tracked_alloc(s: KmemCache, alloc: Any, kmemleak: Kmemleak) -> Alloc:
    create_object = kmemleak.create_object

    def kmem_cache_alloc(
        gfp: int = GFP_KERNEL, node: int | None = None, *orig_size: int
    ) -> int | None:
        # kmalloc says how much was asked for where it is kept: in debug caches.
        address: int | None = alloc(gfp, node, *orig_size)
        if address is not None:
            create_object(address, s.object_size, 1, gfp)
        return address

    kmem_cache_alloc.__doc__ = alloc.__doc__
    return kmem_cache_alloc


def _tracked_free(
    s: KmemCache, free: Free, kmemleak: Kmemleak, slab_of: Callable[[int], Page | None]
) -> Free:
    delete_object = kmemleak.delete_object_full

    def kmem_cache_free(address: int) -> None:
        if address.__class__ is int and _is_owned(s, slab_of(address >> PAGE_SHIFT), address):
            delete_object(address)
        free(address)

    kmem_cache_free.__doc__ = free.__doc__
    return kmem_cache_free


def _is_owned(s: KmemCache, slab: Page | None, address: int) -> bool:
    """Whether there is an object of *s* at *address*, in *slab*, that somebody has."""
    return slab is not None and slab.slab_cache is s and address in slab.owners


class _TrackedBulk:
    """Many objects at once, of a cache that is looked after."""

    def __init__(
        self, bulk: Bulk, kmemleak: Kmemleak, slab_of: Callable[[int], Page | None]
    ) -> None:
        self._bulk = bulk
        self._kmemleak = kmemleak
        self._slab_of = slab_of

    def alloc_bulk(self, s: KmemCache, nr: int, gfp: int) -> list[int]:
        """See `KmemCache.alloc_bulk`."""
        addresses = self._bulk.alloc_bulk(s, nr, gfp)
        for address in addresses:
            self._kmemleak.create_object(address, s.object_size, 1, gfp)
        return addresses

    def free_bulk(self, s: KmemCache, addresses: Sequence[int]) -> None:
        """See `KmemCache.free_bulk`."""
        if self._are_owned(s, addresses):
            for address in addresses:
                self._kmemleak.delete_object_full(address)
        self._bulk.free_bulk(s, addresses)

    def _are_owned(self, s: KmemCache, addresses: Sequence[int]) -> bool:
        """Whether all are going to be freed: else none is."""
        slab_of = self._slab_of
        return (
            isinstance(addresses, Sequence)
            and all(address.__class__ is int for address in addresses)
            and len(set(addresses)) == len(addresses)
            and all(_is_owned(s, slab_of(address >> PAGE_SHIFT), address) for address in addresses)
        )


class TrackedKmalloc(Kmalloc):
    """Whole blocks of pages. What comes from caches and from vmalloc is known already."""

    def __init__(self, kmemleak: Kmemleak, *args: Any) -> None:
        self._kmemleak = kmemleak
        super().__init__(*args)

    def _kmalloc_large(self, size: int, gfp: int, node: int | None) -> int | None:
        address = super()._kmalloc_large(size, gfp, node)
        if address is not None:
            self._kmemleak.create_object(address, size, 1, gfp)
        return address

    def _free_large(self, address: int) -> None:
        page = self._slabs.get(address >> PAGE_SHIFT)
        if page is not None and address in page.owners:
            self._kmemleak.delete_object_full(address)
        super()._free_large(address)


class TrackedVmalloc(Vmalloc):
    """Areas. Their ``vm_struct`` has their address, so they need a second reference."""

    def __init__(self, kmemleak: Kmemleak, *args: Any) -> None:
        self._kmemleak = kmemleak
        super().__init__(*args)

    def vmalloc_node_range(
        self, size: int, gfp: int, node: int | None, caller: Caller
    ) -> int | None:
        address = super().vmalloc_node_range(size, gfp, node, caller)
        if address is not None:
            self._kmemleak.create_object(address, -(-size // PAGE_SIZE) * PAGE_SIZE, 2, gfp)
        return address

    def remove_vm_area(self, addr: int, kind: int) -> VmStruct | None:
        if kind == VM_ALLOC:
            va = self.space.find_vmap_area(addr)
            if va is not None and va.va_start == addr and is_complete(va, kind):
                # Before it is unmapped: this waits for a scan that reads it.
                self._kmemleak.delete_object_full(addr)
        return super().remove_vm_area(addr, kind)


class TrackedMempool(Mempool):
    """A pool whose reserve counts as references: a kernel has it in memory."""

    def __init__(self, kmemleak: Kmemleak, *args: Any) -> None:
        super().__init__(*args)
        self._kmemleak = kmemleak
        kmemleak.register_root(self, TrackedMempool._addresses)

    def alloc(self, gfp: int = GFP_KERNEL, timeout: float | None = None) -> Any:
        """As `Mempool.alloc`; who calls counts as who has allocated the element."""
        element = super().alloc(gfp, timeout)
        if element.__class__ is int:
            self._kmemleak.update_trace(element)
        return element

    def _addresses(self) -> list[int]:
        with self.lock:
            return [element for element in self.elements if element.__class__ is int]


_TRACKED: dict[type, type] = {
    SlabCommon: TrackedSlabCommon,
    Kmalloc: TrackedKmalloc,
    Vmalloc: TrackedVmalloc,
    Mempool: TrackedMempool,
}
"""By the class whose place it takes."""
