"""``concmem top``: CPUs, caches, zones and locks of a machine under load, live."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from concmem.cli.output import command_line
from concmem.cli.running import (
    add_run_options,
    check_delay,
    run_in_view,
    run_options,
    run_scenario,
    show_verdict,
)
from concmem.reports.top import DEFAULT_VIEW, VIEWS

DEFAULT_SCENARIO: Final = "default"
DEFAULT_DELAY: Final = 1.0

_VIEWS: Final = "\n".join(
    f"  {number}  {view.name:7} by {', '.join(f'{key} {word}' for key, word in view.sorts.items())}"
    for number, view in enumerate(VIEWS.values(), 1)
)

DESCRIPTION: Final = f"""\
Run a scenario as `concmem stress` does and show the machine meanwhile, as top(1) does a system: a live
table on a terminal, else one table after each delay. Rates are per second since the look before.

views by their key, and their sort keys:
{_VIEWS}
other keys: tab goes to the next view, r turns the order round, space takes a new look at once, q ends
the run
"""

EPILOG: Final = """\
examples:
  concmem top
  concmem top pressure --cpus 8 --view zones
  concmem top slab-storm --view caches --sort w --delay 0.5
  concmem top --view locks --once --delay 5 | head

exit status: 0 clean, also when ended by q or --once; 1 a rule was broken, 2 nothing was run, 130
interrupted but clean.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "top",
        help="watch the CPUs, caches, zones and locks of a machine under load",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "scenario", nargs="?", default=DEFAULT_SCENARIO, metavar="SCENARIO",
        help=f"name or path of a scenario (default: {DEFAULT_SCENARIO})",
    )  # fmt: skip
    add = parser.add_argument
    add("--view", choices=tuple(VIEWS), default=DEFAULT_VIEW,
        help=f"what to show first (default: {DEFAULT_VIEW})")  # fmt: skip
    add("--sort", metavar="KEY", help="a sort key of that view")
    add("--delay", "-d", type=float, metavar="S", default=DEFAULT_DELAY,
        help=f"host seconds between two looks (default: {DEFAULT_DELAY:g})")  # fmt: skip
    add("--once", "-o", action="store_true", help="show one table, after the delay, and end")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.cli.top_display import TopDisplay
    from concmem.reports.top import check_sort
    from concmem.workloads import load_scenario

    check_delay(args.delay)
    if args.sort is not None:
        check_sort(args.view, args.sort)
    options = run_options(args)
    scenario = load_scenario(args.scenario).changed(**options)
    ran = run_scenario(
        scenario,
        lambda machine: run_in_view(
            machine,
            scenario,
            lambda keys: TopDisplay(machine, keys, args.view, args.sort, args.delay, args.once),
            args.delay,
        ),
        lockstat=True,
    )
    again = command_line("stress", args.scenario, {**options, "runtime": ran.runtime})
    show_verdict(ran.result, again, sys.stderr if args.once else sys.stdout)
    return ran.status
