"""
Do the leak detector's objects agree with each other, and with what is allocated?

Called with every CPU parked between two operations, or asleep in one: in the middle of a scan, perhaps. A block
that is being allocated, or freed, may not be known yet, or any more; but what is known is allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import LeakDetectorError, ListCorruption
from concmem.mm.debug.kmemleak_object import DELSTATE_REMOVED, OBJECT_ALLOCATED, KmemleakObject
from concmem.mm.slab_flags import SLAB_NOLEAKTRACE
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.debug.kmemleak import Kmemleak
    from concmem.mm.mem_map import MemMap
    from concmem.mm.vmalloc import Vmalloc


def validate_kmemleak(kmemleak: Kmemleak, mem_map: MemMap, vmalloc: Vmalloc) -> None:
    """
    Every rule.

    Raises:
        LeakDetectorError: tree and list disagree, or an object is of a block that is not allocated.
    """
    objects = kmemleak.objects()
    _check_list(kmemleak, objects)
    end = 0
    for obj in objects:
        if obj.pointer < end:
            raise LeakDetectorError(f"{obj!r}: overlaps the object before it")
        end = obj.pointer + obj.size
        if not obj.flags & OBJECT_ALLOCATED or not obj.use_count.read():
            raise LeakDetectorError(f"{obj!r}: is in the search tree, but its block is gone")
        if not kmemleak.min_addr <= obj.pointer < end <= kmemleak.max_addr:
            raise LeakDetectorError(f"{obj!r}: is not where scans look for addresses")
        if kmemleak.follows_frees():
            _check_allocated(obj, mem_map, vmalloc)


def _check_list(kmemleak: Kmemleak, objects: list[KmemleakObject]) -> None:
    """The list has the objects of the tree, and those that a walk sleeps at."""
    try:
        listed = {id(obj): obj for obj in kmemleak.object_list}
    except ListCorruption as error:
        raise LeakDetectorError(f"object_list: {error}") from error
    for obj in objects:
        if listed.pop(id(obj), None) is None:
            raise LeakDetectorError(f"{obj!r}: is in the search tree, but not on the list")
    for obj in listed.values():
        if not obj.del_state & DELSTATE_REMOVED:
            raise LeakDetectorError(f"{obj!r}: is on the list, but not in the search tree")


def _check_allocated(obj: KmemleakObject, mem_map: MemMap, vmalloc: Vmalloc) -> None:
    """What slabs and vmalloc have must be somebody's. Who has told of other memory has to know."""
    end = obj.pointer + obj.size
    if vmalloc.is_vmalloc_addr(obj.pointer):
        va = vmalloc.space.find_vmap_area(obj.pointer)
        if va is None or end > va.va_end:
            raise LeakDetectorError(f"{obj!r}: is in no area of vmalloc")
        return
    slab = mem_map.slabs.get(obj.pointer >> PAGE_SHIFT)
    s = None if slab is None else slab.slab_cache
    if slab is None or s is None:
        return
    start = obj.pointer - (obj.pointer - slab.s_mem) % s.size
    if start not in slab.owners or end > start + s.size:
        raise LeakDetectorError(f"{obj!r}: is no object of {s.name} that somebody has")
    if s.flags & SLAB_NOLEAKTRACE:
        raise LeakDetectorError(
            f"{obj!r}: is an object of {s.name}, which is not to be looked after"
        )
