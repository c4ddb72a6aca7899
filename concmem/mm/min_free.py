"""
``vm.min_free_kbytes``: the reserve, and what is made of it in every zone.

Lock: min_free_kbytes_lock (a mutex) holds the value and all watermarks together. Who tests a watermark takes none:
each zone's are written in one store.

Follows ``init_per_zone_wmark_min`` and ``setup_per_zone_wmarks`` of ``mm/page_alloc.c`` of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.watermark import lowmem_reserve, min_free_kbytes, zone_watermarks
from concmem.runtime.api import lockless_reads

if TYPE_CHECKING:
    from concmem.mm.node import PgData
    from concmem.mm.zone import Zone
    from concmem.runtime.api import Runtime


class MinFree:
    """
    The reserve of all zones together, in kB: `kbytes`.

    Args:
        kbytes: at first; ``None``: Linux's formula.
        pagesets: whether per-CPU page sets keep pages.
    """

    __guarded_by__: Final = {"kbytes": lockless_reads("_lock")}

    def __init__(
        self, rt: Runtime, nodes: Sequence[PgData], kbytes: int | None, pagesets: bool
    ) -> None:
        self._nr_cpus = rt.nr_cpus
        self._nodes = nodes
        self._pagesets = pagesets
        self._managed = sum(zone.managed_pages for node in nodes for zone in node.node_zones)
        self._lock = rt.mutex("min_free_kbytes_lock")
        self.kbytes = kbytes or min_free_kbytes(self._managed * 4)
        self._setup_per_zone_wmarks()
        rt.watch(self)

    def set(self, kbytes: int) -> None:
        """
        Write ``vm.min_free_kbytes``. May sleep.

        Raises:
            BadArgument: that is less than 1, or more than half of memory.
        """
        if isinstance(kbytes, bool) or not isinstance(kbytes, int):
            raise BadArgumentType(f"kbytes: expected a whole number, got {kbytes!r}")
        if not 1 <= kbytes <= self._managed * 2:
            raise BadArgument(f"kbytes: must be 1 to {self._managed * 2}, got {kbytes}")
        # Since Linux kernel commit cfd3da1e49bb ("mm: Serialize access to min_free_kbytes") (in v3.3), one at a
        # time: two of them could leave zones with watermarks of different values.
        with self._lock:
            self._write(kbytes)

    def _write(self, kbytes: int) -> None:
        self.kbytes = kbytes
        self._setup_per_zone_wmarks()

    def _setup_per_zone_wmarks(self) -> None:
        for node in self._nodes:
            reserve = lowmem_reserve([zone.managed_pages for zone in node.node_zones])
            for zone in node.node_zones:
                self._setup_wmarks(zone, len(node.cpus) or self._nr_cpus, reserve[zone.index])

    def _setup_wmarks(self, zone: Zone, nr_cpus: int, reserve: list[int]) -> None:
        if zone.managed_pages:
            marks = zone_watermarks(self.kbytes // 4, zone.managed_pages, self._managed)
            zone.setup_watermarks(marks, reserve, nr_cpus, self._pagesets)
        else:
            zone.lowmem_reserve = tuple(reserve)
