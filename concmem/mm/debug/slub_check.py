"""
Consistency checks of slabs and objects of debug caches, and what is repaired.

The caller holds list_lock of the slab's node, or is the only one who knows the slab. Objects that a repair
loses are nobody's and never free again: they count as in use, and are entered as if somebody had them.

Follows ``check_slab``, ``check_object``, ``on_freelist``, ``slab_pad_check``, ``alloc_consistency_checks`` and
``free_consistency_checks`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.errors import NotACpu
from concmem.mm.debug.hex_dump import first_other, hex_dump, last_other
from concmem.mm.debug.object_layout import (
    POISON_END,
    POISON_FREE,
    POISON_INUSE,
    SLUB_RED_ACTIVE,
    SLUB_RED_INACTIVE,
)
from concmem.mm.debug.slub_report import object_addresses
from concmem.mm.freelist import encode
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import FROZEN, INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT, PAGE_TYPE_SLAB
from concmem.mm.slab_geometry import ORIG_SIZE_SIZE, WORD
from concmem.units import PAGE_OFFSET, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from concmem.mm.debug.object_layout import ObjectLayout
    from concmem.mm.debug.slub_report import SlubReporter
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.runtime.api import Runtime, Words


_PADDING = bytes([POISON_INUSE])


class SlubCheck:
    """The checks, for all debug caches of a machine."""

    def __init__(self, rt: Runtime, memory: Memory, reporter: SlubReporter) -> None:
        self._memory = memory
        self.reporter = reporter
        self.tracks = reporter.tracks
        # Not watched: all that is read here is under list_lock. One view for each CPU, see `words`.
        self._words = rt.percpu(memory.words, "slub debug words")
        self._outsiders_words: Words = memory.words()

    # -- slabs

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
        layout = _layout(s)
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
        if _layout(s).poison:
            self._memory.fill(base, PAGE_SIZE << order, POISON_INUSE)

    def setup_object(self, s: KmemCache, address: int) -> None:
        """An object of a new slab (``setup_object_debug``)."""
        layout = _layout(s)
        self.init_object(layout, address, SLUB_RED_INACTIVE)
        self.tracks.init_tracking(layout, address)

    def check_empty_slab(self, s: KmemCache, slab: Page) -> None:
        """A slab that nobody else knows any more, before its pages go (``free_slab``)."""
        self.slab_pad_check(s, slab)
        for index in range(slab.objects):
            self.check_object(s, slab, slab.s_mem + index * s.size, SLUB_RED_INACTIVE)

    # -- objects

    def init_object(
        self, layout: ObjectLayout, address: int, value: int, orig_size: int | None = None
    ) -> None:
        """Write what an object has around it, and in it, when it becomes free or is handed out."""
        if value == SLUB_RED_INACTIVE:
            pieces = layout.free_pieces
        elif orig_size is None or orig_size == layout.object_size or not layout.red_zone:
            pieces = layout.used_pieces
        else:
            pieces = layout.init_pieces(value, orig_size)
        base = address - layout.red_left_pad
        write = self._memory.write
        for start, _, data in pieces:
            write(base + start, data)

    def check_object(self, s: KmemCache, slab: Page, address: int, value: int) -> bool:
        """
        Whether everything is there that has to be; if not, it is reported and restored.

        Args:
            value: of the red zones: whether the object is free or in use.
        """
        layout = _layout(s)
        # In one read, and mostly in two comparisons; only what is wrong is looked at piece by piece.
        whole = self._memory.read(address - layout.red_left_pad, layout.size)
        in_use = value == SLUB_RED_ACTIVE
        for start, end, expected in layout.used_state if in_use else layout.free_state:
            if whole[start:end] != expected:
                return self._check_object_bytes(s, slab, address, value)
        if in_use and layout.orig_size_offset and layout.red_zone:
            start = layout.red_left_pad + layout.orig_size_offset
            orig_size = int.from_bytes(whole[start : start + ORIG_SIZE_SIZE], "little")
            nr_bytes = layout.object_size - orig_size
            end = layout.red_left_pad + layout.object_size
            if nr_bytes > 0 and whole[end - nr_bytes : end] != layout.red_active[:nr_bytes]:
                return self._check_object_bytes(s, slab, address, value)
        if in_use and not layout.freeptr_outside:
            return True  # its owner has written where the free pointer was
        start = layout.red_left_pad + s.offset
        following = int.from_bytes(whole[start : start + WORD], "little")
        if s.random:
            following = encode(following, s.random, address + s.offset)
        if self.reporter.valid_pointer(s, slab, following):
            return True
        return self._check_freepointer(s, slab, address, in_use)

    def _check_freepointer(self, s: KmemCache, slab: Page, address: int, in_use: bool) -> bool:
        """Whether the free pointer leads to an object of the slab, or nowhere; if not, it is mended."""
        if in_use and not _layout(s).freeptr_outside:
            return True
        following = self.reporter.get_freepointer(s, address)
        if self.reporter.valid_pointer(s, slab, following):
            return True
        self.reporter.object_err(s, slab, address, "Freepointer corrupt")
        # What followed is lost, but known not to be free.
        self.reporter.set_freepointer(s, address, 0)
        return False

    def _check_object_bytes(self, s: KmemCache, slab: Page, address: int, value: int) -> bool:
        """Piece by piece, in the kernel's order. False: something was wrong."""
        whole_report = True
        for what, start, nr_bytes, byte in self._expected(s, address, value):
            if not self._check_bytes(s, slab, address, what, start, nr_bytes, byte, whole_report):
                whole_report = False
        pointer_ok = self._check_freepointer(s, slab, address, value == SLUB_RED_ACTIVE)
        return whole_report and pointer_ok

    def _expected(
        self, s: KmemCache, address: int, value: int
    ) -> Iterator[tuple[str, int, int, int]]:
        """What it is called, address, bytes, and what each of them must be."""
        layout = _layout(s)
        size, end = layout.object_size, address + layout.object_size
        in_use = value == SLUB_RED_ACTIVE
        if layout.red_zone:
            pad = layout.red_left_pad
            yield "Left Redzone", address - pad, pad, value
            yield "Right Redzone", end, layout.inuse - size, value
            if in_use:
                rest = size - self.tracks.get_orig_size(layout, address)
                yield "kmalloc Redzone", end - rest, rest, value
        elif layout.poison:
            yield "Alignment padding", end, layout.inuse - size, POISON_INUSE
        if layout.object_poison and not in_use:
            yield "Poison", address, size - 1, POISON_FREE
            yield "End Poison", end - 1, 1, POISON_END
        if layout.poison:
            start = layout.info_end
            yield "Object padding", address + start, layout.span - start, POISON_INUSE

    def _check_bytes(
        self,
        s: KmemCache,
        slab: Page,
        address: int,
        what: str,
        start: int,
        nr_bytes: int,
        byte: int,
        whole_report: bool,
    ) -> bool:
        """``check_bytes_and_report``."""
        data = self._memory.read(start, nr_bytes) if nr_bytes > 0 else b""
        first = first_other(data, byte)
        if first < 0:
            return True
        bad, end = start + first, start + last_other(data, byte)
        line = (
            f"[{what} overwritten] {bad:#018x}-{end:#018x} @offset={bad - pfn_to_virt(slab.pfn)}. "
            f"First byte {data[first]:#x} instead of {byte:#x}"
        )
        fault = f"{what} overwritten", bad, line
        # Restored after it was shown.
        after = (self._restore_line(s, what, bad, end, byte),)
        if whole_report:
            self.reporter.object_err(s, slab, address, "Object corrupt", fault=fault, after=after)
        else:
            self.reporter.bytes_err(s, address, fault, after)
        self._memory.fill(bad, end - bad + 1, byte)
        return False

    def _restore(self, s: KmemCache, what: str, start: int, end: int, byte: int) -> str:
        """``restore_bytes``, *end* inclusive; the line that says so."""
        self._memory.fill(start, end - start + 1, byte)
        return self._restore_line(s, what, start, end, byte)

    def _restore_line(self, s: KmemCache, what: str, start: int, end: int, byte: int) -> str:
        text = f"Restoring {what} {start:#018x}-{end:#018x}={byte:#x}"
        return self.reporter.fix_line(s, text)

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
                self.init_object(_layout(s), address, SLUB_RED_ACTIVE)
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


def _layout(s: KmemCache) -> ObjectLayout:
    assert s.layout is not None, f"{s.name} is no debug cache"
    return s.layout
