"""
The slab events of a trace: which free belongs to which allocation, and which cache an object is of.

Objects are matched by address, of which a trace as a rule prints a hash. Their cache is known from

* ``kmem_cache_alloc``, since Linux 6.1;
* else ``kmem_cache_free``, since Linux 5.13;
* else nothing: then objects of the same two sizes count as one cache without a name.

``kfree`` frees objects of any cache, as in the kernel; it names none.

What was freed unseen (in bulk, after a grace period, or by what the recording left out) shows when its
address is allocated again, or is freed as an object of another cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from concmem.mm.gfp import NOFAIL, ZERO
from concmem.traces.events import SlabAlloc, SlabFree
from concmem.traces.steps import (
    BEFORE_TRACE,
    FAILED,
    FREED_AGAIN,
    HIDDEN,
    KMALLOC,
    NOT_REPLAYED,
    NULL,
    UNUSUAL_SIZE,
    CacheAllocStep,
    KmallocStep,
    ObjectFreeStep,
    Step,
)

MAX_SIZE: Final = 2 << 20
"""Objects are smaller: above, the model's kmalloc has another allocator, and caches do not exist."""

_KMALLOC_EVENTS: Final = ("kmalloc", "kmalloc_node")
_new: Final = tuple.__new__


class PlannedCache(NamedTuple):
    """A cache of the traced kernel, as far as its events tell; sizes in bytes."""

    name: str
    """Empty if the trace does not tell."""
    object_size: int
    """The largest that was asked for: a merged cache may grow while the kernel runs."""
    sizes: tuple[int, ...]
    """What the kernel set aside for an object; one value, unless two caches have the name."""
    allocs: int
    frees: int
    """Free steps, implied ones included."""


