"""Mistakes planted into production classes; each needs two CPUs, and one of them to be preempted, to show."""

from __future__ import annotations

from typing import Any, NamedTuple

from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmem_cache import KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.mempool import Mempool
from concmem.mm.page import FROZEN, Page
from concmem.mm.slub_free import SlubFree
from concmem.mm.vmap_area import VmapArea
from concmem.mm.vmap_node import VmapNode


class TakesUnlocked(Mempool):
    """An element is taken without the lock."""

    def _from_reserve(self, _gfp: int) -> Any:
        return self._take()


class TakesUnchecked(Mempool):
    """Whether there is an element is looked at before the lock is taken, and not again."""

    def _from_reserve(self, _gfp: int) -> Any:
        if not self.curr_nr:
            return None
        with self.lock:
            self.curr_nr -= 1
            return self.elements.pop()


class TakesInTwoSections(Mempool):
    """An element is chosen and taken under the lock, but not at once."""

    def _from_reserve(self, _gfp: int) -> Any:
        with self.lock:
            element = self.elements[-1] if self.curr_nr else None
        if element is not None:
            with self.lock:
                self.curr_nr -= 1
                self.elements.remove(element)
        return element


class AddsUnlocked(Mempool):
    """An element is added without the lock."""

    def _add(self, element: Any) -> bool:
        if self.curr_nr >= self.min_nr:
            return False
        self.curr_nr += 1
        self.elements.append(element)
        return True


class AddsUnchecked(Mempool):
    """Whether there is room is looked at before the lock is taken, and not again."""

    def _add(self, element: Any) -> bool:
        with self.lock:
            self.elements.append(element)
            self.curr_nr += 1
            return True


class AddsInTwoSections(Mempool):
    """An element is added and counted under the lock, but not at once."""

    def _add(self, element: Any) -> bool:
        with self.lock:
            if self.curr_nr >= self.min_nr:
                return False
            self.elements.append(element)
        with self.lock:
            self.curr_nr += 1
        return True


class GivesSpareTwice(Mempool):
    """A spare element is read and cleared in two steps."""

    def __init__(self, rt: Any, *args: Any) -> None:
        self._spare = rt.cell(None, "spare")
        super().__init__(rt, *args)
        self._spare.value = self.alloc_fn(GFP_KERNEL)

    def _from_allocator(self, gfp: int) -> Any:
        spare = self._spare.value
        if spare is None:
            return super()._from_allocator(gfp)
        self._spare.value = None
        return spare


class StoresFreelist(SlubFree):
    """A remote free stores the new free list whatever is there by now."""

    def _try_free(
        self, s: KmemCache, c: KmemCacheCpu, slab: Page, head: int, tail: int, nr: int
    ) -> bool:
        pair = slab.freelist_counters
        prior, counters = pair.first, pair.second
        if not counters & FROZEN:
            return super()._try_free(s, c, slab, head, tail, nr)
        s.set_freepointer(c.words, tail, prior)
        pair.set(head, counters - nr)
        return True


class InsertsUnlocked(VmapNode):
    """An area is put among those in use without the lock."""

    def insert_busy(self, va: VmapArea) -> None:
        self.busy.insert(va)


class AddsLazyUnlocked(VmapNode):
    """An area is put among those to be flushed without the lock."""

    def add_lazy(self, va: VmapArea) -> None:
        self.lazy = [*self.lazy, va]


class Planted(NamedTuple):
    """One mistake, and the calls that can show it."""

    classes: dict[type, type]
    calls: tuple[str, ...]
    cpus: int = 2

    @property
    def name(self) -> str:
        return next(iter(self.classes.values())).__name__


PLANTED = (
    Planted({Mempool: TakesUnlocked}, ("mempool_alloc",)),
    Planted({Mempool: TakesUnchecked}, ("mempool_alloc",)),
    Planted({Mempool: TakesInTwoSections}, ("mempool_alloc",)),
    Planted({Mempool: AddsUnlocked}, ("mempool_alloc",)),
    Planted({Mempool: AddsUnchecked}, ("mempool_alloc",)),
    Planted({Mempool: AddsInTwoSections}, ("mempool_alloc",)),
    Planted({Mempool: GivesSpareTwice}, ("mempool_alloc",)),
    Planted({SlubFree: StoresFreelist}, ("cache_alloc",), cpus=3),
    Planted({VmapNode: InsertsUnlocked}, ("vmalloc",)),
    Planted({VmapNode: AddsLazyUnlocked}, ("vmalloc",)),
)
