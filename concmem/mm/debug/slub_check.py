"""
Consistency checks of slabs and free lists of debug caches, and what is repaired.

The caller holds list_lock of the slab's node, or is the only one who knows the slab. Objects that a repair
loses are nobody's and never free again: they count as in use, and are entered as if somebody had them.

Follows ``check_slab``, ``on_freelist``, ``slab_pad_check``, ``alloc_consistency_checks`` and
``free_consistency_checks`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import NotACpu
from concmem.mm.debug.hex_dump import first_other, hex_dump, last_other
from concmem.mm.debug.object_check import ObjectCheck, layout_of
from concmem.mm.debug.object_layout import (
    POISON_INUSE,
    SLUB_RED_ACTIVE,
    SLUB_RED_INACTIVE,
)
from concmem.mm.debug.slub_report import object_addresses
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import FROZEN, INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT, PAGE_TYPE_SLAB
from concmem.units import PAGE_OFFSET, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.slub_report import SlubReporter
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.runtime.api import Runtime, Words


_PADDING = bytes([POISON_INUSE])


class SlubCheck(ObjectCheck):
    """All checks, for all debug caches of a machine."""

    def __init__(self, rt: Runtime, memory: Memory, reporter: SlubReporter) -> None:
        super().__init__(memory, reporter)
        # Not watched: all that is read here is under list_lock. One view for each CPU, see `words`.
        self._words = rt.percpu(memory.words, "slub debug words")
        self._outsiders_words: Words = memory.words()

    def check_slab(self, s: KmemCache, slab: Page) -> bool:
        """Whether *slab* is one, and its counters can be."""
        if slab._mapcount != PAGE_TYPE_SLAB or slab.slab_cache is None:
            self.reporter.slab_err(s, slab, "Not a valid slab page")
            return False
        counters = slab.freelist_counters.second
        objects, inuse = counters >> OBJECTS_SHIFT & OBJECTS_MASK, counters & INUSE_MASK
        max_objects = self._max_objects(s, slab)
        if objects > max_objects:
            self.reporter.slab_err(s, slab, f"objects {objects} > max {max_objects}")
            return False
        if inuse > objects:
            self.reporter.slab_err(s, slab, f"inuse {inuse} > max {objects}")
            return False
        if counters & FROZEN:
            # A debug cache has no CPU slabs: frozen is what a slab is that no longer takes part.
            reason = "Slab disabled since SLUB metadata consistency check failed"
            self.reporter.slab_err(s, slab, reason)
            return False
        if s.layout is not None and s.layout.poison:
            self.slab_pad_check(s, slab)
        return True

    @staticmethod
    def _max_objects(s: KmemCache, slab: Page) -> int:
        return s.objs_per_slab if slab.order == s.order else s.min_objects

    def slab_pad_check(self, s: KmemCache, slab: Page) -> None:
        """Report and restore what was written behind the last object."""
        layout = layout_of(s)
        nr_bytes = PAGE_SIZE << slab.order
        remainder = nr_bytes % s.size
        if not layout.poison or not remainder:
            return
        base = pfn_to_virt(slab.pfn)
        pad = base + nr_bytes - remainder
        data = self._memory.read(pad, remainder)
        if not data.strip(_PADDING):
            return
        first = first_other(data, POISON_INUSE)
        start, end = pad + first, pad + last_other(data, POISON_INUSE)
        self.reporter.slab_err(
            s,
            slab,
            f"Padding overwritten. {start:#018x}-{end:#018x} @offset={start - base}",
            start,
            between=tuple(hex_dump("Padding ", pad, data)),
            after=(self._restore(s, "slab padding", start, end, POISON_INUSE),),
        )

    def setup_slab(self, s: KmemCache, base: int, order: int) -> None:
        """A new slab, before its objects are set up (``setup_slab_debug``)."""
        if layout_of(s).poison:
            self._memory.fill(base, PAGE_SIZE << order, POISON_INUSE)

    def setup_object(self, s: KmemCache, address: int) -> None:
        """An object of a new slab (``setup_object_debug``)."""
        layout = layout_of(s)
        self.init_object(layout, address, SLUB_RED_INACTIVE)
        self.tracks.init_tracking(layout, address)

    def check_empty_slab(self, s: KmemCache, slab: Page) -> None:
        """A slab that nobody else knows any more, before its pages go (``free_slab``)."""
        self.slab_pad_check(s, slab)
        for index in range(slab.objects):
            self.check_object(s, slab, slab.s_mem + index * s.size, SLUB_RED_INACTIVE)

    # -- free lists

    def on_freelist(self, s: KmemCache, slab: Page, search: int) -> bool:
        """
        Whether *search* is on the slab's free list; or for 0, whether the list is one.

        What is wrong with the list or the counters is reported and mended.
        """
        valid = object_addresses(s, slab)
        objects = len(valid)
        words = self._words_of(s)
        shift = s.offset - PAGE_OFFSET
        address = slab.freelist_counters.first
        nr = previous = 0
        while address and nr <= objects:
            if address == search:
                return True
            if address not in valid:
                if not previous:
                    self._clear_freelist(s, slab)
                    return False
                self.reporter.object_err(s, slab, previous, "Freechain corrupt")
                self.reporter.set_freepointer(s, previous, 0)
                break
            previous = address
            address = words[address + shift >> 3]
            nr += 1
        self._check_counts(s, slab, nr)
        return not search

    def _words_of(self, s: KmemCache) -> Words:
        """Free pointers of *s*, as they are meant."""
        words: Words
        try:
            words = self._words.this()
        except NotACpu:  # whoever verifies the machine
            words = self._outsiders_words
        return s.words_for(words)

    def _clear_freelist(self, s: KmemCache, slab: Page) -> None:
        fix = self.reporter.fix_line(s, "Freelist cleared")
        self.reporter.slab_err(s, slab, "Freepointer corrupt", after=(fix,))
        self._mend(s, slab, 0, slab.objects, slab.objects)

    def _check_counts(self, s: KmemCache, slab: Page, nr_free: int) -> None:
        """The counters of a slab with *nr_free* objects on its free list."""
        objects, max_objects = slab.objects, self._max_objects(s, slab)
        freelist = slab.freelist_counters.first
        if objects != max_objects:
            self.reporter.slab_err(
                s,
                slab,
                f"Wrong number of objects. Found {objects} but should be {max_objects}",
                after=(self.reporter.fix_line(s, "Number of objects adjusted"),),
            )
            objects = max_objects
            self._mend(s, slab, freelist, slab.inuse, objects)
        if slab.inuse != objects - nr_free:
            self.reporter.slab_err(
                s,
                slab,
                f"Wrong object count. Counter is {slab.inuse} but counted were {objects - nr_free}",
                after=(self.reporter.fix_line(s, "Object count adjusted"),),
            )
            self._mend(s, slab, freelist, objects - nr_free, objects)

    def _mend(self, s: KmemCache, slab: Page, freelist: int, inuse: int, objects: int) -> None:
        """Set the counters right; the slab goes where it belongs by them."""
        n = s.node[slab.zone.zone_pgdat.node_id]
        n.total_objects_counter.add(objects - slab.objects)
        n.set_slab(slab, freelist, objects << OBJECTS_SHIFT | inuse)
        self.adopt(s, slab)

    def adopt(self, s: KmemCache, slab: Page) -> None:
        """Enter objects that are not free and nobody's as if somebody had them."""
        free = set()
        address = slab.freelist_counters.first
        while address and self.reporter.valid_pointer(s, slab, address) and address not in free:
            free.add(address)
            address = self.reporter.get_freepointer(s, address)
        for index in range(slab.objects):
            address = slab.s_mem + index * s.size
            if address not in free and address not in slab.owners:
                self.init_object(layout_of(s), address, SLUB_RED_ACTIVE)
                slab.owners[address] = s.freepointer_index(address)

    # -- before an allocation, and before a free

    def alloc_consistency_checks(self, s: KmemCache, slab: Page, address: int) -> bool:
        """Whether the free object at *address* may be handed out."""
        if not self.check_slab(s, slab):
            return False
        if not self.reporter.valid_pointer(s, slab, address):
            self.reporter.object_err(s, slab, address, "Freelist Pointer check fails")
            return False
        return self.check_object(s, slab, address, SLUB_RED_INACTIVE)

    def free_consistency_checks(self, s: KmemCache, slab: Page, address: int, raised: bool) -> bool:
        """Whether the object at *address* may be freed. *raised*: nobody has it."""
        reporter = self.reporter
        if not address or not reporter.valid_pointer(s, slab, address):
            reason = f"Invalid object pointer {address:#018x}"
            reporter.slab_err(s, slab, reason, address, raised=raised)
            return False
        if self.on_freelist(s, slab, address):
            reporter.object_err(s, slab, address, "Object already free", raised=raised)
            return False
        if not self.check_object(s, slab, address, SLUB_RED_ACTIVE):
            return False
        if slab.slab_cache is not s:
            # It was of this cache before list_lock was taken: somebody has freed what was not his.
            reporter.object_err(s, slab, address, "page slab pointer corrupt.", raised=raised)
            return False
        return True
