"""The leak detector."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from concmem.errors import BadArgument
from concmem.machine import Machine

from .base import Parts, nothing, program


@partial(program, kmemleak=True)
def leaks(m: Machine) -> Parts:
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


def reported(m: Machine) -> int:
    """An object that was lost, and has been reported."""
    kmemleak: Any = m.kmemleak
    kmemleak.msecs_min_age = 0
    lost: list[Any] = m.run([lambda: m.kmalloc(64)])
    m.memory.write(lost[0], b"lost" * 16)
    for _ in range(2):
        m.run([kmemleak.scan])
    assert kmemleak.leaks()
    return int(lost[0])


def end(m: Machine, *addresses: int) -> None:
    """Free what was lost."""
    for address in addresses:
        m.run([partial(m.kfree, address)])


@partial(program, kmemleak=True)
def leaks_scanned(m: Machine) -> Parts:
    """A scan, while others tell and ask about the same block."""
    kmemleak: Any = m.kmemleak
    lost = reported(m)

    def scanner() -> None:
        m.memory.write(lost, b"changes!")
        kmemleak.scan()

    def owner() -> None:
        for _ in range(2):
            kmemleak.scan_area(lost, 4096)  # too much of it: all that is known is printed
            kmemleak.no_scan(lost)

    return [scanner, owner], partial(end, m, lost)


@partial(program, kmemleak=True)
def leaks_read(m: Machine) -> Parts:
    """The report is read and cleared, while others tell and ask about the same block."""
    kmemleak: Any = m.kmemleak
    lost = reported(m)

    def reader() -> None:
        kmemleak.leaks()
        kmemleak.write("clear")

    def owner() -> None:
        kmemleak.update_trace(lost)
        kmemleak.no_scan(lost)
        kmemleak.scan_area(lost, 4096)

    return [reader, owner], partial(end, m, lost)


@partial(program, kmemleak=True)
def leaks_found(m: Machine) -> Parts:
    """A block is reported and found referenced, while somebody tells of it."""
    kmemleak: Any = m.kmemleak
    kmemleak.msecs_min_age = 0
    lost: list[Any] = m.run([lambda: [m.kmalloc(64), m.kmalloc(64)]])[0]
    m.run([kmemleak.scan])

    def scanner() -> None:
        with m.stack_frame(1) as frame:
            frame[0] = lost[1]
            kmemleak.scan()

    def owner() -> None:
        for each in (*lost, *lost, *8 * lost[:1]):
            kmemleak.scan_area(each, 4096)  # as above

    return [scanner, owner], partial(end, m, *lost)


@partial(program, kmemleak=True)
def leaks_off(m: Machine) -> Parts:
    """The detector is switched off, and forgets everything, while others ask it and allocate."""
    kmemleak: Any = m.kmemleak
    kept: list[Any] = m.run([lambda: [m.kmalloc(64) for _ in range(3)]])[0]

    def off() -> None:
        kmemleak.write("off")
        m.workqueue.drain()

    def other() -> None:
        for _ in range(3):
            kmemleak.blocks()

    return [off, other], partial(end, m, *kept)


@partial(program, kmemleak=True)
def leaks_given_up(m: Machine) -> Parts:
    """The detector gives up by itself, during a scan of what is freed then."""
    kmemleak: Any = m.kmemleak
    lost = reported(m)
    area: list[Any] = m.run([lambda: m.vmalloc(4096)])
    m.run([lambda: kmemleak.not_leak(area[0])])

    def scan() -> None:
        with kmemleak.scan_mutex:  # as the command does, which is refused when it is off
            kmemleak.kmemleak_scan()

    def off() -> None:
        kmemleak.disable()
        m.workqueue.drain()
        m.vfree(area[0])

    def after() -> None:
        m.run([lambda: kmemleak.write("clear")])
        end(m, lost)

    return [scan, off], after


@partial(program, kmemleak=True)
def leaks_roots(m: Machine) -> Parts:
    """Roots whose owners change what they hold, or are gone."""
    kmemleak: Any = m.kmemleak
    pool: Any = m.run([lambda: m.mempool_create_kmalloc_pool(2, 64)])[0]
    pool.alloc_fn = lambda _gfp: None

    class Owner:
        pass

    kept = Owner()
    kmemleak.register_root(Owner(), lambda _: [])

    def owner() -> None:
        for _ in range(2):
            pool.free(pool.alloc())
            kmemleak.register_root(kept, lambda _: [])

    def after() -> None:
        m.run([pool.destroy])

    return [kmemleak.scan, owner], after


@partial(program, kmemleak=True)
def leaks_by_itself(m: Machine) -> Parts:
    """Automatic scans are switched on and off, and one ends."""
    kmemleak: Any = m.kmemleak

    def body() -> None:
        kmemleak.write("scan=1")
        kmemleak.write("scan=2")

    def after() -> None:
        kmemleak.write("scan=off")  # on no CPU

    return [body, body], after


@partial(program, kmemleak=True)
def leaks_without_memory(m: Machine) -> Parts:
    """What is known of blocks comes from the detector's pool, as it does early in the boot."""
    kmemleak: Any = m.kmemleak
    kmemleak._object_cache = None

    def body() -> None:
        m.kfree(m.kmalloc(64))

    def after() -> None:
        m.run([m.rcu.rcu_barrier])

    return [body, body], after


@partial(program, kmemleak=True)
def leaks_by_itself_and_off(m: Machine) -> Parts:
    """The detector gives up just when an automatic scan is about to begin."""
    kmemleak: Any = m.kmemleak

    def body() -> None:
        with suppress(BadArgument):  # it is off already
            kmemleak.write("scan=1")

    def off() -> None:
        kmemleak.disable()
        m.workqueue.drain()

    return [body, off], nothing


@partial(program, kmemleak=True)
def leaks_parked(m: Machine) -> Parts:
    """A scan that lets others have the CPU in the middle of the list, while blocks are freed."""
    kmemleak: Any = m.kmemleak
    kept: list[Any] = m.run([lambda: [m.kmalloc(64) for _ in range(3)]])[0]

    def free() -> None:
        for address in kept:
            m.kfree(address)

    return [kmemleak.scan, free], nothing
