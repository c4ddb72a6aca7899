"""What ``concmem stress`` shows: how far the run is, and afterwards what it found."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from concmem.cli.display import (
    MAX_ROWS,
    events_table,
    lock_table,
    make_live_console,
    make_table,
    print_text,
)
from concmem.cli.stress_slabs import show_slabs
from concmem.mm.statistics import MachineStatistics
from concmem.reports.flows import FLOWS, coverage_line, never_line
from concmem.reports.words import count, percent
from concmem.units import PAGE_SIZE
from concmem.workloads.stress import StressProgress

if TYPE_CHECKING:
    from rich.console import Console

    from concmem.machine import Machine
    from concmem.workloads.result import StressResult

LINE_EVERY: Final = 5.0
"""Seconds between two lines where standard error is no terminal."""

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the machine's own statistics, which cost it time."""

MAX_ERRORS_SHOWN: Final = 10


class LiveProgress:
    """
    A display of a run on standard error: a live one on a terminal, else a line now and then.

    A context manager; call it with each `StressProgress`.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._console = make_live_console(sys.stderr)
        self._live: Live | None = None
        self._last = (0.0, (0,) * machine.runtime.nr_cpus)
        self._rates: list[float] = [0.0] * machine.runtime.nr_cpus
        self._statistics: MachineStatistics | None = None
        self._looked_at = self._line_at = -1e9

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, transient=True, auto_refresh=False)
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
        now = monotonic()
        if self._live is None and now - self._line_at < LINE_EVERY:
            return
        self._line_at = now
        self._measure(progress)
        if now - self._looked_at >= LOOK_EVERY:
            self._looked_at = now
            self._statistics = self._machine.statistics()
        line = self._line(progress)
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._live.update(Group(Text(line), self._table(progress)), refresh=True)

    def _measure(self, progress: StressProgress) -> None:
        """Rates since the last call."""
        seconds, operations = self._last
        passed = progress.seconds - seconds
        if passed > 0:
            self._rates = [
                (new - old) / passed
                for new, old in zip(progress.operations, operations, strict=True)
            ]
        self._last = (progress.seconds, progress.operations)

    def _line(self, progress: StressProgress) -> str:
        free = ""
        if self._statistics is not None:
            zones = [zone for node in self._statistics.nodes for zone in node.zones]
            pages = sum(max(0, zone.nr_free_pages) for zone in zones)
            free = f", {pages * PAGE_SIZE >> 20} MiB free"
        return (
            f"{progress.seconds:6.1f} s {progress.fraction:4.0%}  "
            f"{progress.phase_number}/{progress.nr_phases} {progress.phase or 'ending'}: "
            f"{count(sum(progress.operations))} operations, {count(sum(self._rates))}/s{free}, "
            f"{progress.verifications} verified, {progress.errors} errors"
        )

    def _table(self, progress: StressProgress) -> Table:
        table = make_table("", ("cpu", "operations", "per second"))
        table.title = None
        table.add_column("  most contended locks", no_wrap=True)
        locks = self._statistics.locks[:4] if self._statistics else ()
        for cpu, operations in enumerate(progress.operations[:MAX_ROWS]):
            lock = locks[cpu] if cpu < len(locks) else None
            where = (
                f"  {lock.name} {percent(lock.contentions, lock.acquisitions)}"
                if lock and lock.contentions
                else ""
            )
            table.add_row(f"cpu{cpu}", count(operations), count(self._rates[cpu]), where)
        return table


# -- afterwards


def show_result(console: Console, result: StressResult) -> None:
    """All tables, and what went wrong."""
    console.print(_cpu_table(result))
    console.print(_phase_table(result))
    show_slabs(console, result)
    for table in (lock_table(result.locks), events_table(result.events)):
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    print_text(console, "free blocks by order, 0 to 10, at the end", "bold")
    print_text(console, result.buddyinfo)
    memory = result.memory
    print_text(
        console,
        f"pages: {count(memory.managed)} managed = {count(memory.free)} free + "
        f"{count(memory.cached)} cached + {count(memory.allocated)} allocated\n",
    )
    print_text(console, coverage_line(FLOWS.values(), result.event_totals))
    if never := never_line(FLOWS.values(), result.event_totals):
        print_text(console, never)
    print_text(console, "")
    for error in result.errors[:MAX_ERRORS_SHOWN]:
        print_text(console, f"{error.type}: {error.message}", "red")
        if error.cause:
            print_text(console, f"    caused by {error.cause}")
        if error.where:
            print_text(console, f"    at {error.where}")
    if len(result.errors) > MAX_ERRORS_SHOWN:
        print_text(console, f"and {len(result.errors) - MAX_ERRORS_SHOWN} more (--json has them)")


def verdict_line(result: StressResult, again: str) -> str:
    """The run in one line, with the command line that repeats it."""
    ran = (
        f"{count(result.operations)} operations on {len(result.cpus)} CPUs in "
        f"{result.seconds:.1f} s, verified {result.verifications} times"
    )
    if result.errors:
        more = f" and {len(result.errors) - 1} more" if len(result.errors) > 1 else ""
        verdict = f"BROKEN: {result.errors[0].type}{more} after {ran}"
    elif result.interrupted:
        verdict = f"clean, but interrupted: {ran}"
    else:
        verdict = f"clean: {ran}"
    return f"{verdict}; again with: {again}"


def _cpu_table(result: StressResult) -> Table:
    table = make_table(
        f"CPUs ({result.runtime} runtime, {'with' if result.gil else 'without'} a GIL)",
        (
            *("cpu", "operations", "per second", "share", "host s", "slept", "preempted"),
            *("interrupts", "cross-CPU frees", "failed"),
        ),
    )
    total = result.operations
    for cpu in result.cpus[:MAX_ROWS]:
        table.add_row(
            f"cpu{cpu.cpu}",
            count(cpu.operations),
            count(cpu.rate),
            percent(cpu.operations, total),
            f"{cpu.host.user + cpu.host.system:.2f}",
            count(cpu.host.voluntary_switches),
            count(cpu.host.involuntary_switches),
            count(cpu.interrupts),
            count(cpu.cross_cpu_frees),
            count(cpu.failed),
        )
    if len(result.cpus) > MAX_ROWS:
        table.add_row(f"... {len(result.cpus) - MAX_ROWS} more")
    hosts = [cpu.host for cpu in result.cpus]
    table.add_row(
        "all",
        count(total),
        count(result.rate),
        "",
        f"{sum(host.user + host.system for host in hosts):.2f}",
        count(sum(host.voluntary_switches for host in hosts)),
        count(sum(host.involuntary_switches for host in hosts)),
        count(sum(cpu.interrupts for cpu in result.cpus)),
        count(result.cross_cpu_frees),
        count(result.failed),
        style="bold",
    )
    return table


def _phase_table(result: StressResult) -> Group:
    table = make_table("phases", ("workload", "operations", "seconds", "per second"))
    for phase in result.phases:
        table.add_row(
            phase.name + ("" if phase.complete else " (broken off)"),
            count(phase.operations),
            f"{phase.seconds:.2f}",
            count(phase.operations / phase.seconds if phase.seconds else 0),
        )
    return Group("", table)
