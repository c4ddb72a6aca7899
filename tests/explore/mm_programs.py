"""Programs that use the memory management code from two CPUs, each a part of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from concmem.explore import ControlledRuntime, Program
from concmem.machine import Machine
from concmem.mm import gfp
from concmem.mm.mm_state import STACK_TOP, STACK_VM_PAGES
from concmem.mm.process_statistics import user_statistics
from concmem.mm.reclaim import Shrinker
from concmem.mm.slab_flags import DEBUG_DEFAULT_FLAGS
from concmem.workloads import WORKLOADS
from concmem.workloads.hunting import hunting_program

Make = Callable[[ControlledRuntime], Program]

PROGRAMS: dict[str, Make] = {}
"""By name; the small ones first."""


def program(
    function: Callable[[Machine], tuple[list[Any], Callable[[], None]]], **machine: Any
) -> Callable[..., Any]:
    """
    Make a function of a machine, which gives bodies and a check, a program.

    Bodies beyond the second are interrupts of CPU 0.

    Args:
        machine: arguments of `Machine`.
    """

    def make(rt: ControlledRuntime) -> Program:
        m = Machine(memory="16M", cma="2M", runtime=rt, **machine)
        bodies, after = function(m)
        interrupts = [(0, body) for body in bodies[2:]]

        def check() -> None:
            after()
            m.verify()

        return Program(bodies[:2], check, verify=m.verify, interrupts=interrupts)

    PROGRAMS[function.__name__] = make
    return function


def nothing() -> None:
    """No check but verify()."""


@program
def pages(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Blocks of small orders, straight from the buddy system and by way of the page sets."""

    def body() -> None:
        blocks = [(m.alloc_pages(order, gfp.GFP_KERNEL), order) for order in (0, 4, 0)]
        for page, order in blocks:
            m.free_pages(page, order)

    return [body, body], nothing


