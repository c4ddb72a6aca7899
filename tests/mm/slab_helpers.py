"""What the tests of the slab allocator share: points to interrupt at, and pictures of a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from concmem.machine import Machine
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.page import Page
from concmem.runtime.cpu import Cpu
from concmem.runtime.jitter import JitterRuntime
from concmem.runtime.percpu import NoArea

from .helpers import PAGE, on_cpu


class PointRuntime(JitterRuntime):
    """
    Never hesitates, but calls `at_point` at every point of CPU 0's own work.

    Points in interrupt handlers are left out, and so are those of all other CPUs.
    """

    def __init__(self, nr_cpus: int = 1, **options: Any) -> None:
        self.at_point: Callable[[Cpu], None] | None = None
        super().__init__(nr_cpus, hesitation=0.0, **options)

    def _point(self) -> None:
        if self.at_point is not None and self.on_cpu():
            self.hesitate()

    def hesitate(self) -> Cpu | None:
        here = self.area()
        if here.__class__ is NoArea:
            return None
        cpu = cast(Cpu, here[1])
        at_point = self.at_point
        if at_point is not None and cpu.number == 0 and not cpu.in_interrupt:
            at_point(cpu)
        if here[0]:
            cpu.take_interrupts()
        return cpu

    def local_irq_save(self) -> bool:
        self._point()
        return super().local_irq_save()

    def local_irq_restore(self, flags: bool) -> None:
        super().local_irq_restore(flags)
        self._point()


class Kth:
    """Does something at the *k*-th point, from 0, of those that *allowed* lets through; once."""

    def __init__(
        self, k: int, action: Callable[[Cpu], None], allowed: Callable[[Cpu], bool]
    ) -> None:
        self.left = k
        self.action = action
        self.allowed = allowed
        self.done = False

    def __call__(self, cpu: Cpu) -> None:
        if self.done or not self.allowed(cpu):
            return
        if self.left:
            self.left -= 1
            return
        self.done = True
        self.action(cpu)


def create(m: Machine, name: str = "test", size: int = 512, **options: Any) -> KmemCache:
    """A cache, made on CPU 0."""
    return on_cpu(m, lambda: m.kmem_cache_create(name, size, **options))


class Picture(NamedTuple):
    """Where the slabs of a quiet cache are: first pfns, in order."""

    cpu: list[int | None]
    cpu_partial: list[list[int]]
    partial: list[list[int]]
    free: list[list[int]]
    full: list[list[int]]


def picture(m: Machine, s: KmemCache) -> Picture:
    """The slabs of *s* by the place they are at; CPUs, not kernel threads."""
    cpus = [s.cpu_slab.of(cpu) for cpu in range(m.runtime.nr_cpus)]
    return Picture(
        [c.page.pfn if c.page is not None else None for c in cpus],
        [chain(c.partial) for c in cpus],
        [[slab.pfn for slab in n.slabs_partial] for n in s.node],
        [[slab.pfn for slab in n.slabs_free] for n in s.node],
        [[slab.pfn for slab in n.slabs_full] for n in s.node],
    )


def chain(slab: Page | None) -> list[int]:
    """Pfns of a CPU partial list."""
    pfns = []
    while slab is not None:
        pfns.append(slab.pfn)
        slab = cast("Page | None", slab.next)
    return pfns


def slab_of(m: Machine, address: int) -> Page:
    """The slab that an object is in, found by the machine's page structs."""
    head = m.compound_head((address - 0xFFFF_8880_0000_0000) // PAGE)
    assert head is not None
    return head


def pfn_of(m: Machine, address: int) -> int:
    """The first pfn of the slab that an object is in."""
    return slab_of(m, address).pfn


class Events:
    """Counts the events of a cache since it was made or last asked for."""

    def __init__(self, s: KmemCache) -> None:
        self._s = s
        self._before = self._now()

    def _now(self) -> Counter[str]:
        events = self._s.statistics().events
        return Counter({name: sum(counts) for name, counts in events.items()})

    def new(self) -> dict[str, int]:
        """What has been counted since, without those that were not."""
        now, before = self._now(), self._before
        self._before = now
        return dict(now - before)


def nr_live(s: KmemCache) -> int:
    """Objects in use, counted from the node's numbers; exact when no CPU has a slab."""
    return sum(n.total_objects - n.free_objects for n in s.node)
