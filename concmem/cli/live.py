"""A view of a machine that redraws itself while a scenario runs, and obeys keys."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.live import Live
from rich.text import Text

from concmem.cli.display import make_live_console
from concmem.reports.words import count

if TYPE_CHECKING:
    from concmem.cli.keys import Keys
    from concmem.machine import Machine
    from concmem.mm.statistics import MachineStatistics
    from concmem.workloads.stress import StressProgress

STATUS_LINES: Final = 1
"""Lines of the run's own above the table."""


class LiveView(ABC):
    """
    A table of the machine on standard output: live on a terminal, else printed after each delay.

    A context manager; call it with each `StressProgress`. It ends the run, by `KeyboardInterrupt`,
    when the user types ``q``, or after the first table with *once*.

    Args:
        machine: that is shown.
        keys: where the user's keys come from.
        delay: host seconds between two looks at the machine.
        once: show one table, after the first delay.
    """

    def __init__(self, machine: Machine, keys: Keys, delay: float, once: bool) -> None:
        self._machine = machine
        self._keys = keys
        self._delay = delay
        self._once = once
        self._console = make_live_console(sys.stdout)
        self._live: Live | None = None
        self._status = ""
        self._looked_at = monotonic()
        self.shown = 0
        """Tables shown."""
        self.ended = False
        """Whether this has ended the run."""

    # -- what there is to show

    @abstractmethod
    def take(self, stats: MachineStatistics, now: float) -> None:
        """Remember what to show of *stats*, taken at *now*, host seconds since whenever."""

    @abstractmethod
    def table(self, lines: int | None) -> str:
        """What was taken last, as text of at most so many lines; ``None``: of any number."""

    @abstractmethod
    def legend(self) -> str:
        """What is shown, in a few words, and the keys."""

    def obey(self, key: str) -> bool:
        """Change the view as *key* says; whether it says anything."""
        return False

    # -- how it is shown

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
        self._read_keys()
        first = self._live is not None and not self.shown
        if first or monotonic() - self._looked_at >= self._delay:
            self.look()
            if self._once:
                self._end()

    def look(self) -> None:
        """Take a new look at the machine, and show it."""
        self._looked_at = monotonic()
        self.take(self._machine.statistics(), self._looked_at)
        self._show()

    def _read_keys(self) -> None:
        for key in self._keys.read().lower():
            if key == "q":
                self._end()
            elif key == " ":
                self.look()
            elif self.obey(key):
                self._show()

    def _end(self) -> None:
        self.ended = True
        raise KeyboardInterrupt

    def _show(self) -> None:
        self.shown += 1
        if self._live is None:
            blank = "\n" if self.shown > 1 else ""
            print(blank + self.table(None), end="", flush=True)
            return
        # One line less than the terminal has, or else the cursor's line scrolls the first one out.
        lines = max(1, self._console.height - STATUS_LINES - 1)
        text = f" {self._status}; {self.legend()}; q ends\n{self.table(lines)}".rstrip("\n")
        self._live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)

    @staticmethod
    def _status_line(progress: StressProgress) -> str:
        return (
            f"{progress.seconds:.1f} s {progress.fraction:.0%}, "
            f"{progress.phase or 'ending'}: {count(sum(progress.operations))} operations, "
            f"{progress.errors} errors"
        )
