"""Where the memory was when least of it was free, from ``/proc/meminfo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from concmem.reports import meminfo
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.reports.run import Run

_KB_PER_PAGE = PAGE_SIZE >> 10


class MemoryOverview(NamedTuple):
    """The whole machine at one moment; kB. The parts are `total` together."""

    seconds: float
    phase: str
    total: int
    free: int
    """On free lists."""
    cached: int
    """In per-CPU page sets."""
    slab: int
    """Slabs and large blocks of kmalloc."""
    vmalloc: int
    user: int
    """Pages of processes, shared memory and page tables."""
    other: int
    """Pages that callers have straight from the page allocator."""
    available: int
    """Of it, what could be allocated without an emergency."""

    @property
    def parts(self) -> dict[str, int]:
        """What `total` is made of, by name."""
        return {
            "free": self.free,
            "in page sets": self.cached,
            "slabs": self.slab,
            "vmalloc": self.vmalloc,
            "processes": self.user,
            "other pages": self.other,
        }


def memory_overview(run: Run) -> MemoryOverview | None:
    """``None`` when nobody looked."""
    moment = run.busiest
    if moment is None:
        return None
    values = meminfo.parse(moment.meminfo)
    cached = sum(zone.cached for zone in moment.zones) * _KB_PER_PAGE
    known = {
        # Not MemFree, which drifts by what CPUs have not folded in.
        "free": sum(zone.free for zone in moment.zones) * _KB_PER_PAGE,
        "cached": cached,
        "slab": values.get("Slab", 0),
        "vmalloc": values.get("VmallocUsed", 0),
        "user": sum(values.get(name, 0) for name in ("AnonPages", "Shmem", "PageTables")),
    }
    total = values.get("MemTotal", 0)
    return MemoryOverview(
        seconds=moment.seconds,
        phase=moment.phase,
        total=total,
        # The counters are not of one moment: what they have too much is taken from here.
        other=max(0, total - sum(known.values())),
        available=values.get("MemAvailable", 0),
        **known,
    )
