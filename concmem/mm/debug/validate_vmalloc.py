"""
Do the virtual areas, the page tables and the counters of vmalloc agree?

Called with every CPU parked between two operations, or asleep in one. An area whose pages are still
being allocated is on its way, and so are pages of an area that is being freed; everything else is exact.
"""

from __future__ import annotations

from collections.abc import Iterator

from concmem.errors import KernelBug, ListCorruption, VmapError
from concmem.mm.mem_map import MemMap
from concmem.mm.vm_area import is_allocated
from concmem.mm.vmalloc import Vmalloc
from concmem.mm.vmap_area import (
    VM_ALLOC,
    VM_UNINITIALIZED,
    VMAP_BLOCK,
    VmapArea,
    VmapTree,
    VmStruct,
)
from concmem.mm.vmap_block import VmapBlock, VmapBlocks, get_order
from concmem.mm.vmap_space import VmapSpace
from concmem.units import PAGE_SHIFT, PAGE_SIZE


def validate_vmalloc(vmalloc: Vmalloc) -> None:
    """
    Every rule.

    Raises:
        VmapError: areas overlap or are lost, entries of the page tables are not their area's, a block
            is inconsistent, or a counter differs from what it counts.
    """
    space = vmalloc.space
    _check_tiling(space)
    _check_free_is_flushed(space)
    blocks = _validate_blocks(vmalloc.blocks)
    for va in _busy(space):
        if va.flags & VMAP_BLOCK:
            if va.va_start not in blocks:
                raise VmapError(f"{va!r}: is of a vmap_block that is in no table")
            _validate_block_entries(vmalloc, blocks[va.va_start])
        elif va.vm is not None:
            _validate_vm_struct(vmalloc, va, va.vm)
        else:
            _check_mapped(vmalloc, va, va.va_start, va.va_end)
    for va in _lazy(space):
        for address, entry in space.page_table.entries(va.va_start, va.va_end):
            if entry >= 0:
                raise VmapError(f"{va!r}: was freed, but {address:#x} is mapped")
    _check_counters(vmalloc)


def _busy(space: VmapSpace) -> Iterator[VmapArea]:
    for node in space.nodes:
        yield from node.busy


def _lazy(space: VmapSpace) -> Iterator[VmapArea]:
    for node in space.nodes:
        yield from node.lazy


# -- addresses


def _check_tiling(space: VmapSpace) -> None:
    """Free, pooled, busy and lazy areas do not overlap, and together they are the whole range."""
    ranges: list[tuple[int, int, str]] = []
    _check_tree(space.free, "free")
    for va in space.free:
        ranges.append((va.va_start, va.va_end, "free"))
    for number, node in enumerate(space.nodes):
        _check_tree(node.busy, "busy")
        for va in node.busy:
            if space.addr_to_node(va.va_start) is not node:
                raise VmapError(f"{va!r}: is busy in node {number}, which it does not fall to")
            ranges.append((va.va_start, va.va_end, "busy"))
        ranges += [(va.va_start, va.va_end, "lazy") for va in node.lazy]
        for nr_pages, pool in node.pool.items():
            for start, end in pool:
                if end - start != nr_pages * PAGE_SIZE:
                    raise VmapError(
                        f"{start:#x}-{end:#x}: is in node {number}'s pool of {nr_pages} pages"
                    )
                ranges.append((start, end, "in a pool"))
    reached, previous = space.start, "the start of the range"
    for start, end, where in sorted(ranges):
        if start != reached:
            what = "is in no area" if start > reached else "is in two areas"
            low, high = sorted((start, reached))
            raise VmapError(
                f"{low:#x}-{high:#x} {what}: between {previous} and {start:#x}-{end:#x} ({where})"
            )
        reached, previous = end, f"{start:#x}-{end:#x} ({where})"
    if reached != space.end:
        raise VmapError(f"{reached:#x}-{space.end:#x} is in no area: behind {previous}")


