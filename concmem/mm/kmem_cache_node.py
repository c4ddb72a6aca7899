"""
``struct kmem_cache_node``: the slabs of one cache on one NUMA node that are no CPU's.

Three lists, as the older SLAB had them. A slab is on exactly one of them, or it is a CPU slab
(frozen) or on a CPU partial list, and then on none.

Which list: under `list_lock`, a slab with ``PG_workingset`` is on `slabs_free` if nothing of it is in
use, else on `slabs_partial`; one without, not frozen and without a free object, is on `slabs_full`.
That stays true although a free needs no lock while it makes a slab neither empty nor partly free:
the frees that do change lists take the lock before their compare-exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.list_head import List, list_del
from concmem.mm.page import FROZEN, INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT, PG_WORKINGSET
from concmem.runtime.api import lockdep_assert_held, lockless_reads

if TYPE_CHECKING:
    from concmem.mm.page import Page
    from concmem.runtime.api import Runtime


class KmemCacheNode:
    """One cache on one node. ``list_lock`` is taken in interrupts, too."""

    __slots__ = (
        "colour_next",
        "free_objects_counter",
        "list_lock",
        "node",
        "nr_free_slabs",
        "nr_full",
        "nr_partial",
        "nr_slabs_counter",
        "slabs_disabled",
        "slabs_free",
        "slabs_full",
        "slabs_partial",
        "total_objects_counter",
    )

    __guarded_by__: Final = {
        # Allocation looks whether there is any before it takes the lock; missed ones cost a new slab.
        "nr_partial": lockless_reads("list_lock"),
        "nr_free_slabs": lockless_reads("list_lock"),
        **dict.fromkeys(
            ("nr_full", "slabs_partial", "slabs_free", "slabs_full", "slabs_disabled"), "list_lock"
        ),
    }

    def __init__(self, rt: Runtime, node: int) -> None:
        self.node = node
        self.list_lock = rt.spinlock("&n->list_lock", irqsave=True)
        # list_lock
        self.slabs_partial: List[Page] = List()
        self.slabs_free: List[Page] = List()
        self.slabs_full: List[Page] = List()
        self.slabs_disabled: list[Page] = []
        """Of a debug cache: slabs whose free list could not be trusted. They never come back."""
        self.nr_partial = 0
        self.nr_free_slabs = 0
        self.nr_full = 0
        # no lock
        self.nr_slabs_counter = rt.atomic(0, "n->nr_slabs")
        self.total_objects_counter = rt.atomic(0, "n->total_objects")
        self.free_objects_counter = rt.atomic(0, "n->free_objects")
        self.colour_next = rt.cell(0, "n->colour_next")

    @property
    def nr_slabs(self) -> int:
        """Slabs whose pages are on the node."""
        return self.nr_slabs_counter.value

    @property
    def total_objects(self) -> int:
        """Objects in them."""
        return self.total_objects_counter.value

    @property
    def free_objects(self) -> int:
        """Free objects in those of them that are no CPU's slab (not frozen)."""
        return self.free_objects_counter.value

    def inc_slabs_node(self, objects: int) -> None:
        """A new slab, on no list and not frozen: all its objects are free."""
        self.nr_slabs_counter.inc()
        self.total_objects_counter.add(objects)
        self.free_objects_counter.add(objects)

    def dec_slabs_node(self, objects: int) -> None:
        """An empty slab, on no list, is about to go."""
        self.nr_slabs_counter.dec()
        self.total_objects_counter.add(-objects)
        self.free_objects_counter.add(-objects)

    # -- lists. Caller holds list_lock

    def add_partial(self, slab: Page, tail: bool) -> None:
        """Put a slab that is on no list on `slabs_partial`."""
        lockdep_assert_held(self.list_lock)
        self._add(self.slabs_partial, slab, tail)
        slab.flags |= PG_WORKINGSET
        self.nr_partial += 1

    def remove_partial(self, slab: Page) -> None:
        """Take a slab off `slabs_partial`."""
        lockdep_assert_held(self.list_lock)
        list_del(slab)
        slab.flags &= ~PG_WORKINGSET
        self.nr_partial -= 1

    def add_free(self, slab: Page) -> None:
        """Put an empty slab that is on no list on `slabs_free`."""
        lockdep_assert_held(self.list_lock)
        self._add(self.slabs_free, slab, tail=False)
        slab.flags |= PG_WORKINGSET
        self.nr_free_slabs += 1

    def remove_free(self, slab: Page) -> None:
        """Take a slab off `slabs_free`."""
        lockdep_assert_held(self.list_lock)
        list_del(slab)
        slab.flags &= ~PG_WORKINGSET
        self.nr_free_slabs -= 1

    def add_full(self, slab: Page) -> None:
        """Put a slab that is on no list on `slabs_full`."""
        lockdep_assert_held(self.list_lock)
        self._add(self.slabs_full, slab, tail=False)
        self.nr_full += 1

    def remove_full(self, slab: Page) -> None:
        """Take a slab off `slabs_full`."""
        lockdep_assert_held(self.list_lock)
        list_del(slab)
        self.nr_full -= 1

    # -- debug caches, whose slabs change under list_lock only

    def set_slab(self, slab: Page, freelist: int, counters: int) -> None:
        """Change a slab, and put it on the list where it belongs then. Caller holds list_lock."""
        pair = slab.freelist_counters
        before = pair.second
        pair.set(freelist, counters)
        self.free_objects_counter.add(_nr_free(counters) - _nr_free(before))
        if slab.prev is not None:  # else it is on no list yet
            old, new = _state(before), _state(counters)
            if old != new:
                self._remove(slab, old)
                self._add_to(new, slab, tail=old == _FULL)

    def add_slab(self, slab: Page) -> None:
        """Put a slab that is on no list where it belongs."""
        self._add_to(_state(slab.freelist_counters.second), slab, tail=False)

    def disable_slab(self, slab: Page) -> None:
        """Nothing is to be had from *slab* any more: all objects count as in use. It is on no list then."""
        lockdep_assert_held(self.list_lock)
        pair = slab.freelist_counters
        before = pair.second
        if slab.prev is not None:
            self._remove(slab, _state(before))
        objects = before >> OBJECTS_SHIFT & OBJECTS_MASK
        pair.set(0, objects << OBJECTS_SHIFT | objects | FROZEN)
        self.free_objects_counter.add(-_nr_free(before))
        self.slabs_disabled.append(slab)

    def _add_to(self, state: int, slab: Page, tail: bool) -> None:
        if state == _PARTIAL:
            self.add_partial(slab, tail)
        elif state == _FREE:
            self.add_free(slab)
        else:
            self.add_full(slab)

    def _remove(self, slab: Page, state: int) -> None:
        if state == _PARTIAL:
            self.remove_partial(slab)
        elif state == _FREE:
            self.remove_free(slab)
        else:
            self.remove_full(slab)

    @staticmethod
    def _add(slabs: List[Page], slab: Page, tail: bool) -> None:
        if tail:
            slabs.add_tail(slab)
        else:
            slabs.add(slab)


_FREE, _PARTIAL, _FULL = range(3)


def _state(counters: int) -> int:
    """Which list a slab with these counters belongs on."""
    inuse = counters & INUSE_MASK
    if not inuse:
        return _FREE
    return _PARTIAL if inuse != counters >> OBJECTS_SHIFT & OBJECTS_MASK else _FULL


def _nr_free(counters: int) -> int:
    return (counters >> OBJECTS_SHIFT & OBJECTS_MASK) - (counters & INUSE_MASK)