class _Cache:
    """A `PlannedCache` in the making."""

    __slots__ = ("allocs", "frees", "name", "object_size", "sizes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.object_size = 0
        self.sizes: set[int] = set()
        self.allocs = self.frees = 0


class SlabPlanner:
    """The traced kernel's slab objects as far as the events tell."""

    def __init__(self, steps: Mapping[int, list[Step]], skipped: Counter[str]) -> None:
        self.steps = steps
        self.skipped = skipped
        self.live: dict[int, tuple[int, int, int]] = {}  # address -> object, cache, CPU
        self.not_replayed: set[int] = set()  # addresses whose allocation gives no step
        self.seen: set[int] = set()  # every address that an event has named
        self.cross = bytearray()  # for every object 1 if another CPU frees it
        self._caches: list[_Cache] = []
        self._by_name: dict[str, int] = {}
        self._by_sizes: dict[tuple[str, int, int], int] = {}
        # Objects of caches without a name: list and place of their step, and their two sizes.
        self._unnamed: dict[int, tuple[list[Step], int, int, int]] = {}
        self.kmallocs = self.kfrees = self.planned = 0
        self.cross_cpu_frees = self.implied_frees = 0
        self.peak_live_objects = 0

    def alloc(self, event: SlabAlloc) -> None:
        cpu, ptr, name, bytes_req, bytes_alloc, gfp, node, _, line, kind = event
        if not ptr:
            self.skipped[HIDDEN if ptr is None else FAILED] += 1
            return
        live = self.live
        if ptr in live:
            self._free(ptr, live[ptr][1], cpu, line, implied=True)
        self.seen.add(ptr)
        if not 0 < bytes_req < MAX_SIZE or bytes_alloc < bytes_req:
            self.skipped[UNUSUAL_SIZE] += 1
            self.not_replayed.add(ptr)
            return
        if self.not_replayed:
            self.not_replayed.discard(ptr)
        obj = len(self.cross)
        self.cross.append(0)
        steps = self.steps[cpu]
        # Spelled so, a named tuple takes half the time.
        if kind in _KMALLOC_EVENTS:
            cache = KMALLOC
            self.kmallocs += 1
            steps.append(
                _new(KmallocStep, (obj, bytes_req, gfp & ~NOFAIL, node, bytes_alloc, line))
            )
        else:
            cache = self._by_sizes.get((name, bytes_req, bytes_alloc), -1)
            if cache < 0:
                cache = self._add_cache(name, bytes_req, bytes_alloc)
            if not name:
                self._unnamed[obj] = (steps, len(steps), bytes_req, bytes_alloc)
            self._caches[cache].allocs += 1
            steps.append(_new(CacheAllocStep, (obj, cache, gfp & ~(NOFAIL | ZERO), node, line)))
        live[ptr] = (obj, cache, cpu)
        self.planned += 1
        if len(live) > self.peak_live_objects:
            self.peak_live_objects = len(live)

    def free(self, event: SlabFree) -> None:
        cpu, ptr, name, _, line, kind = event
        if not ptr:
            self.skipped[HIDDEN if ptr is None else NULL] += 1
            return
        entry = self.live.get(ptr)
        if entry is None:
            self._free_unknown(ptr)
            return
        own_cache = entry[1]
        cache = own_cache if kind == "kmem_cache_free" else KMALLOC
        if name and (own_cache == KMALLOC or self._caches[own_cache].name != name):
            known = self._learn(ptr, name)
            if known is None:  # another object: the one we know of was freed unseen
                self._free(ptr, own_cache, cpu, line, implied=True)
                self.skipped[FREED_AGAIN] += 1
                return
            cache = known
        self._free(ptr, cache, cpu, line)
        self.planned += 1

    def _free_unknown(self, ptr: int) -> None:
        """Count a free that gives no step."""
        if ptr in self.not_replayed:
            self.not_replayed.remove(ptr)
            self.skipped[NOT_REPLAYED] += 1
        else:
            self.skipped[FREED_AGAIN if ptr in self.seen else BEFORE_TRACE] += 1
            self.seen.add(ptr)

    def _free(self, ptr: int, cache: int, cpu: int, line: int, implied: bool = False) -> None:
        """Plan the free of the object at *ptr*; *cache*: the function, see `ObjectFreeStep`."""
        obj, own_cache, alloc_cpu = self.live.pop(ptr)
        if cross_cpu := cpu != alloc_cpu:
            self.cross[obj] = 1
            self.cross_cpu_frees += 1
        if implied:
            self.implied_frees += 1
        if own_cache == KMALLOC:
            self.kfrees += 1
        else:
            self._caches[own_cache].frees += 1
        self.steps[cpu].append(
            _new(ObjectFreeStep, (obj, cache, line, alloc_cpu, cross_cpu, implied))
        )

    def _add_cache(self, name: str, bytes_req: int, bytes_alloc: int) -> int:
        """The cache of that name, or a new one, with these sizes noted."""
        number = self._by_name.get(name) if name else None
        if number is None:
            number = len(self._caches)
            self._caches.append(_Cache(name))
            if name:
                self._by_name[name] = number
        cache = self._caches[number]
        cache.object_size = max(cache.object_size, bytes_req)
        cache.sizes.add(bytes_alloc)
        self._by_sizes[name, bytes_req, bytes_alloc] = number
        return number

    def _learn(self, ptr: int, name: str) -> int | None:
        """The cache of an object that is freed by this name; ``None`` if it cannot be its name."""
        obj, cache, cpu = self.live[ptr]
        if cache == KMALLOC:  # the caches behind kmalloc may be called by name
            return KMALLOC if "kmalloc-" in name else None
        if self._caches[cache].name:
            return None
        steps, place, bytes_req, bytes_alloc = self._unnamed.pop(obj)
        named = self._by_sizes.get((name, bytes_req, bytes_alloc), -1)
        if named < 0:
            named = self._add_cache(name, bytes_req, bytes_alloc)
        step = steps[place]
        assert isinstance(step, CacheAllocStep)
        steps[place] = step._replace(cache=named)
        self._caches[cache].allocs -= 1
        self._caches[named].allocs += 1
        self.live[ptr] = (obj, named, cpu)
        return named

    def caches(self) -> tuple[PlannedCache, ...]:
        """All caches, by number; some unnamed ones may have no allocation left."""
        return tuple(
            PlannedCache(
                each.name, each.object_size, tuple(sorted(each.sizes)), each.allocs, each.frees
            )
            for each in self._caches
        )

    def live_at_end(self) -> tuple[tuple[int, int], ...]:
        """(object, cache) of what no event freed, in order."""
        return tuple(sorted((obj, cache) for obj, cache, _ in self.live.values()))