def _check_tree(tree: VmapTree, name: str) -> None:
    """Order, balance, number and largest sizes; free areas that touch are joined."""
    try:
        height, _ = _check_subtree(tree.root)
    except KernelBug as error:
        raise VmapError(f"{name} tree: {error}") from error
    nr, end = 0, -1
    for va in tree:
        nr += 1
        if va.va_start >= va.va_end or va.va_start < end:
            raise VmapError(f"{name} tree: {va!r} is empty or not behind the one before")
        if name == "free" and va.va_start == end:
            raise VmapError(f"{name} tree: {va!r} is not joined with the one before")
        end = va.va_end
    if nr != len(tree):
        raise VmapError(f"{name} tree: {len(tree)} areas counted, but {nr} in it ({height} high)")


def _check_subtree(node: VmapArea | None) -> tuple[int, int]:
    """Height and largest size."""
    if node is None:
        return 0, 0
    (left, left_max), (right, right_max) = _check_subtree(node.left), _check_subtree(node.right)
    largest = max(node.size, left_max, right_max)
    if node.height != max(left, right) + 1 or abs(left - right) > 1:
        raise KernelBug(f"{node!r} is not balanced: heights {left} and {right}, says {node.height}")
    if node.subtree_max_size != largest:
        raise KernelBug(
            f"{node!r} says that {node.subtree_max_size:#x} is the largest size below it, "
            f"but that is {largest:#x}"
        )
    return node.height, largest


def _check_free_is_flushed(space: VmapSpace) -> None:
    """Addresses that may be handed out have nothing mapped, and no TLB has anything."""
    free = [(va.va_start, va.va_end) for va in space.free]
    for node in space.nodes:
        for pool in node.pool.values():
            free += pool
    for start, end in free:
        for address, entry in space.page_table.entries(start, end):
            state = f"mapped to pfn {entry:#x}" if entry >= 0 else "not flushed"
            raise VmapError(f"{start:#x}-{end:#x} is free, but {address:#x} is {state}")


# -- what is mapped


def _check_mapped(
    vmalloc: Vmalloc, va: VmapArea, start: int, end: int, pfns: list[int] | None = None
) -> None:
    """
    From *start* to *end* each page is mapped, to *pfns* if given, and nothing else in *va*.

    What is mapped is allocated.
    """
    found = dict(vmalloc.page_table.entries(va.va_start, va.va_end))
    for number, address in enumerate(range(start, end, PAGE_SIZE)):
        entry = found.pop(address, None)
        if entry is None or entry < 0:
            raise VmapError(f"{va!r}: {address:#x} is not mapped")
        if pfns is not None and entry != pfns[number]:
            raise VmapError(
                f"{va!r}: {address:#x} is mapped to pfn {entry:#x} instead of {pfns[number]:#x}"
            )
        _check_allocated(vmalloc.mem_map, va, address, entry)
    for address, entry in found.items():
        what = f"pfn {entry:#x}" if entry >= 0 else f"a stale pfn {~entry:#x}"
        raise VmapError(f"{va!r}: {address:#x}, a guard page or unused, has {what}")


def _check_allocated(mem_map: MemMap, va: VmapArea, address: int, pfn: int) -> None:
    if not is_allocated(mem_map, pfn):
        raise VmapError(f"{va!r}: {address:#x} is mapped to pfn {pfn:#x}, which is free")


def _validate_vm_struct(vmalloc: Vmalloc, va: VmapArea, vm: VmStruct) -> None:
    if vm.addr != va.va_start or vm.size != va.size:
        raise VmapError(f"{va!r}: its vm_struct says {vm.addr:#x}, {vm.size:#x} bytes")
    flags = vm.flags.value
    if flags & VM_UNINITIALIZED:
        _check_mapped(vmalloc, va, va.va_start, va.va_start)
        return
    pfns = None
    if flags & VM_ALLOC:
        pages = vm.pages or []
        pfns = [page.pfn for page in pages]
        if not len(pages) == vm.nr_pages == vm.get_vm_area_size() >> PAGE_SHIFT:
            raise VmapError(
                f"{va!r}: nr_pages {vm.nr_pages}, but {len(pages)} pages in {vm.size:#x} bytes"
            )
    _check_mapped(vmalloc, va, va.va_start, va.va_start + vm.get_vm_area_size(), pfns)


