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
        mapped: list[Any] = [m.vm_map_ram(pages * size) for size in (64, 32, 32)]
        for address, size in zip(mapped, (64, 32, 32), strict=True):
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


@program
def blocks_given(m: Machine) -> Parts:
    """What one CPU has mapped, another unmaps, and flushes."""
    pages: list[Any] = m.run([m.alloc_pages])
    given: list[Any] = m.run([lambda: [m.vm_map_ram(pages * 16) for _ in range(2)]])[0]

    def body() -> None:
        mapped: list[Any] = [m.vm_map_ram(pages * 16) for _ in range(2)]
        for address in mapped:
            m.vm_unmap_ram(address, 16)

    def other() -> None:
        m.vm_unmap_aliases()
        for address in given:
            m.vm_unmap_ram(address, 16)
        m.vm_unmap_aliases()

    def after() -> None:
        m.run([lambda: m.free_pages(pages[0])])

    return [body, other], after


@partial(program, vmalloc_size="1M")
def purged_for_room(m: Machine) -> Parts:
    """Blocks are purged since there is no room, while their own CPU uses them."""
    pages: list[Any] = m.run([m.alloc_pages])

    def use() -> None:
        for _ in range(3):
            address = m.vm_map_ram(pages * 16)
            if address is not None:
                m.vm_unmap_ram(address, 16)

    m.run([use])

    def too_much() -> None:
        m.vfree(m.vmalloc(250 * 4096, gfp.GFP_KERNEL | gfp.NOWARN))

    def after() -> None:
        m.run([lambda: m.free_pages(pages[0])])

    return [use, too_much], after


@program
def pooled(m: Machine) -> Parts:
    """Addresses come back to the pool of a CPU that takes some."""
    m.run([lambda: m.vfree(m.vmalloc(4096))])

    def body() -> None:
        m.vfree(m.vmalloc(4096))

    return [body, m.vm_unmap_aliases], nothing


@partial(program, vmalloc_size="4M")
def purged(m: Machine) -> Parts:
    """A fragmented block leaves its list just when another one comes there."""
    pages: list[Any] = m.run([m.alloc_pages])
    mapped: list[Any] = []

    def fragment() -> None:
        mapped.extend(m.vm_map_ram(pages * size) for size in (64, 32, 16))
        for size in (16, 32, 64):
            m.vm_unmap_ram(mapped.pop(), size)

    m.run([fragment])

    def use() -> None:
        mapped.append(m.vm_map_ram(pages * 64))

    def flush() -> None:
        use()
        m.vm_unmap_aliases()

    def after() -> None:
        m.run([lambda: [m.vm_unmap_ram(address, 64) for address in mapped]])
        m.run([lambda: m.free_pages(pages[0])])

    return [use, flush], after
