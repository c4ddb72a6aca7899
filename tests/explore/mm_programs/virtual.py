"""Areas of virtual addresses."""

from __future__ import annotations

from functools import partial
from typing import Any

from concmem.machine import Machine
from concmem.mm import gfp

from .base import Parts, nothing, program


@program
def virtual(m: Machine) -> Parts:
    """vmalloc and vm_map_ram, freed where they were not allocated."""
    given: list[int] = []

    def body() -> None:
        address = m.vmalloc(3 * 4096)
        page = m.alloc_pages()
        if address is not None:
            given.append(address)
        if page is not None:
            mapped = m.vm_map_ram([page])
            if mapped is not None:
                m.vm_unmap_ram(mapped, 1)
            m.vm_unmap_aliases()
            m.free_pages(page)
        while given:
            m.vfree(given.pop())

    def after() -> None:
        m.run([m.workqueue.drain])

    return [body, body], after


@program
def deferred(m: Machine) -> Parts:
    """vfree in interrupts, so that the work queue does it, and drains."""

    def body() -> None:
        address = m.vmalloc(4096)
        m.call_on(m.smp_processor_id(), lambda: m.vfree(address))
        m.workqueue.drain()
        m.drain_all_pages()

    return [body, body], nothing


@program
def blocks(m: Machine) -> Parts:
    """Blocks of vm_map_ram are filled, emptied and freed."""
    pages: list[Any] = m.run([m.alloc_pages])

    def body() -> None:
        mapped: list[Any] = [m.vm_map_ram(pages * size) for size in (32, 16, 16)]
        for address, size in zip(mapped, (32, 16, 16), strict=True):
            m.vm_unmap_ram(address, size)

    def after() -> None:
        m.run([m.vm_unmap_aliases])
        m.run([lambda: m.free_pages(pages[0])])

    return [body, body], after


@partial(program, vmalloc_size="1M")
def short_of_addresses(m: Machine) -> Parts:
    """There is no room for an area until fragmented blocks and lazy areas have been purged."""
    pages: list[Any] = m.run([m.alloc_pages])

    def body() -> None:
        mapped: list[Any] = [m.vm_map_ram(pages * 16) for _ in range(2)]
        for address in mapped:
            if address is not None:
                m.vm_unmap_ram(address, 16)
        area = m.vmalloc(100 * 4096, gfp.GFP_KERNEL | gfp.NOWARN)
        m.vfree(area)

    def after() -> None:
        m.run([lambda: m.free_pages(pages[0])])

    return [body, body], after


@program
def many_lazy_pages(m: Machine) -> Parts:
    """So much was unmapped that the work queue begins a purge, while the other CPU purges, too."""
    pages: list[Any] = m.run([m.alloc_pages])
    area: list[Any] = m.run([lambda: m.vm_map_ram(pages * 16400)])

    def unmap() -> None:
        m.vm_unmap_ram(area[0], 16400)
        m.workqueue.drain()

    def other() -> None:
        m.vfree(m.vmalloc(4096))
        m.vm_unmap_aliases()

    def after() -> None:
        m.run([lambda: m.free_pages(pages[0])])

    return [unmap, other], after
