"""
Quarantine: freed objects that are not handed out again for a while, so that who still uses one is found.

Each CPU keeps its own, first in, first out, and frees the oldest for good when it has too many bytes. No lock:
only its own CPU uses a queue, with interrupts disabled. So whoever destroys a cache, and interrupts each CPU for
its objects, comes when none is on its way from the queue to the allocator.

Follows ``mm/kasan/quarantine.c`` of Linux 6.12, which has one more queue for all CPUs.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.page import Page
    from concmem.mm.slub_fast_path import Free
    from concmem.runtime.api import Runtime

FRACTION: Final = 32
"""All queues together have at most one in so many bytes of memory (``QUARANTINE_FRACTION``)."""


class Quarantined(NamedTuple):
    """An object that was freed, but not yet for good."""

    cache: KmemCache
    slab: Page
    address: int
    fp_index: int
    """Of its free pointer, as `Page.owners` has it."""
    free: Free
    """Gives it to the allocator."""


class _Queue:
    """One CPU's."""

    __slots__ = ("nr_bytes", "objects")

    def __init__(self) -> None:
        self.objects: deque[Quarantined] = deque()
        self.nr_bytes = 0
        """Of its objects, and of one that is being freed for good."""


class Quarantine:
    """Of one machine."""

    def __init__(self, rt: Runtime, memory_size: int) -> None:
        self._rt = rt
        self._queues = rt.percpu(_Queue, "kasan quarantine")
        self._limit = memory_size // FRACTION // rt.nr_cpus
        self.addresses: dict[int, Quarantined] = {}
        """All that are in some queue; entries come and go in one step."""

    def put(self, quarantined: Quarantined) -> None:
        """Keep an object; free what is too much. On a CPU."""
        queue = self._queues.this()
        flags = self._rt.local_irq_save()
        try:
            self.addresses[quarantined.address] = quarantined
            queue.objects.append(quarantined)
            queue.nr_bytes += quarantined.cache.size
            while queue.nr_bytes > self._limit:
                self._let_go(queue, queue.objects.popleft())
        finally:
            self._rt.local_irq_restore(flags)

    def remove_cache(self, s: KmemCache) -> None:
        """Free all objects of *s* that any CPU keeps. May sleep."""
        self._rt.might_sleep()
        for cpu, queue in enumerate(self._queues.all()):
            # No lock: who frees one now is later than this; one that is on its way still counts.
            if queue.nr_bytes:
                self._rt.call_on_any(cpu, lambda: self._remove_cache(s))

    def _remove_cache(self, s: KmemCache) -> None:
        """On each CPU, in an interrupt."""
        queue = self._queues.this()
        for _ in range(len(queue.objects)):
            oldest = queue.objects.popleft()
            if oldest.cache is s:
                self._let_go(queue, oldest)
            else:
                queue.objects.append(oldest)

    def _let_go(self, queue: _Queue, oldest: Quarantined) -> None:
        """Free an object for good. Interrupts are disabled."""
        del self.addresses[oldest.address]
        # The allocator gets it as from its owner.
        oldest.slab.owners[oldest.address] = oldest.fp_index
        try:
            oldest.free(oldest.address)
        finally:
            queue.nr_bytes -= oldest.cache.size
