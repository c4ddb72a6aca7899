"""
``/proc/meminfo``: memory of the whole machine, in kB (1024 bytes).

Modelled: MemTotal, MemFree, MemAvailable, KReclaimable, Slab, SReclaimable, SUnreclaim, VmallocTotal,
VmallocUsed, CmaTotal, CmaFree and the DirectMap lines; of processes AnonPages, Mapped, Shmem, PageTables,
CommitLimit and Committed_AS. Hugepagesize is a constant of x86-64. Every other line is 0: there is no
page cache, swap or huge page.

Pages of shared memory count as Cached, and all pages of processes as Inactive(anon), since nothing scans
them. Mapped is shared memory only: there are no other files.

SReclaimable is the slabs of caches with SLAB_RECLAIM_ACCOUNT. KReclaimable is the same number, as
nothing else is reclaimable. Slab includes the
large blocks of ``kmalloc``.

MemFree is the zone counters, which drift from the free lists by what the CPUs have not folded in.
Balloon is newer than 6.12.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument
from concmem.reports.zones import all_zones, zone_counters
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.statistics import MachineStatistics

NAMES: Final = (
    *("MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapCached"),
    *("Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)", "Inactive(file)"),
    *("Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Zswap", "Zswapped"),
    *("Dirty", "Writeback", "AnonPages", "Mapped", "Shmem"),
    *("KReclaimable", "Slab", "SReclaimable", "SUnreclaim"),
    *("KernelStack", "PageTables", "SecPageTables", "NFS_Unstable", "Bounce", "WritebackTmp"),
    *("CommitLimit", "Committed_AS", "VmallocTotal", "VmallocUsed", "VmallocChunk", "Percpu"),
    *("AnonHugePages", "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped"),
    *("CmaTotal", "CmaFree", "Balloon"),
    *("HugePages_Total", "HugePages_Free", "HugePages_Rsvd", "HugePages_Surp"),
    *("Hugepagesize", "Hugetlb", "DirectMap4k", "DirectMap2M", "DirectMap1G"),
)
"""The lines, in the kernel's order."""

_LINE: Final = re.compile(r"(\S+): +([0-9]{1,20})(?: kB)?")

_KB_PER_PAGE: Final = PAGE_SIZE >> 10
_KB_PER_2M: Final = 2 << 10
_KB_PER_1G: Final = 1 << 20
_VMALLOC_TOTAL_KB: Final = (1 << 35) - 1


def render(stats: MachineStatistics) -> str:
    """The text of the file. HugePages_* are counts of huge pages and have no unit."""
    values = _values(stats)
    lines = []
    for name in NAMES:
        unit = "" if name.startswith("HugePages_") else " kB"
        lines.append(f"{name + ':':<16}{values.get(name, 0):8d}{unit}\n")
    return "".join(lines)


def parse(text: str) -> dict[str, int]:
    """
    The lines of a ``/proc/meminfo``, of this model or of a Linux, by name; kB, or huge pages.

    Raises:
        BadArgument: *text* is none; with the number of the line.
    """
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadArgument(f"meminfo: line {number}: not a value: {line[:80]!r}")
        values[match[1]] = int(match[2])
    return values


def totalreserve_pages(stats: MachineStatistics) -> int:
    """
    Pages no ordinary allocation can have (``calculate_totalreserve_pages``).

    Of each zone: its high watermark and largest lowmem reserve, but not more than it manages.
    """
    return sum(
        min(zone.managed, zone.watermark_high + max(zone.lowmem_reserve, default=0))
        for zone in all_zones(stats)
    )


def available_pages(stats: MachineStatistics) -> int:
    """
    Pages that could be allocated without swapping (``si_mem_available``).

    Of reclaimable slabs, half or the low watermarks, whichever is less, count as in use. The kernel
    adds a part of the page cache too, which is 0 here.
    """
    low = sum(zone.watermark_low + zone.watermark_boost for zone in all_zones(stats))
    reclaimable = sum(node.nr_slab_reclaimable for node in stats.nodes)
    reclaimable -= min(reclaimable // 2, low)
    return max(0, _free_pages(stats) - totalreserve_pages(stats) + reclaimable)


def _free_pages(stats: MachineStatistics) -> int:
    return sum(zone_counters(zone)["nr_free_pages"] for zone in all_zones(stats))


def _values(stats: MachineStatistics) -> dict[str, int]:
    """The modelled lines, kB (huge pages: number)."""
    zones = list(all_zones(stats))
    reclaimable = sum(node.nr_slab_reclaimable for node in stats.nodes)
    unreclaimable = sum(node.nr_slab_unreclaimable for node in stats.nodes)
    pages = {
        "MemTotal": sum(zone.managed for zone in zones),
        "MemFree": _free_pages(stats),
        "MemAvailable": available_pages(stats),
        "KReclaimable": reclaimable,
        "Slab": reclaimable + unreclaimable,
        "SReclaimable": reclaimable,
        "SUnreclaim": unreclaimable,
        "VmallocUsed": 0 if stats.vmalloc is None else stats.vmalloc.nr_vmalloc_pages,
        **_user_pages(stats),
        "CmaTotal": sum(zone.cma for zone in zones),
        "CmaFree": sum(zone_counters(zone)["nr_free_cma"] for zone in zones),
    }
    return {
        **{name: nr * _KB_PER_PAGE for name, nr in pages.items()},
        **_direct_map(sum(zone.present for zone in zones)),
        "VmallocTotal": _VMALLOC_TOTAL_KB
        if stats.vmalloc is None
        else (stats.vmalloc.size - 1) >> 10,
        "Hugepagesize": _KB_PER_2M,
    }


def _user_pages(stats: MachineStatistics) -> dict[str, int]:
    """Memory of processes, pages."""
    user = stats.user
    if user is None:
        return {}
    anon, shmem = user.total("nr_anon_pages"), user.total("nr_shmem")
    return {
        "Cached": shmem,
        "Inactive": anon + shmem,
        "Inactive(anon)": anon + shmem,
        "AnonPages": anon,
        "Mapped": user.total("nr_mapped"),
        "Shmem": shmem,
        "PageTables": user.total("nr_page_table_pages"),
        "CommitLimit": user.commit_limit,
        "Committed_AS": user.committed_as,
    }


def _direct_map(present_pages: int) -> dict[str, int]:
    """All memory, mapped by the largest pages that fit, as if it had no holes; kB."""
    size = present_pages * _KB_PER_PAGE
    by_1g = size - size % _KB_PER_1G
    by_2m = size - by_1g - size % _KB_PER_2M
    return {"DirectMap4k": size - by_1g - by_2m, "DirectMap2M": by_2m, "DirectMap1G": by_1g}
