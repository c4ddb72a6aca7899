"""What ``concmem top`` shows while a run is on."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from concmem.cli.live import LiveView
from concmem.reports.top import VIEWS, Look, render

if TYPE_CHECKING:
    from concmem.cli.keys import Keys
    from concmem.machine import Machine
    from concmem.mm.statistics import MachineStatistics


class TopDisplay(LiveView):
    """
    One of the views of :mod:`concmem.reports.top`; the user may change it, and how it is sorted.

    Args:
        view: the one to begin with.
        sort: its sort key; ``None``: its first.
    """

    def __init__(
        self,
        machine: Machine,
        keys: Keys,
        view: str,
        sort: str | None,
        delay: float,
        once: bool,
    ) -> None:
        super().__init__(machine, keys, delay, once)
        self._view = view
        self._sorts = {name: next(iter(table.sorts)) for name, table in VIEWS.items()}
        if sort is not None:
            self._sorts[view] = sort
        self._reverse = False
        self._before = self._now = Look(machine.statistics(), monotonic())

    def take(self, stats: MachineStatistics, now: float) -> None:
        self._before, self._now = self._now, Look(stats, now)

    def table(self, lines: int | None) -> str:
        limit = None if lines is None else max(1, lines - 1)  # the columns have a line
        return render(
            self._view, self._now, self._before, self._sorts[self._view], self._reverse, limit
        )

    def legend(self) -> str:
        word = VIEWS[self._view].sorts[self._sorts[self._view]]
        return f"{self._view} by {word}, tab for more"

    def obey(self, key: str) -> bool:
        names = list(VIEWS)
        if key == "\t":
            self._view = names[(names.index(self._view) + 1) % len(names)]
        elif key.isdecimal() and 1 <= int(key) <= len(names):
            self._view = names[int(key) - 1]
        elif key == "r":
            self._reverse = not self._reverse
        elif key in VIEWS[self._view].sorts:
            self._sorts[self._view] = key
        else:
            return False
        return True
