"""
Looking at all of a cache: every slab of a debug cache, and what is left of a cache that is to go.

Follows ``validate_slab_cache`` and ``list_slab_objects`` of ``mm/slub.c``, Linux 6.12. Empty slabs, which have a
list of their own here, count as partial; full slabs are looked at in every debug cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import CacheBusy
from concmem.mm.debug.object_layout import SLUB_RED_ACTIVE, SLUB_RED_INACTIVE
from concmem.mm.debug.slub_report import bug_lines, slab_info
from concmem.mm.memory import pfn_to_virt

if TYPE_CHECKING:
    from concmem.mm.debug.slub_check import SlubCheck
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page


class SlubValidate:
    """For all caches of a machine."""

    def __init__(self, check: SlubCheck) -> None:
        self._check = check
        self._reporter = check.reporter

    def validate_slab_cache(self, s: KmemCache) -> int:
        """Check everything of a debug cache, which no CPU keeps anything of; slabs looked at."""
        return sum(self._validate_slab_node(s, n) for n in s.node)

    def _validate_slab_node(self, s: KmemCache, n: KmemCacheNode) -> int:
        with n.list_lock:
            partial = [*n.slabs_partial, *n.slabs_free]
            full = list(n.slabs_full)
            nr_partial = n.nr_partial + n.nr_free_slabs
            nr_slabs = n.nr_slabs - len(n.slabs_disabled)
            for slab in partial + full:
                self._validate_slab(s, slab)
            count = len(partial)
            if count != nr_partial:
                text = f"{count} partial slabs counted but counter={nr_partial}"
                self._miscounted(s, f"SLUB {s.name}: {text}", text)
            count += len(full)
            if count != nr_slabs:
                text = f"{count} slabs counted but counter={nr_slabs}"
                self._miscounted(s, f"SLUB: {s.name} {text}", text)
        return count

    def _miscounted(self, s: KmemCache, line: str, reason: str) -> None:
        self._reporter.reports.add("slab", s.name, reason, 0, [line])

    def _validate_slab(self, s: KmemCache, slab: Page) -> None:
        """Caller holds list_lock."""
        check = self._check
        if not check.check_slab(s, slab) or not check.on_freelist(s, slab, 0):
            return
        # Now there is a valid free list.
        free = set()
        address = slab.freelist or 0
        while address:
            free.add(address)
            address = self._reporter.get_freepointer(s, address)
        for index in range(slab.objects):
            address = slab.s_mem + index * s.size
            value = SLUB_RED_INACTIVE if address in free else SLUB_RED_ACTIVE
            if not check.check_object(s, slab, address, value):
                break

    # -- a cache that is to go

    def objects_remaining(self, s: KmemCache) -> CacheBusy:
        """Report what is live (``list_slab_objects``). Caller holds slab_mutex."""
        live = []
        for n in s.node:
            with n.list_lock:
                slabs = [*n.slabs_partial, *n.slabs_full, *n.slabs_disabled]
            for slab in slabs:
                live += sorted(slab.owners)
                self._report_slab(s, slab)
        shown = ", ".join(hex(address) for address in live[:3])
        return CacheBusy(
            f"cache: {s.name} still has {len(live)} objects ({shown}{', ...' if live[3:] else ''}): "
            "Objects remaining on __kmem_cache_shutdown(), see the kernel log"
        )

    def _report_slab(self, s: KmemCache, slab: Page) -> None:
        base = pfn_to_virt(slab.pfn)
        reason = "Objects remaining on __kmem_cache_shutdown()"
        reporter = self._reporter
        lines = [*bug_lines(s.name, reporter.reports.tainted(), reason), slab_info(slab)]
        for address in sorted(slab.owners):
            lines.append(f"Object {address:#018x} @offset={address - base}")
            lines += reporter.print_tracking(s, address)
        reporter.reports.add("slab", s.name, reason, base, lines, raised=True)