# -- blocks


def _validate_blocks(blocks: VmapBlocks) -> dict[int, VmapBlock]:
    """Tables and lists of all queues; the blocks by address."""
    found = {vb.va.va_start: vb for vb in blocks.for_each_vmap_block()}
    listed: set[int] = set()
    for cpu, vbq in enumerate(blocks.vmap_block_queue.all()):
        try:
            for vb in vbq.free:
                if vb.cpu != cpu:
                    raise VmapError(f"{vb!r}: is on the list of cpu {cpu}")
                if vb.va.va_start not in found:
                    raise VmapError(f"{vb!r}: is on the list of cpu {cpu}, but in no table")
                listed.add(vb.va.va_start)
        except ListCorruption as error:
            raise VmapError(f"vmap blocks of cpu {cpu}: {error}") from error
    for vb in found.values():
        if (vb.va.va_start in listed) != (vb.free.value > 0):
            state = "is" if vb.va.va_start in listed else "is not"
            raise VmapError(f"{vb!r}: has {vb.free.value} free pages and {state} on the list")
        if blocks.find_vmap_block(vb.va.va_start) is not vb:
            raise VmapError(f"{vb!r}: is not found by its address")
        _validate_block(vb)
    return found


def _validate_block(vb: VmapBlock) -> None:
    free, dirty = vb.free.value, vb.dirty.value
    used = vb.used_map.bit_count()
    if free + dirty + used != vb.bits:
        raise VmapError(f"{vb!r}: free {free}, dirty {dirty} and used {used} are not {vb.bits}")
    if vb.used_map >> vb.bits - free:
        raise VmapError(f"{vb!r}: pages are used that were never handed out")
    wanted = 0
    for offset, nr_pages in vb.requests.items():
        wanted |= (1 << (1 << get_order(nr_pages))) - 1 << offset
    if wanted != vb.used_map:
        raise VmapError(f"{vb!r}: used_map {vb.used_map:#x}, but the requests are {wanted:#x}")


def _validate_block_entries(vmalloc: Vmalloc, vb: VmapBlock) -> None:
    """Each request is mapped and nothing else; what is stale is in the range to be flushed."""
    va = vb.va
    wanted = {offset + i for offset, nr in vb.requests.items() for i in range(nr)}
    for address, entry in vmalloc.page_table.entries(va.va_start, va.va_end):
        page = address - va.va_start >> PAGE_SHIFT
        if entry >= 0:
            if page not in wanted:
                raise VmapError(f"{vb!r}: {address:#x} is mapped, but not in use")
            wanted.discard(page)
            _check_allocated(vmalloc.mem_map, va, address, entry)
        elif not vb.dirty_min <= page < vb.dirty_max:
            raise VmapError(f"{vb!r}: {address:#x} is stale, but not in the range to be flushed")
    if wanted:
        raise VmapError(f"{vb!r}: page {min(wanted)} is in use, but not mapped")


# -- counters


def _check_counters(vmalloc: Vmalloc) -> None:
    space = vmalloc.space
    nr_lazy = sum(va.nr_pages for va in _lazy(space))
    if space.vmap_lazy_nr.value != nr_lazy:
        raise VmapError(f"vmap_lazy_nr {space.vmap_lazy_nr.value}, but {nr_lazy} pages are lazy")
    nr_pages = sum(
        va.vm.nr_pages
        for va in _busy(space)
        if va.vm is not None and not va.vm.flags.value & VM_UNINITIALIZED
    )
    if vmalloc.nr_vmalloc_pages.value != nr_pages:
        raise VmapError(
            f"nr_vmalloc_pages {vmalloc.nr_vmalloc_pages.value}, but areas have {nr_pages}"
        )
