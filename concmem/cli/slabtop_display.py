"""What ``concmem slabtop`` shows while a run is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concmem.cli.live import LiveView
from concmem.reports import slabinfo, slabtop

if TYPE_CHECKING:
    from concmem.cli.keys import Keys
    from concmem.machine import Machine
    from concmem.mm.statistics import MachineStatistics
    from concmem.reports.slabinfo import SlabinfoRow


class SlabtopDisplay(LiveView):
    """
    The machine's caches, as slabtop(1) shows them.

    Args:
        sort: a key of `slabtop.SORTS`; the user may change it.
    """

    def __init__(self, machine: Machine, keys: Keys, sort: str, delay: float, once: bool) -> None:
        super().__init__(machine, keys, delay, once)
        self._sort = sort
        self._rows: list[SlabinfoRow] = []

    def take(self, stats: MachineStatistics, now: float) -> None:
        self._rows = slabinfo.rows(stats)

    def table(self, lines: int | None) -> str:
        limit = None if lines is None else max(1, lines - slabtop.HEADER_LINES)
        return slabtop.render(self._rows, self._sort, limit)

    def legend(self) -> str:
        return f"by {slabtop.SORTS[self._sort].by}"

    def obey(self, key: str) -> bool:
        if key not in slabtop.SORTS:
            return False
        self._sort = key
        return True
