"""What everything else uses: RCU, the work queue, statistics."""

from __future__ import annotations

from typing import Any

from concmem.machine import Machine
from concmem.mm.percpu_counter import PercpuCounter
from concmem.mm.process_statistics import user_statistics

from .base import Parts, nothing, program


@program
def readers(m: Machine) -> Parts:
    """RCU readers, callbacks and grace periods."""
    called: list[int] = []

    def writer() -> None:
        m.rcu.call_rcu(lambda: called.append(1))
        m.rcu.synchronize_rcu()
        m.rcu.rcu_barrier()
        assert called

    def reader() -> None:
        for _ in range(2):
            m.rcu.read_lock()
            m.runtime.cpu_relax()
            m.rcu.read_unlock()
        m.rcu.call_rcu(lambda: called.append(2))

    return [writer, reader], nothing


@program
def readers_of_statistics(m: Machine) -> Parts:
    """/proc files are read while another CPU allocates, and maps."""
    p = m.process()

    def reader() -> None:
        m.slab.find("kmalloc-2k").statistics()
        m.vm_areas.statistics()
        user_statistics(m.processes, 1)
        m.zones[0].statistics()
        m.log.read()

    def body() -> None:
        address = p.mmap(8192)
        p.write(address, b"x" * 8192)
        area = m.vmalloc(8192)
        objects = [m.kmalloc(2048) for _ in range(10)]
        m.log.printk("so far, so good")
        for each in objects:
            m.kfree(each)
        m.vfree(area)
        p.munmap(address, 8192)

    def after() -> None:
        m.run([p.exit])

    return [body, reader], after


@program
def barrier(m: Machine) -> Parts:
    """Who waits for callbacks sleeps just when the last is called."""
    return [m.rcu.rcu_barrier, m.rcu.rcu_barrier], nothing


@program
def two_readers(m: Machine) -> Parts:
    """A grace period begins when two CPUs are readers, and end at the same time."""

    def body() -> None:
        m.rcu.read_lock()
        m.rcu.call_rcu(int)
        m.runtime.cpu_relax()
        m.rcu.read_unlock()

    return [body, body], nothing


@program
def watched_slabs(m: Machine) -> Parts:
    """Statistics of a cache are taken while its slabs change."""
    cache = m.kmem_cache_create("objects", 2048)

    def body() -> None:
        addresses = [cache.alloc() for _ in range(9)]
        for address in addresses:
            assert address is not None
            cache.free(address)
        cache.shrink()

    def reader() -> None:
        for _ in range(2):
            cache.statistics()

    return [body, reader], nothing


@program
def watched_areas(m: Machine) -> Parts:
    """Areas are looked up and counted while others come and go."""
    areas: list[Any] = m.run([lambda: m.vmalloc(4096)])

    def body() -> None:
        for _ in range(2):
            m.vfree(m.vmalloc(4096))

    def reader() -> None:
        m.vm_areas.area_statistics()
        m.vm_areas.find_vm_area(areas[0])
        m.vm_areas.area_statistics()

    def after() -> None:
        m.run([lambda: m.vfree(areas[0])])

    return [body, reader], after


@program
def watched_zones(m: Machine) -> Parts:
    """Free lists are counted while they change."""

    def body() -> None:
        for _ in range(2):
            m.free_pages(m.alloc_pages(5), 5)

    def reader() -> None:
        m.zones[0].statistics()

    return [body, reader], nothing


@program
def counted(m: Machine) -> Parts:
    """What a CPU has counted so far moves to the common count, while another sums up."""
    counter = PercpuCounter(m.runtime, "counter", 4)
    m.run([lambda: counter.add(3)])

    def reader() -> None:
        assert counter.sum() in (3, 4)

    return [lambda: counter.add(1), reader], nothing