@program
def debug_objects(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Objects of a debug cache, two in a slab, while somebody looks at all of it."""
    c = m.kmem_cache_create("debug", 1500, flags=DEBUG_DEFAULT_FLAGS)

    def body() -> None:
        addresses = [c.alloc() for _ in range(3)]
        for address in addresses:
            assert address is not None
            c.free(address)

    def look() -> None:
        c.validate()
        body()
        c.validate()

    def after() -> None:
        assert m.debug_reports == []

    return [body, look], after


@program
def page_locks(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """PG_locked of one page, taken, tried and waited for."""
    page = m.run([m.alloc_pages])[0]
    order: list[int] = []

    def body(number: int) -> None:
        m.lock_page(page)
        order.append(number)
        order.append(number)
        m.unlock_page(page)
        if m.trylock_page(page):
            m.unlock_page(page)
        m.wait_on_page_locked(page, 5.0)

    def after() -> None:
        assert order in ([0, 0, 1, 1], [1, 1, 0, 0])
        m.run([lambda: m.free_pages(page)])

    return [partial(body, 0), partial(body, 1)], after


@program
def contiguous(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """The CMA area."""

    def body() -> None:
        page = m.cma_alloc(8)
        if page is not None:
            m.cma_release(page, 8)

    return [body, body], nothing


@program
def objects(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """One cache: objects given to the other CPU, flushes and shrinks."""
    cache = m.kmem_cache_create("objects", 1024)
    given: list[int] = []

    def producer() -> None:
        taken = [cache.alloc() for _ in range(20)]
        given.extend(address for address in taken if address is not None)
        cache.shrink()

    def consumer() -> None:
        mine = [cache.alloc() for _ in range(3)]
        for _ in range(12):
            if given:
                cache.free(given.pop())
        cache.flush_all()
        for address in mine:
            if address is not None:
                cache.free(address)

    def after() -> None:
        m.run([lambda: cache.free_bulk(given)])
        m.run([cache.destroy])

    return [producer, consumer], after


@program
def caches(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Caches that come and go, merged with each other."""

    def body(number: int) -> None:
        for size in (40, 200):
            cache = m.kmem_cache_create(f"cache-{number}-{size}", size)
            objects = cache.alloc_bulk(3)
            cache.free_bulk(objects)
            cache.destroy()

    return [partial(body, 0), partial(body, 1)], nothing


@program
def virtual(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def pool(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """A memory pool of one element, with an allocator that has none."""
    pools = m.run([lambda: m.mempool_create_kmalloc_pool(1, 64)])
    pool: Any = pools[0]
    pool.alloc_fn = lambda _gfp: None

    def body() -> None:
        for _ in range(2):
            element = pool.alloc(timeout=60.0)
            assert element is not None
            pool.free(element)
        pool.resize(2)

    def after() -> None:
        m.run([pool.destroy])

    return [body, body], after


@program
def readers(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def address_space(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def shared_memory(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def shrinkers(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Reclaim that asks shrinkers which come and go, and kswapd."""
    kept: list[Any] = []

    def scan(nr: int) -> int:
        freed = 0
        while kept and freed < nr:
            m.free_pages(kept.pop())
            freed += 1
        return freed

    def body(number: int) -> None:
        shrinker = Shrinker(lambda: len(kept), scan, f"shrinker-{number}")
        m.register_shrinker(shrinker)
        page = m.alloc_pages()
        if page is not None:
            kept.append(page)
        m.reclaim.reclaimable()
        for node in m.nodes:
            m.reclaim.shrink(node, 1, "direct")
            node.wakeup_kswapd(0, 0)
        m.unregister_shrinker(shrinker)

    def after() -> None:
        m.run([lambda: scan(99) and None])

    return [partial(body, 0), partial(body, 1)], after


@program
def deferred(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """vfree in interrupts, so that the work queue does it, and drains."""

    def body() -> None:
        address = m.vmalloc(4096)
        m.call_on(m.smp_processor_id(), lambda: m.vfree(address))
        m.workqueue.drain()
        m.drain_all_pages()

    return [body, body], nothing


@program
def interrupted_objects(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """One cache whose objects an interrupt allocates and frees on top of everything."""
    cache = m.kmem_cache_create("objects", 1024)
    given: list[int] = []

    def body() -> None:
        taken = [cache.alloc() for _ in range(18)]
        given.extend(address for address in taken[:10] if address is not None)
        for address in taken[10:]:
            if address is not None:
                cache.free(address)
        cache.free_bulk(cache.alloc_bulk(4))

    def other() -> None:
        mine = [cache.alloc() for _ in range(9)]
        while given:
            cache.free(given.pop())
        for address in mine:
            if address is not None:
                cache.free(address)
        cache.flush_all()

    def handler() -> None:
        address, another = cache.alloc(gfp.GFP_ATOMIC), cache.alloc(gfp.GFP_ATOMIC)
        for each in (address, another):
            if each is not None:
                cache.free(each)

    def after() -> None:
        m.run([lambda: cache.free_bulk(given)])
        m.run([cache.destroy])

    return [body, other, handler, handler, handler, handler], after


@program
def readers_of_statistics(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def stack_and_copies(m: Machine) -> tuple[list[Any], Callable[[], None]]:
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
def shared_files(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Objects of shared memory come and go."""

    def body() -> None:
        for _ in range(2):
            shmem = m.shmem_create(4096)
            if shmem is not None:
                m.kernel.processes.context.shmem.files()
                shmem.close()

    return [body, body], nothing


@partial(program, kmemleak=True)
def leaks(m: Machine) -> tuple[list[Any], Callable[[], None]]:
    """Scans and commands of the leak detector, while blocks and what is known of them change."""
    kmemleak: Any = m.kmemleak
    kmemleak.msecs_min_age = 0
    page: Any = m.run([m.alloc_pages])[0]
    base = m.page_address(page)
    m.run([lambda: kmemleak.alloc(base, 256, 0)])
    lost: list[Any] = m.run([lambda: m.kmalloc(64)])
    m.memory.write(lost[0], b"lost" * 16)

    def scanner() -> None:
        counters, words = m.percpu_data(), m.data(2)
        with m.stack_frame(1) as frame:
            frame[0], words[0], counters.this()[0] = base, base + 8, base
            kmemleak.scan()
            kmemleak.register_root(m, lambda _: list(words))
            kmemleak.scan()
            kmemleak.report()
            kmemleak.write(f"dump={lost[0]:#x}")
            kmemleak.statistics()
            kmemleak.blocks()
            kmemleak.unregister_root(m)

    def owner() -> None:
        kmemleak.write("scan=1")
        kmemleak.not_leak(lost[0])
        kmemleak.no_scan(lost[0])
        _, words = m.percpu_data(), m.data()
        block, area = m.kmalloc(128), m.vmalloc(4096)
        words[0] = block
        kmemleak.scan_area(block, 64)
        kmemleak.scan_area(base, 64)
        kmemleak.no_scan(block)
        kmemleak.update_trace(base)
        kmemleak.ignore(block)
        kmemleak.register_root(m.slab, lambda _: [])
        kmemleak.free_part(base + 64, 64)
        m.kfree(block)
        m.vfree(area)
        kmemleak.write("scan=0")
        kmemleak.write("clear")
        kmemleak.free(base)

    def after() -> None:
        m.run([lambda: kmemleak.free(base)])
        m.run([lambda: kmemleak.free(base + 128)])
        m.run([lambda: kmemleak.write("off")])
        m.run([m.workqueue.drain])
        m.run([lambda: kmemleak.write("clear")])
        assert not kmemleak.objects()

    return [scanner, owner], after


for workload in WORKLOADS:
    if workload != "kmalloc-large":  # tens of thousands of steps
        PROGRAMS[workload] = hunting_program(workload, 4)
