"""Processes: their address spaces, and the memory that they share."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from concmem.errors import BadArgument, SegmentationFault
from concmem.machine import Machine
from concmem.mm.mm_state import STACK_TOP, STACK_VM_PAGES
from concmem.mm.mman import MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED
from concmem.mm.process_statistics import user_statistics

from .base import Parts, nothing, program

FAR = 1 << 34
"""An address, and a distance, with page tables of its own."""


@program
def address_space(m: Machine) -> Parts:
    """Two threads of one process map, touch and unmap."""
    p = m.process()

    def body() -> None:
        address = p.mmap(8192)
        p.write(address, b"x" * 8192)
        p.brk(p.brk(0) + 4096)
        p.mprotect(address, 4096, 1)
        p.munmap(address, 8192)

    def after() -> None:
        m.run([p.exit])

    return [body, body], after


@program
def shared_memory(m: Machine) -> Parts:
    """Two processes with the same pages."""
    shmem = m.run([lambda: m.shmem_create(16384)])[0]
    assert shmem is not None

    def body() -> None:
        p = m.process()
        address = p.mmap(16384, flags=1, file=shmem)
        for page in range(4):
            p.write(address + 4096 * page, b"shared")
        p.exit()

    return [body, body], lambda: m.run([shmem.close]) and None


@program
def stack_and_copies(m: Machine) -> Parts:
    """Two threads grow the stack, and copy the same pages on write."""
    p = m.process()
    shmem = m.run([lambda: m.shmem_create(8192)])[0]
    private: list[Any] = m.run([lambda: p.mmap(8192, flags=2, file=shmem)])
    anonymous: list[Any] = m.run([lambda: p.mmap(8192)])
    stack = STACK_TOP - (STACK_VM_PAGES + 2) * 4096

    def body() -> None:
        for page in (0, 4096):
            p.read(private[0] + page, 8)
            p.read(anonymous[0] + page, 8)
            p.write(private[0] + page, b"copy")
            p.write(anonymous[0] + page, b"mine")
            p.write(stack + page, b"deep")

    def after() -> None:
        m.run([p.exit])
        m.run([shmem.close])

    return [body, body], after


@program
def shared_files(m: Machine) -> Parts:
    """Objects of shared memory come and go."""

    def body() -> None:
        for _ in range(2):
            shmem = m.shmem_create(4096)
            if shmem is not None:
                m.kernel.processes.context.shmem.files()
                shmem.close()

    return [body, body], nothing


@program
def unmapping(m: Machine) -> Parts:
    """One thread unmaps what it has used, while another uses something else for the first time."""
    p = m.process()
    areas: list[Any] = m.run([lambda: [p.mmap(8192), p.mmap(4 * 4096)]])[0]
    m.run([lambda: p.write(areas[0], b"x" * 8192)])

    def unmap() -> None:
        p.munmap(areas[0], 8192)

    def touch() -> None:
        for page in range(3):
            p.write(areas[1] + 4096 * page, b"mine")

    def after() -> None:
        m.run([p.exit])

    return [unmap, touch], after


@program
def copies(m: Machine) -> Parts:
    """One thread copies pages of a file on write, while another looks at the file for the first time."""
    p = m.process()
    shmem = m.run([lambda: m.shmem_create(8192)])[0]
    private: list[Any] = m.run([lambda: p.mmap(8192, flags=MAP_PRIVATE, file=shmem)])
    shared: list[Any] = m.run([lambda: p.mmap(8192, flags=MAP_SHARED, file=shmem)])
    m.run([lambda: p.read(private[0], 8192)])

    def write() -> None:
        for page in (0, 4096):
            p.write(private[0] + page, b"copy")

    def read() -> None:
        for page in (0, 4096):
            p.read(shared[0] + page, 8)

    def after() -> None:
        m.run([p.exit])
        m.run([shmem.close])

    return [write, read], after


@program
def same_page(m: Machine) -> Parts:
    """Two threads use the same page of anonymous memory and of a file: for the first time, and to write."""
    p = m.process()
    shmem = m.run([lambda: m.shmem_create(4096)])[0]
    anonymous: list[Any] = m.run([lambda: p.mmap(4096)])
    shared: list[Any] = m.run([lambda: p.mmap(4096, flags=MAP_SHARED, file=shmem)])
    m.run([lambda: p.read(shared[0], 8)])

    def reader() -> None:
        p.read(anonymous[0], 8)
        p.write(shared[0], b"theirs")

    def writer() -> None:
        p.write(anonymous[0], b"mine")
        p.write(shared[0], b"mine")

    def after() -> None:
        m.run([p.exit])
        m.run([shmem.close])

    return [reader, writer], after


@program
def exit_under_use(m: Machine) -> Parts:
    """A process exits while another thread of it maps memory."""
    p = m.process()

    def use() -> None:
        with suppress(BadArgument, SegmentationFault):
            for _ in range(2):
                address = p.mmap(4096)
                p.write(address, b"late")

    def leave() -> None:
        p.brk(p.brk(0) + 4096)
        p.exit()

    return [leave, use], nothing


@program
def populated(m: Machine) -> Parts:
    """One thread maps memory with all its pages at once, while another maps and unmaps."""
    p = m.process()

    def populate() -> None:
        p.mmap(8192, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE)

    def other() -> None:
        for _ in range(2):
            p.munmap(p.mmap(4096), 4096)

    def after() -> None:
        m.run([p.exit])

    return [populate, other], after


@program
def users(m: Machine) -> Parts:
    """Processes and shared memory come and go, while somebody reads about all of them."""

    def body() -> None:
        p = m.process()
        shmem = m.shmem_create(4096)
        p.write(p.mmap(4096, flags=MAP_SHARED, file=shmem), b"shared")
        p.exit()
        shmem.close()

    def reader() -> None:
        for _ in range(2):
            user_statistics(m.processes, 1)

    return [body, reader], nothing


@program
def far_apart(m: Machine) -> Parts:
    """One thread unmaps all that needs a page table, while another needs a new one."""
    p = m.process()
    m.run([lambda: p.mmap(4096, addr=FAR)])
    m.run([lambda: p.write(FAR, b"first")])

    def unmap() -> None:
        p.munmap(FAR, 4096)

    def touch() -> None:
        address: Any = p.mmap(4096, addr=2 * FAR)
        p.write(address, b"mine")

    def after() -> None:
        m.run([p.exit])

    return [unmap, touch], after


@program
def closed(m: Machine) -> Parts:
    """Shared memory goes while somebody counts its pages."""
    p = m.process()
    shmem: Any = m.run([lambda: m.shmem_create(4096)])[0]
    address: list[Any] = m.run([lambda: p.mmap(4096, flags=MAP_SHARED, file=shmem)])
    m.run([lambda: p.write(address[0], b"shared")])
    m.run([p.exit])

    def reader() -> None:
        user_statistics(m.processes, 1)

    return [shmem.close, reader], nothing
