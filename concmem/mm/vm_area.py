"""
Areas of virtual addresses that something is mapped in, and mapping pages that one has.

Locks: see vmap_space.py and vmap_block.py.

Nothing here may be called from an interrupt, since all of it may sleep, but for looking.

Follows ``mm/vmalloc.c`` of Linux 6.12: ``get_vm_area``, ``remove_vm_area``, ``vmap``, ``vm_map_ram``. The
``vm_struct`` is no object in the model's memory.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import CodeType
from typing import TYPE_CHECKING

from concmem.errors import BadArgument, BadArgumentType, BadFree, DoubleFree, SleepInAtomic
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.page import Page
from concmem.mm.statistics import VmAreaStatistics
from concmem.mm.vmap_area import (
    VM_ALLOC,
    VM_MAP,
    VM_UNINITIALIZED,
    VMAP_BLOCK,
    VMAP_RAM,
    VmapArea,
    VmStruct,
)
from concmem.mm.vmap_block import VMAP_MAX_ALLOC
from concmem.units import MAX_PAGE_ORDER, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.mem_map import MemMap
    from concmem.mm.vmap_block import VmapBlocks
    from concmem.mm.vmap_space import VmapSpace
    from concmem.runtime.api import Runtime

Caller = tuple[CodeType, int]


class VmAreas:
    """All areas of a machine: ``vmap``, ``vm_map_ram``, and what ``vmalloc`` is made of."""

    def __init__(
        self, rt: Runtime, space: VmapSpace, blocks: VmapBlocks, mem_map: MemMap, nr_nodes: int
    ) -> None:
        self.rt = rt
        self.space = space
        self.blocks = blocks
        self.page_table = space.page_table
        self.mem_map = mem_map
        self.nr_nodes = nr_nodes
        """NUMA nodes."""

    # -- areas

    def get_vm_area(self, nr_pages: int, flags: int, gfp: int, caller: Caller) -> VmStruct | None:
        """Reserve addresses for *nr_pages* and a guard page (``__get_vm_area_node``)."""
        size = (nr_pages + 1) * PAGE_SIZE
        vm = VmStruct(self.rt, size, flags, caller)
        return vm if self.space.alloc_vmap_area(size, PAGE_SIZE, gfp, vm) is not None else None

    def remove_vm_area(self, addr: int, kind: int) -> VmStruct | None:
        """Unmap the complete area of that *kind* at *addr* and let go of its addresses."""
        va = self.space.find_unlink_vmap_area(addr, lambda va: is_complete(va, kind))
        if va is None:
            return None
        self.space.free_unmap_vmap_area(va)
        return va.vm

    def nonexistent(self, what: str, addr: int) -> DoubleFree | BadFree:
        """What is wrong with an address that nothing of the right kind is at."""
        text = f"Trying to {what}() nonexistent vm area ({addr:#018x})"
        va = self.space.find_vmap_area(addr)
        if va is None:
            if self.is_vmalloc_addr(addr) and not addr % PAGE_SIZE:
                return DoubleFree(text)
            return BadFree(text)
        if va.va_start != addr:
            return BadFree(f"{text}: it is inside the one at {va.va_start:#x}")
        return BadFree(f"{text}: what is there was not made for that, or is not complete")

    # -- vmap

    def vmap(self, pages: Sequence[Page]) -> int | None:
        """
        Map *pages*, one after the other. They stay the caller's, who keeps them allocated. May sleep.

        Returns:
            The address, or ``None`` when addresses are short.
        """
        pfns = self._check_pages(pages)
        self.might_sleep("vmap")
        if len(pfns) > self.totalram_pages():
            return None
        vm = self.get_vm_area(len(pfns), VM_MAP, GFP_KERNEL, caller_of_caller())
        if vm is None:
            return None
        self.page_table.map(vm.addr, pfns)
        return vm.addr

    def vunmap(self, addr: int | None) -> None:
        """
        Undo `vmap`; nothing for 0 and ``None``. May sleep.

        Raises:
            DoubleFree, BadFree: as for `vfree`.
        """
        if addr is None or check_address("addr", addr) == 0:
            return
        self.might_sleep("vunmap")
        if self.remove_vm_area(addr, VM_MAP) is None:
            raise self.nonexistent("vunmap", addr)

    # -- vm_map_ram

    def vm_map_ram(self, pages: Sequence[Page]) -> int | None:
        """
        Map *pages* for a short time, from this CPU's blocks if they are few. No guard. May sleep.

        Returns:
            The address, for `vm_unmap_ram`, or ``None`` when addresses are short.
        """
        pfns = self._check_pages(pages)
        self.might_sleep("vm_map_ram")
        if len(pfns) <= VMAP_MAX_ALLOC:
            addr = self.blocks.vb_alloc(len(pfns), GFP_KERNEL)
        else:
            size = len(pfns) << PAGE_SHIFT
            va = self.space.alloc_vmap_area(size, PAGE_SIZE, GFP_KERNEL, None, VMAP_RAM)
            addr = None if va is None else va.va_start
        if addr is not None:
            self.page_table.map(addr, pfns)
        return addr

    def vm_unmap_ram(self, addr: int, count: int) -> None:
        """
        Undo `vm_map_ram` of *count* pages. TLBs may keep them until `vm_unmap_aliases`. May sleep.

        Raises:
            BadFree, DoubleFree: that is not what was mapped.
        """
        check_address("addr", addr)
        check_whole("count", count)
        self.might_sleep("vm_unmap_ram")
        if addr % PAGE_SIZE or not self.is_vmalloc_addr(addr):
            raise BadFree(f"Trying to vm_unmap_ram() bad address ({addr:#018x})")
        if count <= VMAP_MAX_ALLOC:
            self.blocks.vb_free(addr, count)
            return
        va = self.space.find_unlink_vmap_area(
            addr, lambda va: va.flags == VMAP_RAM and va.nr_pages == count
        )
        if va is None:
            raise self.nonexistent("vm_unmap_ram", addr)
        self.space.free_unmap_vmap_area(va)

    def vm_unmap_aliases(self) -> None:
        """Flush all that was unmapped and not flushed yet. May sleep."""
        self.might_sleep("vm_unmap_aliases")
        self.blocks.vm_unmap_aliases()

    # -- look

    def is_vmalloc_addr(self, addr: int) -> bool:
        """Whether *addr* is in the vmalloc range."""
        return self.space.start <= addr < self.space.end

    def find_vm_area(self, addr: int) -> VmStruct | None:
        """The area of ``vmalloc`` or ``vmap`` that *addr* is in; the caller knows that it stays."""
        va = self.space.find_vmap_area(check_address("addr", addr))
        return None if va is None else va.vm

    def vmalloc_to_page(self, addr: int) -> Page | None:
        """The page that *addr* is mapped to; ``None`` for none."""
        pfn = self.page_table.walk(check_address("addr", addr))
        return None if pfn is None or not self.is_vmalloc_addr(addr) else self.mem_map.page(pfn)

    # -- report

    def area_statistics(self) -> list[VmAreaStatistics]:
        """All areas, node by node, then those that wait for a purge."""
        areas = []
        for node in self.space.nodes:
            with node.busy_lock:
                areas += [self._area_statistics(va) for va in node.busy]
        for node in self.space.nodes:
            with node.lazy_lock:
                areas += [VmAreaStatistics(va.va_start, va.va_end, "unpurged") for va in node.lazy]
        return areas

    def _area_statistics(self, va: VmapArea) -> VmAreaStatistics:
        """Caller holds busy.lock, so the area stays."""
        vm = va.vm
        if vm is None:
            return VmAreaStatistics(va.va_start, va.va_end, "vm_map_ram")
        return VmAreaStatistics(
            va.va_start,
            va.va_end,
            "vmalloc" if vm.flags.value & VM_ALLOC else "vmap",
            caller=_show_caller(vm.caller),
            nr_pages=vm.nr_pages,
            numa=self._show_numa_info(vm),
        )

    def _show_numa_info(self, vm: VmStruct) -> tuple[tuple[int, int], ...]:
        """Node and number of pages there, of a complete area."""
        # No lock: the flag is cleared once, after everything else was set for good.
        if not self._is_initialized(vm):
            return ()
        counters = self._numa_counters()
        for page in vm.pages or ():
            counters[page.zone.zone_pgdat.node_id] += 1
        return tuple((node, nr) for node, nr in enumerate(counters) if nr)

    def _is_initialized(self, vm: VmStruct) -> bool:
        return not vm.flags.value & VM_UNINITIALIZED

    def _numa_counters(self) -> list[int]:
        """
        Zeros, one for each NUMA node, for one reader.

        Since Linux kernel commit 5c5f0468d172 ("mm/vmalloc: fix data race in show_numa_info()") (in
        v6.17) readers do not share them. This model follows that.
        """
        return [0] * self.nr_nodes

    # -- checks

    def might_sleep(self, what: str) -> None:
        """Raise `SleepInAtomic` in an interrupt; else a point where the CPU may park."""
        cpu = self.rt.smp_processor_id()
        if self.rt.in_interrupt():
            raise SleepInAtomic(f"{what}: called in an interrupt on cpu{cpu}, but it may sleep")
        self.rt.might_sleep()
        self.rt.cond_resched()

    def _check_pages(self, pages: Sequence[Page]) -> list[int]:
        """The page frame numbers of *pages*, if all of them are allocated pages of this machine."""
        if not isinstance(pages, Sequence) or not all(isinstance(page, Page) for page in pages):
            raise BadArgumentType(f"pages: expected a list of pages, got {pages!r}")
        if not pages:
            raise BadArgument("pages: expected at least one page")
        for page in pages:
            if self.mem_map.pages.get(page.pfn) is not page:
                raise BadArgument(f"pages: pfn {page.pfn:#x} is a page of another machine")
            if not is_allocated(self.mem_map, page.pfn):
                raise BadArgument(f"pages: pfn {page.pfn:#x} is not allocated")
        return [page.pfn for page in pages]

    def totalram_pages(self) -> int:
        """Pages that the buddy system manages."""
        return sum(zone.managed_pages for zone in self.mem_map.zones)


def is_allocated(mem_map: MemMap, pfn: int) -> bool:
    """Whether *pfn* is in a block that somebody has a reference to. Takes no lock, for who has one."""
    for order in range(MAX_PAGE_ORDER + 1):
        page = mem_map.pages.get(pfn & -(1 << order))
        if page is not None and page.order >= order and page.is_allocated():
            return True
    return False


def is_complete(va: VmapArea, kind: int) -> bool:
    """Whether *va* is an area of *kind* that its maker has finished."""
    if va.vm is None or va.flags & VMAP_BLOCK:
        return False
    return va.vm.flags.value & (kind | VM_UNINITIALIZED) == kind


def check_address(name: str, address: object) -> int:
    """*address* if it is a whole number, else `BadArgumentType`."""
    if isinstance(address, bool) or not isinstance(address, int):
        raise BadArgumentType(f"{name}: expected an address, got {address!r}")
    return address


def check_whole(name: str, value: object) -> None:
    """Raise `BadArgument` unless *value* is a whole number from 1 up."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    if value < 1:
        raise BadArgument(f"{name}: must be at least 1, got {value}")


def caller_of_caller() -> Caller:
    """Who called the function that calls this (``__builtin_return_address(0)``)."""
    frame = sys._getframe(2)
    return frame.f_code, frame.f_lasti


def _show_caller(caller: Caller | None) -> str:
    """As ``%pS``: the function, the offset in its byte code, and the length of that."""
    if caller is None:
        return ""
    code, offset = caller
    return f"{code.co_qualname}+{offset:#x}/{len(code.co_code):#x}"
