"""Caches and their objects."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from concmem.errors import BadArgument, CacheBusy, KernelBug
from concmem.machine import Machine
from concmem.mm import gfp
from concmem.mm.slab_flags import DEBUG_DEFAULT_FLAGS

from .base import Parts, nothing, program


@program
def debug_objects(m: Machine) -> Parts:
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
def objects(m: Machine) -> Parts:
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
def caches(m: Machine) -> Parts:
    """Caches that come and go, merged with each other."""

    def body(number: int) -> None:
        for size in (40, 200):
            cache = m.kmem_cache_create(f"cache-{number}-{size}", size)
            objects = cache.alloc_bulk(3)
            cache.free_bulk(objects)
            cache.destroy()

    return [partial(body, 0), partial(body, 1)], nothing


@program
def interrupted_objects(m: Machine) -> Parts:
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
def same_name(m: Machine) -> Parts:
    """Two want a cache of the same name, and others merge."""

    def body() -> None:
        with suppress(BadArgument):
            m.kmem_cache_create("same", 1000).destroy()
        m.kmem_cache_create(f"mine-{m.smp_processor_id()}", 1000).destroy()

    return [body, body], nothing


@program
def cpu_goes(m: Machine) -> Parts:
    """A CPU goes while caches come and go."""

    def body() -> None:
        cache = m.kmem_cache_create("comes", 1000, ctor=lambda _: None)
        address = cache.alloc()
        assert address is not None
        cache.free(address)
        cache.destroy()

    def gone() -> None:
        m.slab.cpu_dead(0)

    return [body, gone], nothing


@program
def still_used(m: Machine) -> Parts:
    """Somebody wants to destroy a cache that another CPU uses."""
    cache = m.kmem_cache_create("busy", 1500, flags=DEBUG_DEFAULT_FLAGS)
    kept: list[Any] = m.run([cache.alloc])

    def destroy() -> None:
        with suppress(CacheBusy):
            cache.destroy()

    def use() -> None:
        for _ in range(3):
            address = cache.alloc()
            assert address is not None
            cache.free(address)

    def after() -> None:
        m.run([lambda: cache.free(kept[0])])
        m.run([cache.destroy])

    return [destroy, use], after


@program
def bad_frees(m: Machine) -> Parts:
    """An object of a debug cache is freed twice, while others of its slab are used."""
    c = m.kmem_cache_create("debug", 1000, flags=DEBUG_DEFAULT_FLAGS)
    freed: list[Any] = m.run([lambda: [c.alloc() for _ in range(3)]])[0]
    m.run([lambda: [c.free(freed[1]), c.free(freed[2])]])

    def twice() -> None:
        for _ in range(2):
            with suppress(KernelBug):
                c.free_bulk([freed[1]])  # the other one is the next to be allocated

    def use() -> None:
        for _ in range(3):
            address = c.alloc()
            assert address is not None
            c.free(address)

    return [twice, use], nothing
