"""``concmem slabtop``: the caches of a machine under load, or of a ``/proc/slabinfo``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

from concmem.cli.output import CLEAN, command_line
from concmem.cli.running import (
    RUN_OPTIONS,
    add_run_options,
    check_delay,
    run_in_view,
    run_options,
    run_scenario,
    show_verdict,
)
from concmem.errors import BadArgument
from concmem.reports import slabinfo, slabtop

DEFAULT_SCENARIO: Final = "slab-churn"
DEFAULT_DELAY: Final = 3.0

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
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    check_delay(args.delay)
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
    from concmem.cli.slabtop_display import SlabtopDisplay
    from concmem.workloads import load_scenario

    source = args.scenario if args.scenario is not None else DEFAULT_SCENARIO
    options = run_options(args)
    scenario = load_scenario(source).changed(**options)
    ran = run_scenario(
        scenario,
        lambda machine: run_in_view(
            machine,
            scenario,
            lambda keys: SlabtopDisplay(machine, keys, args.sort, args.delay, args.once),
            args.delay,
        ),
        lockstat=False,
    )
    again = command_line("stress", source, {**options, "runtime": ran.runtime})
    show_verdict(ran.result, again, sys.stderr if args.once else sys.stdout)
    return ran.status
