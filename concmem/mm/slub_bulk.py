"""
Many objects at once: ``kmem_cache_alloc_bulk`` and ``kmem_cache_free_bulk``.

Allocation pops this CPU's own free list under its lock, with one change of the tid for all; freeing
links the objects of each slab to a chain first and frees that with one compare-exchange.

Follows ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from concmem.errors import BadArgument, BadArgumentType, KernelBug
from concmem.mm import gfp as gfp_flags
from concmem.units import PAGE_OFFSET, PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.page import Page
    from concmem.mm.slub import Slub


def check_nr(nr: object) -> None:
    """Raise `BadArgument` unless *nr* is a number of objects to allocate."""
    if isinstance(nr, bool) or not isinstance(nr, int):
        raise BadArgumentType(f"nr: expected a whole number, got {nr!r}")
    if nr < 1:
        raise BadArgument(f"nr: must be at least 1, got {nr}")


def check_addresses(addresses: object) -> list[int]:
    """A list of what is in *addresses*, if that is all addresses."""
    if not isinstance(addresses, Sequence):
        raise BadArgumentType(f"addresses: expected a list of addresses, got {addresses!r}")
    left = list(addresses)
    if not set(map(type, left)) <= {int}:  # a float may equal an address
        bad = next(each for each in left if type(each) is not int)
        raise BadArgumentType(f"addresses: expected addresses, got {bad!r}")
    return left


class _Group(NamedTuple):
    """Objects of one slab that nobody has any more, and the indices of their free pointers."""

    slab: Page
    addresses: list[int]
    indices: list[int]


class SlubBulk:
    """Bulk operations, for all caches of a machine."""

    def __init__(self, slub: Slub) -> None:
        self._slub = slub

    # -- allocate

    def alloc_bulk(self, s: KmemCache, nr: int, gfp: int) -> list[int]:
        """See `KmemCache.alloc_bulk`."""
        self._slub.check_slab_gfp(s, gfp)
        check_nr(nr)
        s.check_alive()
        self._slub.rt.cond_resched()
        addresses: list[int] = []
        try:
            complete = self._alloc_all(s, nr, gfp, addresses)
        except BaseException:  # of a constructor, say: nobody would know of what there is so far
            with suppress(KernelBug):  # which would hide what was wrong first
                self.free_bulk(s, addresses)
            raise
        if not complete:
            self.free_bulk(s, addresses)
            return []
        if gfp & gfp_flags.ZERO:
            for address in addresses:
                self._slub.memory.fill(address, s.object_size)
        return addresses

    def _alloc_all(self, s: KmemCache, nr: int, gfp: int, addresses: list[int]) -> bool:
        """Append *nr* objects to *addresses*; false when memory is short."""
        c = s.cpu_slab.this()
        while True:
            self._pop_freelist(s, c, nr - len(addresses), addresses)
            if len(addresses) == nr:
                return True
            # Interrupts are on again, and memory may be waited for.
            address = self._slub.alloc.slab_alloc(s, gfp, None)
            if not address:
                return False
            self._slub.hand_out(s, address)
            addresses.append(address)

    def _pop_freelist(self, s: KmemCache, c: KmemCacheCpu, nr: int, addresses: list[int]) -> None:
        """Move up to *nr* objects from this CPU's free list to *addresses*."""
        with c.lock:
            slab = c.page
            if slab is None:
                return
            words, fp_offset = c.words, s.offset - PAGE_OFFSET
            own, append = slab.owners.setdefault, addresses.append
            address = c.freelist_tid.first
            start = len(addresses)
            try:
                for _ in range(nr):
                    if not address:
                        break
                    slot = address + fp_offset >> 3
                    following = words[slot]
                    if own(address, slot) is not slot:
                        raise self._slub.handed_out_twice(s, address)
                    append(address)
                    address = following
            except IndexError:
                raise s.freepointer_corrupt(address) from None
            finally:
                if len(addresses) > start:
                    self._store_freelist(c, address)
                    c.count("alloc_fastpath", len(addresses) - start)

    @staticmethod
    def _store_freelist(c: KmemCacheCpu, freelist: int) -> None:
        """The CPU's free list after a bulk allocation, with a new tid. Caller holds its lock."""
        # Since Linux kernel commit fd4d9c7d0c71 ("mm: slub: add missing TID bump in
        # kmem_cache_alloc_bulk()") (in v5.6): whoever was interrupted in a fast path must not take
        # this list for the one it saw, even if the same object is first again by then.
        c.set_freelist(freelist)

    # -- free

    def free_bulk(self, s: KmemCache, addresses: Sequence[int]) -> None:
        """See `KmemCache.free_bulk`."""
        s.check_alive()
        c = s.cpu_slab.this()
        groups = self._take_all(s, addresses)
        if c.cpu < 0:
            self._slub.free.come_up(s, c)
        words = c.words
        for slab, group, indices in groups:
            for slot, following in zip(indices, group[1:], strict=False):  # the last has none yet
                words[slot] = following
            self._slub.free_objects(s, slab, group[0], group[-1], len(group))

    def _take_all(self, s: KmemCache, addresses: Sequence[int]) -> list[_Group]:
        """Make all objects nobody's; those of one slab that follow each other are one group."""
        left = check_addresses(addresses)
        groups: list[_Group] = []
        while left:
            slab = self._slub.mem_map.slabs.get(left[0] >> PAGE_SHIFT)
            indices: list[int] = []
            if slab is not None and slab.slab_cache is s:
                with suppress(KeyError):  # the first that is not this slab's
                    indices.extend(map(slab.owners.pop, left))
            if slab is None or not indices:
                for group in groups:  # nothing has been freed: everything is its owner's again
                    group.slab.owners.update(zip(group.addresses, group.indices, strict=True))
                raise self._slub.bad_free(s, slab, left[0])
            groups.append(_Group(slab, left[: len(indices)], indices))
            del left[: len(indices)]
        return groups
