"""Many objects at once on a checked machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import DoubleFree
from concmem.mm.slub_bulk import check_addresses
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from concmem.mm.debug.kasan import Kasan
    from concmem.mm.kmem_cache import Bulk, KmemCache
    from concmem.mm.slub_fast_path import Free


class KasanBulk:
    """Allocates as a cache of any machine does, and frees one by one, into quarantine."""

    def __init__(self, bulk: Bulk, kasan: Kasan, free: Free) -> None:
        self._free = free
        self._bulk = bulk
        self._kasan = kasan

    def alloc_bulk(self, s: KmemCache, nr: int, gfp: int) -> list[int]:
        """See `KmemCache.alloc_bulk`."""
        addresses = self._bulk.alloc_bulk(s, nr, gfp)
        for address in addresses:
            self._kasan.slab_alloc(s, address)
        return addresses

    def free_bulk(self, s: KmemCache, addresses: Sequence[int]) -> None:
        """See `KmemCache.free_bulk`; what others free at the same time is found out one by one, though."""
        s.check_alive()
        left = check_addresses(addresses)
        if len(set(left)) < len(left):
            twice = next(each for each in left if left.count(each) > 1)
            raise DoubleFree(f"addresses: {s.name}: {twice:#x} is in the list more than once")
        for address in left:
            slab = self._kasan.slabs.get(address >> PAGE_SHIFT)
            if slab is None or slab.slab_cache is not s or address not in slab.owners:
                raise self._kasan.bad_free(s, slab, address)
        for address in left:
            self._kasan.slab_free(s, address, self._free)
