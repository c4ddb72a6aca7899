"""
What a CPU has of a cache, in its own hands and in those of the interrupts on top of it.

Objects are so large that four are a slab.
"""

from __future__ import annotations

from functools import partial

from concmem.machine import Machine
from concmem.mm import gfp
from concmem.mm.kmem_cache import KmemCache

from .base import Parts, program


class Objects:
    """A cache, and objects of it."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.cache: KmemCache = m.kmem_cache_create("large", 8000)
        self.kept: list[int] = []

    def alloc(self, node: int | None = None) -> None:
        address = self.cache.alloc(gfp.GFP_ATOMIC, node)
        assert address is not None
        self.kept.append(address)

    def free(self, index: int = -1) -> None:
        self.cache.free(self.kept.pop(index))

    def there_and_back(self) -> None:
        address = self.cache.alloc(gfp.GFP_ATOMIC)
        assert address is not None
        self.cache.free(address)

    def flush(self) -> None:
        """As on behalf of another CPU."""
        self.m.slab.cpu_slabs.flush_cpu_slab(self.cache)

    def before(self, nr: int) -> None:
        """CPU 0 has *nr* objects already."""
        self.m.run([lambda: [self.alloc() for _ in range(nr)]])

    def end(self) -> None:
        self.m.run([partial(self.cache.free_bulk, self.kept)])
        self.m.run([self.cache.destroy])


@program
def bulk_interrupted(m: Machine) -> Parts:
    """Many objects are taken at once, and an interrupt wants one, too."""
    objects = Objects(m)
    objects.before(1)

    def body() -> None:
        objects.cache.free_bulk(objects.cache.alloc_bulk(3))

    return [body, int, objects.alloc, objects.there_and_back], objects.end


@program
def partial_interrupted(m: Machine) -> Parts:
    """Slabs come to the CPU's partial list and leave it, in interrupts, too."""
    objects = Objects(m)
    objects.before(12)

    def body() -> None:
        objects.free(0)
        objects.free(3)
        for _ in range(2):
            objects.alloc()

    return [body, int, partial(objects.free, 4), objects.alloc], objects.end


@program
def popped_and_flushed(m: Machine) -> Parts:
    """Slabs of the CPU's partial list are wanted, and flushed by an interrupt."""
    objects = Objects(m)
    objects.before(12)
    m.run([lambda: [objects.free(index) for index in (0, 3)]])

    def body() -> None:
        for _ in range(2):
            objects.alloc()

    return [body, int, objects.alloc, objects.flush, objects.alloc], objects.end


@program
def flush_interrupted(m: Machine) -> Parts:
    """The CPU gives its slabs up, and an interrupt allocates and frees."""
    objects = Objects(m)
    objects.before(6)

    return [objects.flush, int, objects.alloc, objects.there_and_back], objects.end


@program
def refill_interrupted(m: Machine) -> Parts:
    """The CPU has no free object any more, but its slab gets one back; and an interrupt flushes it."""
    objects = Objects(m)
    objects.before(4)
    return [
        objects.alloc,
        partial(objects.free, 0),
        objects.flush,
        objects.there_and_back,
    ], objects.end


@partial(program, nodes=2, cma=0)
def other_node(m: Machine) -> Parts:
    """The CPU gives its slab up since it is on the wrong node; and an interrupt flushes it."""
    objects = Objects(m)

    def body() -> None:
        for node in (0, 1, 0):
            objects.alloc(node)

    return [body, int, objects.flush, objects.there_and_back, objects.flush], objects.end


@program
def popped_twice(m: Machine) -> Parts:
    """Slabs of the CPU's partial list are wanted by the CPU and by an interrupt."""
    objects = Objects(m)
    objects.before(12)
    m.run([lambda: [objects.free(index) for index in (0, 3)]])

    return [objects.alloc, int, objects.alloc], objects.end
