"""
Reports of wrong accesses, in the shape of KASAN's (``mm/kasan/report.c`` and ``report_generic.c``, Linux 6.12).

No lock: the shadow and the tracks may change meanwhile, as they may in a kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import DoubleFree
from concmem.mm.debug.report import comm
from concmem.mm.debug.shadow import (
    GRANULE,
    PAGE_FREE,
    PAGE_REDZONE,
    SLAB_FREE,
    SLAB_REDZONE,
    Shadow,
)
from concmem.mm.debug.stack_depot import save_stack
from concmem.units import PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from concmem.errors import KernelBug
    from concmem.mm.debug.page_report import PageReporter
    from concmem.mm.debug.report import DebugReports, Track
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.mem_map import MemMap
    from concmem.runtime.api import Runtime

ROW: Final = 16
"""Bytes of shadow in a line."""

ROWS_AROUND: Final = 2
"""Lines before and after the one that the bad address is in."""

_LINE: Final = "=" * 66

_BUG_TYPES: Final = {
    PAGE_REDZONE: "slab-out-of-bounds",
    SLAB_REDZONE: "slab-out-of-bounds",
    PAGE_FREE: "use-after-free",
    SLAB_FREE: "slab-use-after-free",
}


class KasanReporter:
    """Of one machine."""

    def __init__(
        self,
        rt: Runtime,
        mem_map: MemMap,
        shadow: Shadow,
        reports: DebugReports,
        page_reporter: PageReporter,
        tracks: Callable[[int], tuple[Track | None, Track | None]],
    ) -> None:
        self._rt = rt
        self._mem_map = mem_map
        self._shadow = shadow
        self._reports = reports
        self._page_reporter = page_reporter
        self._tracks = tracks

    def report_access(
        self, address: int, nr_bytes: int, is_write: bool, bad: int, raised: bool
    ) -> str:
        """A read or write of *nr_bytes*, the one at *bad* being the first that is wrong; the text."""
        verb = "Write" if is_write else "Read"
        what = f"{verb} of size {nr_bytes} at addr {address:016x}"
        return self._report(self._bug_type(bad), what, address, bad, raised)

    def report_free(self, address: int, error: KernelBug) -> str:
        """A free of what nobody has; the text."""
        kind = "double-free" if isinstance(error, DoubleFree) else "invalid-free"
        return self._report(kind, f"Free of addr {address:016x}", address, address, True)

    def _bug_type(self, bad: int) -> str:
        """``get_shadow_bug_type``."""
        value = self._shadow.read(bad, 1)[0]
        if 0 < value < GRANULE:  # accessible in part: what follows says more
            value = self._shadow.read(bad + GRANULE, 1)[0]
        return _BUG_TYPES.get(value, "out-of-bounds")

    def _report(self, bug_type: str, what: str, address: int, bad: int, raised: bool) -> str:
        cpu = self._reports.cpu()
        s, start = self._object_of(bad)
        allocated, freed = self._tracks(start) if s is not None else (None, None)
        lines = [
            _LINE,
            f"BUG: KASAN: {bug_type} in {save_stack(3).caller}",
            f"{what} by task {comm(cpu, self._rt.nr_cpus)}/{cpu}",
            "",
            *self._reports.dump_stack(),
            "",
            *_show_track("Allocated", allocated),
            *_show_track("Freed", freed),
        ]
        if s is not None:
            size = self._alloc_size(s, start)
            lines += [*_describe_object(s, start, size, bad, bug_type), ""]
        lines += [*self._describe_page(bad), *self._memory_state(bad), _LINE]
        subject = s.name if s is not None else "page"
        report = self._reports.add(
            "kasan", subject, bug_type, bad, lines, allocated=allocated, freed=freed, raised=raised
        )
        return report.text

    def _object_of(self, address: int) -> tuple[KmemCache | None, int]:
        """The cache, and the start of the object that *address* is in or next to (``nearest_obj``)."""
        slab = self._mem_map.slabs.get(address >> PAGE_SHIFT)
        s = slab.slab_cache if slab is not None else None
        if slab is None or s is None:
            return None, 0
        index = (address - slab.s_mem) // s.size
        return s, slab.s_mem + s.size * min(max(0, index), max(0, slab.objects - 1))

    def _alloc_size(self, s: KmemCache, start: int) -> int:
        """What its owner may use of an object; all of one that has none (``kasan_get_alloc_size``)."""
        size = (self._shadow.first_bad(start, s.object_size) or start + s.object_size) - start
        return size or s.object_size

    def _describe_page(self, bad: int) -> list[str]:
        if not PAGE_OFFSET <= bad < PAGE_OFFSET + (self._mem_map.nr_pages << PAGE_SHIFT):
            return []
        pfn = bad - PAGE_OFFSET >> PAGE_SHIFT
        page = self._mem_map.head(pfn) or self._mem_map.page(pfn)
        return [
            "The buggy address belongs to the physical page:",
            *self._page_reporter.dump_page(page, "kasan: bad access detected"),
            "",
        ]

    def _memory_state(self, bad: int) -> list[str]:
        """The shadow around *bad* (``print_memory_metadata``)."""
        nr_bytes = ROW * GRANULE
        middle = bad & -nr_bytes
        lines = ["Memory state around the buggy address:"]
        for i in range(-ROWS_AROUND, ROWS_AROUND + 1):
            row = middle + i * nr_bytes
            if row < PAGE_OFFSET or row >= PAGE_OFFSET + self._mem_map.nr_pages * PAGE_SIZE:
                continue
            mark = " " if i else ">"
            lines.append(f"{mark}{row:016x}: {self._shadow.read(row, ROW).hex(' ')}")
            if not i:
                lines.append("^".rjust(3 + 16 + (bad - row) // GRANULE * 3 + 1))
        return lines


def _show_track(what: str, track: Track | None) -> list[str]:
    if track is None:
        return []
    stack = track.stack.lines if track.stack is not None else ("(stack is not available)",)
    return [f"{what} by task {track.pid}:", *(f" {line}" for line in stack), ""]


def _describe_object(s: KmemCache, start: int, size: int, bad: int, bug_type: str) -> list[str]:
    """``describe_object_addr``; *size*: what was asked for."""
    if bad < start:
        where = f"{start - bad} bytes to the left"
    elif bad >= start + size:
        where = f"{bad - start - size} bytes to the right"
    else:
        where = f"{bad - start} bytes inside"
    state = {"slab-out-of-bounds": "allocated ", "slab-use-after-free": "freed "}.get(bug_type, "")
    return [
        f"The buggy address belongs to the object at {start:016x}",
        f" which belongs to the cache {s.name} of size {s.object_size}",
        f"The buggy address is located {where} of",
        f" {state}{size}-byte region [{start:016x}, {start + size:016x})",
    ]
