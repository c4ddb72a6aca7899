"""
Reports about slabs, in the kernel's words.

Nothing here is in the hot path, and nothing takes a lock but that of the log: the caller holds the node's
list_lock, or has parked all CPUs.

Follows ``slab_bug``, ``object_err``, ``slab_err``, ``print_trailer`` and ``print_slab_info`` of
``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.mm.debug.hex_dump import hex_dump
from concmem.mm.debug.report import DebugReport, DebugReports, show_track
from concmem.mm.debug.slub_track import TRACK_ALLOC, TRACK_FREE, SlubTracks
from concmem.mm.freelist import encode
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import OBJECTS_MASK, OBJECTS_SHIFT, show_page_flags
from concmem.units import PAGE_OFFSET, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.report import Track
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.runtime.api import Runtime

VMEMMAP_START: Final = 0xFFFF_EA00_0000_0000
_SIZEOF_PAGE: Final = 64


def page_struct(slab: Page) -> int:
    """Where a kernel would have the page struct of *slab*."""
    return VMEMMAP_START + slab.pfn * _SIZEOF_PAGE


def object_addresses(s: KmemCache, slab: Page) -> range:
    """Where the objects of *slab* are."""
    objects = slab.freelist_counters.second >> OBJECTS_SHIFT & OBJECTS_MASK
    return range(slab.s_mem, slab.s_mem + objects * s.size, s.size)


def slab_info(slab: Page) -> str:
    """``print_slab_info``."""
    return (
        f"Slab {page_struct(slab):#x} objects={slab.objects} used={slab.inuse} "
        f"fp={slab.freelist or 0:#018x} flags={show_page_flags(slab.flags)}"
    )


def bug_lines(name: str, tainted: str, reason: str) -> list[str]:
    """``slab_bug``: the head of a report."""
    return ["=" * 77, f"BUG {name} ({tainted}): {reason}", "-" * 77, ""]


class SlubReporter:
    """Makes reports for all debug caches of a machine."""

    def __init__(
        self, rt: Runtime, memory: Memory, tracks: SlubTracks, reports: DebugReports
    ) -> None:
        self._rt = rt
        self._memory = memory
        self.tracks = tracks
        self.reports = reports

    # -- whole reports

    def object_err(
        self,
        s: KmemCache,
        slab: Page,
        address: int,
        reason: str,
        *,
        fault: tuple[str, int, str] | None = None,
        after: tuple[str, ...] = (),
        raised: bool = False,
    ) -> DebugReport:
        """
        Something is wrong with the object at *address*.

        Args:
            fault: of bytes that are wrong: reason for programs, address, and a line for before the head.
            after: lines for behind the report.
            raised: whether the caller gets an exception as well.
        """
        lines = [fault[2]] if fault else []
        lines += bug_lines(s.name, self.reports.tainted(), reason)
        if self.valid_pointer(s, slab, address):
            lines += self._trailer(s, slab, address)
        else:
            lines += [slab_info(slab), f"Invalid pointer {address:#018x}"]
        lines += self.reports.dump_stack()
        what, where = fault[:2] if fault else (reason, address)
        return self._add(s, what, where, [*lines, *after], address, raised)

    def bytes_err(
        self, s: KmemCache, address: int, fault: tuple[str, int, str], after: tuple[str, ...]
    ) -> DebugReport:
        """More bytes of an object that there is a report about already."""
        return self._add(s, fault[0], fault[1], [fault[2], *after], address, False)

    def slab_err(
        self,
        s: KmemCache,
        slab: Page,
        reason: str,
        address: int = 0,
        *,
        between: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        raised: bool = False,
    ) -> DebugReport:
        """
        Something is wrong with a slab.

        Args:
            address: what it is about, for programs; by default the slab.
            between: lines for before the stack.
        """
        lines = bug_lines(s.name, self.reports.tainted(), reason)
        lines += [slab_info(slab), *between, *self.reports.dump_stack(), *after]
        where = address or pfn_to_virt(slab.pfn)
        return self.reports.add("slab", s.name, reason, where, lines, raised=raised)

    def wrong_cache(self, s: KmemCache, slab: Page | None, address: int) -> DebugReport:
        """An object is freed to *s* that is of another cache, or none (``cache_from_obj``)."""
        owner = None if slab is None else slab.slab_cache
        if owner is None:
            lines = ["virt_to_cache: Object is not a Slab page!"]
        else:
            lines = [f"cache_from_obj: Wrong slab cache. {s.name} but object is from {owner.name}"]
            lines += self.print_tracking(owner, address)
        reason = lines[0].partition(": ")[2]
        lines += self.reports.dump_stack()
        return self.reports.add("slab", s.name, reason, address, lines, raised=True)

    def fix_line(self, s: KmemCache, text: str) -> str:
        """``slab_fix``: what is done about it."""
        return f"FIX {s.name}: {text}"

    def slab_fix(self, s: KmemCache, text: str) -> None:
        """Log that by itself."""
        self.reports.printk(self.fix_line(s, text))

    def trace(self, s: KmemCache, slab: Page, address: int, alloc: bool) -> None:
        """Log an allocation or a free (SLAB_TRACE)."""
        lines = [
            f"TRACE {s.name} {'alloc' if alloc else 'free'} {address:#018x} inuse={slab.inuse} "
            f"fp={slab.freelist or 0:#018x}"
        ]
        if not alloc:
            lines += self._section("Object ", address, s.object_size)
        self.reports.printk(*lines, *self.reports.dump_stack())

    def print_tracking(self, s: KmemCache, address: int) -> list[str]:
        """Who allocated and who freed it, if that is tracked."""
        now = self._rt.jiffies
        allocated, freed = self.both_tracks(s, address)
        return show_track("Allocated", allocated, now) + show_track("Freed", freed, now)

    def both_tracks(self, s: KmemCache, address: int) -> tuple[Track | None, Track | None]:
        """Who allocated, and who freed, the object at *address* last."""
        layout = s.layout
        if layout is None or not PAGE_OFFSET <= address < PAGE_OFFSET + self._memory.size:
            return None, None
        get = self.tracks.get_track
        return get(layout, address, TRACK_ALLOC), get(layout, address, TRACK_FREE)

    # -- pieces

    @staticmethod
    def valid_pointer(s: KmemCache, slab: Page, address: int) -> bool:
        """Whether *address* is 0 or an object of *slab* (``check_valid_pointer``)."""
        # Written out, as it is asked several times for each allocation and each free.
        objects = slab.freelist_counters.second >> OBJECTS_SHIFT & OBJECTS_MASK
        offset = address - slab.s_mem
        return not address or (0 <= offset < objects * s.size and not offset % s.size)

    def get_freepointer(self, s: KmemCache, address: int) -> int:
        """What the free pointer of the object at *address* says."""
        slot = address + s.offset
        stored = self._memory.read_u64(slot)
        return encode(stored, s.random, slot) if s.random else stored

    def set_freepointer(self, s: KmemCache, address: int, value: int) -> None:
        """Mend a free pointer."""
        slot = address + s.offset
        self._memory.write_u64(slot, encode(value, s.random, slot) if s.random else value)

    def _trailer(self, s: KmemCache, slab: Page, address: int) -> list[str]:
        """``print_trailer``."""
        layout = s.layout
        base = pfn_to_virt(slab.pfn)
        lines = self.print_tracking(s, address)
        lines.append(slab_info(slab))
        fp = self.get_freepointer(s, address)
        lines += [f"Object {address:#018x} @offset={address - base} fp={fp:#018x}", ""]
        if layout is not None and layout.red_zone:
            pad = layout.red_left_pad
            lines += self._section("Redzone  ", address - pad, pad)
        elif address > base + 16:
            lines += self._section("Bytes b4 ", address - 16, 16)
        lines += self._section("Object   ", address, min(s.object_size, PAGE_SIZE))
        if layout is not None:
            if layout.red_zone:
                size = s.object_size
                lines += self._section("Redzone  ", address + size, s.inuse - size)
            end = layout.info_end
            lines += self._section("Padding  ", address + end, layout.span - end)
        return lines

    def _section(self, prefix: str, address: int, nr_bytes: int) -> list[str]:
        return hex_dump(prefix, address, self._memory.read(address, nr_bytes))

    def _add(
        self, s: KmemCache, reason: str, where: int, lines: list[str], address: int, raised: bool
    ) -> DebugReport:
        allocated, freed = self.both_tracks(s, address)
        return self.reports.add(
            "slab",
            s.name,
            reason,
            where,
            lines,
            allocated=allocated,
            freed=freed,
            raised=raised,
        )
