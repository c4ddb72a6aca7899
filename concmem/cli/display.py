"""Tables for people, with rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO, Final

from rich.console import Console
from rich.table import Table

from concmem.reports.words import count, milliseconds, percent
from concmem.runtime.lockstat import LockClassStatistics

TABLE_WIDTH: Final = 120
"""
Columns that tables may use at least. On a narrower terminal their lines wrap: a number that is cut
is worse than a table that is ugly.
"""

MAX_ROWS: Final = 32
"""CPUs shown in a table; ``--json`` has them all."""

MAX_LOCKS: Final = 8
"""Lock classes shown."""


class _Console(Console):
    """A console that leaves a broken pipe to the caller."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def make_console(stream: IO[str]) -> Console:
    """A console on *stream*, wide enough for the tables."""
    console = _Console(file=stream, highlight=False, markup=False)
    if not stream.isatty() or console.width < TABLE_WIDTH:
        console.width = TABLE_WIDTH
    return console


def make_live_console(stream: IO[str]) -> Console:
    """A console on *stream* for a display that redraws itself: as wide as the terminal."""
    width = None if stream.isatty() else TABLE_WIDTH
    return _Console(file=stream, width=width, highlight=False, markup=False)


def print_text(console: Console, text: str, style: str | None = None) -> None:
    """*text* as it is: not wrapped, not interpreted."""
    console.print(text, style=style, soft_wrap=True, end="" if text.endswith("\n") else "\n")


def make_table(title: str, columns: Sequence[str], text_columns: int = 1) -> Table:
    """A table whose first *text_columns* columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text_columns else "right", no_wrap=True)
    return table


def lock_table(locks: Iterable[LockClassStatistics]) -> Table | None:
    """The most contended lock classes; ``None`` when no lock was waited for."""
    rows = [lock for lock in locks if lock.contentions][:MAX_LOCKS]
    if not rows:
        return None
    table = make_table(
        "lock contention (host time)",
        ("lock class", "acquired", "contended", "share", "waited ms", "longest", "held ms"),
    )
    table.add_column("most waits in", no_wrap=True)
    for lock in rows:
        table.add_row(
            lock.name,
            count(lock.acquisitions),
            count(lock.contentions),
            percent(lock.contentions, lock.acquisitions),
            milliseconds(lock.wait.total),
            milliseconds(lock.wait.max),
            milliseconds(lock.hold.total),
            lock.contention_points[0][0] if lock.contention_points else "",
        )
    return table


def events_table(events: dict[str, int], per_line: int = 3) -> Table | None:
    """The event counters that are not zero; ``None`` when all are."""
    counted = [(name, value) for name, value in events.items() if value]
    if not counted:
        return None
    table = Table(
        title="memory events", title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for _ in range(per_line):
        table.add_column("event", no_wrap=True)
        table.add_column("times", justify="right", no_wrap=True)
    for first in range(0, len(counted), per_line):
        cells: list[str] = []
        for name, value in counted[first : first + per_line]:
            cells += [name, count(value)]
        table.add_row(*cells)
    return table
