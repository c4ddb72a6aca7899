"""``concmem slabtop``: the caches of a machine under load, or of a ``/proc/slabinfo``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from concmem.cli.output import (
    BROKEN,
    CLEAN,
    INTERRUPTED,
    USAGE,
    command_line,
    complain,
)
from concmem.errors import BadArgument, ShutdownTimeout
from concmem.reports import slabinfo, slabtop

if TYPE_CHECKING:
    from concmem.cli.slabtop_display import SlabtopDisplay
    from concmem.machine import Machine
    from concmem.workloads import Scenario, StressResult

DEFAULT_SCENARIO: Final = "slab-churn"
DEFAULT_DELAY: Final = 3.0
MAX_DELAY: Final = 24 * 3600.0

PROGRESS_EVERY: Final = 0.1
"""Host seconds between two looks at the keyboard."""

RUN_OPTIONS: Final = ("cpus", "memory", "nodes", "seconds", "ops", "seed", "runtime")

_SORTS: Final = "\n".join(f"  {key}  {sort.by}" for key, sort in slabtop.SORTS.items())

DESCRIPTION: Final = f"""\
Run a scenario as `concmem stress` does and show the slab caches meanwhile, as slabtop(1) does: a
live table on a terminal, else one table after each delay. Or show a given /proc/slabinfo once.

sort keys, which can also be typed while it runs:
{_SORTS}
other keys: space takes a new look at once, q ends the run
"""

EPILOG: Final = """\
examples:
  concmem slabtop --cpus 8 --seconds 60 --sort c
  concmem slabtop --scenario smoke --delay 0.5
  concmem slabtop --once --delay 2 | sort -k 5 -n
  sudo cat /proc/slabinfo | concmem slabtop --file - --sort u

What is free on CPU slabs and CPU partial lists counts as active, as in /proc/slabinfo.

exit status: 0 clean, also when ended by q or --once; 1 a rule was broken, 2 nothing was run or the
file is no slabinfo, 130 interrupted but clean.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "slabtop",
        help="watch the slab caches of a machine under load",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--sort", "-s", choices=tuple(slabtop.SORTS), default=slabtop.DEFAULT_SORT, metavar="KEY",
        help=f"one of {' '.join(slabtop.SORTS)} (default: {slabtop.DEFAULT_SORT})")  # fmt: skip
    add("--delay", "-d", type=float, metavar="S", default=DEFAULT_DELAY,
        help=f"host seconds between two looks (default: {DEFAULT_DELAY:g})")  # fmt: skip
    add("--once", "-o", action="store_true", help="show one table, after the delay, and end")
    add("--file", metavar="FILE", help="show this /proc/slabinfo instead; - for standard input")
    add("--scenario", metavar="SCENARIO",
        help=f"name or path of a scenario (default: {DEFAULT_SCENARIO})")  # fmt: skip
    add("--cpus", type=int, metavar="N", help="simulated CPUs, 1 to 256; each is an OS thread")
    add("--memory", metavar="SIZE", help="such as 256M or 4G; backed by the host where touched")
    add("--nodes", type=int, metavar="N", help="NUMA nodes, 1 to 64")
    add("--seconds", type=float, metavar="S", help="host seconds of the whole run")
    add("--ops", type=int, metavar="N", help="operations of each CPU in the whole run")
    add("--seed", type=int, metavar="N", help="of the workloads' choices and of hesitations")
    add("--runtime", choices=("auto", "free", "jitter"), help="how the CPUs run (default: auto)")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    if not 0.01 <= args.delay <= MAX_DELAY:  # also false for not-a-number
        raise BadArgument(f"--delay: must be 0.01 to {MAX_DELAY:g} seconds, got {args.delay:g}")
    if args.file is None:
        return _watch(args)
    for name in ("scenario", *RUN_OPTIONS):
        if getattr(args, name) is not None:
            raise BadArgument(f"--{name}: is for a run, and --file shows a file")
    try:
        rows = slabinfo.parse(_read(args.file))
    except BadArgument as error:
        raise BadArgument(f"--file: {args.file!r}: {error}") from None
    print(slabtop.render(rows, args.sort), end="")
    return CLEAN


def _read(file: str) -> str:
    try:
        if file == "-" and sys.stdin is None:
            raise BadArgument("file: there is no standard input to read")
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise BadArgument(f"cannot be read: {error}") from None
    return data.decode(errors="replace")


def _watch(args: argparse.Namespace) -> int:
    from concmem.workloads import load_scenario

    source = args.scenario if args.scenario is not None else DEFAULT_SCENARIO
    options = {name: getattr(args, name) for name in RUN_OPTIONS}
    scenario = load_scenario(source).changed(**options)
    try:
        machine = scenario.boot(lockstat=False)
    except (OSError, MemoryError, RuntimeError) as error:  # no memory or threads on this host
        complain(f"the machine cannot be booted: {error}")
        return USAGE
    result: StressResult | None = None
    try:
        result, display = _run(machine, scenario, args)
    finally:
        _close(machine, result)
    if display.ended:  # as the user wanted: a whole run of this command, if not of the scenario
        result = replace(result, interrupted=False)
    again = command_line("stress", source, {**options, "runtime": machine.runtime.name})
    _show_result(result, again, sys.stderr if args.once else sys.stdout)
    if not result.clean:
        return BROKEN
    return INTERRUPTED if result.interrupted else CLEAN


def _run(
    machine: Machine, scenario: Scenario, args: argparse.Namespace
) -> tuple[StressResult, SlabtopDisplay]:
    from concmem.cli.keys import Keys
    from concmem.cli.slabtop_display import SlabtopDisplay
    from concmem.workloads import run_stress

    with (
        Keys() as keys,
        SlabtopDisplay(machine, keys, args.sort, args.delay, args.once) as display,
    ):
        result = run_stress(
            machine, scenario, on_progress=display, progress_every=min(args.delay, PROGRESS_EVERY)
        )
        if not display.shown:  # the run was shorter than the delay
            display.look()
    return result, display


def _close(machine: Machine, result: StressResult | None) -> None:
    """Stop the CPUs. Those of a run that hung cannot be, and the report has said so."""
    try:
        machine.close()
    except ShutdownTimeout as error:
        if result is None or result.clean:
            raise
        complain(error)


def _show_result(result: StressResult, again: str, stream: TextIO) -> None:
    """What went wrong, and the verdict, below the last table."""
    from concmem.cli.display import make_console, print_text
    from concmem.cli.stress_display import MAX_ERRORS_SHOWN, verdict_line

    console = make_console(stream)
    print_text(console, "")
    for error in result.errors[:MAX_ERRORS_SHOWN]:
        print_text(console, f"{error.type}: {error.message}", "red")
    style = "bold green" if result.clean else "bold red"
    print_text(console, verdict_line(result, again), style)
