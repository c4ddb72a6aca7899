"""What ``concmem slabtop`` shows while a run is on."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.live import Live
from rich.text import Text

from concmem.cli.display import make_live_console
from concmem.reports import slabinfo, slabtop
from concmem.reports.words import count

if TYPE_CHECKING:
    from concmem.cli.keys import Keys
    from concmem.machine import Machine
    from concmem.reports.slabinfo import SlabinfoRow
    from concmem.workloads.stress import StressProgress

STATUS_LINES: Final = 1
"""Lines of the run's own above the table."""


class SlabtopDisplay:
    """
    The machine's caches on standard output: live on a terminal, else a table after each delay.

    A context manager; call it with each `StressProgress`. It ends the run, by `KeyboardInterrupt`,
    when the user types ``q``, or after the first table with *once*.

    Args:
        machine: whose caches.
        keys: where the user's keys come from.
        sort: a key of `slabtop.SORTS`; the user may change it.
        delay: host seconds between two looks at the caches.
        once: show one table, after the first delay.
    """

    def __init__(self, machine: Machine, keys: Keys, sort: str, delay: float, once: bool) -> None:
        self._machine = machine
        self._keys = keys
        self._sort = sort
        self._delay = delay
        self._once = once
        self._console = make_live_console(sys.stdout)
        self._live: Live | None = None
        self._rows: list[SlabinfoRow] = []
        self._status = ""
        self._looked_at = monotonic()
        self.shown = 0
        """Tables shown."""
        self.ended = False
        """Whether this has ended the run."""

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._once:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: StressProgress) -> None:
        if self.ended:
            return  # the run is coming to its end
        self._status = self._status_line(progress)
        self._obey(self._keys.read())
        first = self._live is not None and not self.shown
        if first or monotonic() - self._looked_at >= self._delay:
            self.look()
            if self._once:
                self._end()

    def look(self) -> None:
        """Take a new look at the caches, and show it."""
        self._looked_at = monotonic()
        self._rows = slabinfo.rows(self._machine.statistics())
        self._show()

    def _obey(self, keys: str) -> None:
        for key in keys.lower():
            if key == "q":
                self._end()
            elif key in slabtop.SORTS:
                self._sort = key
                self._show()
            elif key == " ":
                self.look()

    def _end(self) -> None:
        self.ended = True
        raise KeyboardInterrupt

    def _show(self) -> None:
        self.shown += 1
        if self._live is None:
            blank = "\n" if self.shown > 1 else ""
            print(blank + slabtop.render(self._rows, self._sort), end="", flush=True)
            return
        # One line less than the terminal has, or else the cursor's line scrolls the first one out.
        lines = self._console.height - STATUS_LINES - slabtop.HEADER_LINES - 1
        table = slabtop.render(self._rows, self._sort, limit=max(1, lines))
        status = f" {self._status}; by {slabtop.SORTS[self._sort].by}; q ends"
        text = Text(f"{status}\n{table}".rstrip("\n"), no_wrap=True, overflow="crop")
        self._live.update(text, refresh=True)

    @staticmethod
    def _status_line(progress: StressProgress) -> str:
        return (
            f"{progress.seconds:.1f} s {progress.fraction:.0%}, "
            f"{progress.phase or 'ending'}: {count(sum(progress.operations))} operations, "
            f"{progress.errors} errors"
        )
