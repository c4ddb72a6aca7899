"""``concmem replay``: run a program under a schedule that was found."""

from __future__ import annotations

import argparse
from typing import Final

from concmem.cli import targets
from concmem.cli.output import USAGE, complain
from concmem.errors import ReplayDiverged

DESCRIPTION: Final = """\
Run a program once, under a schedule that `concmem hunt` or `explore.check` has printed, and show what
happens. The options must be those of the hunt.
"""

EPILOG: Final = """\
examples:
  concmem replay mytests:program 'v1:3.0,21.1'
  concmem replay mytests:program 'v1:'                   no preemption at all
  concmem replay slab-churn --ops 4 'v1:17.0' --html failure.html

exit status: 0 the program passes under this schedule, 1 it fails, 2 bad usage, or the program does
not do any more what it did when the schedule was recorded.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "replay",
        help="run a program under a schedule that was found",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    targets.add_target(parser)
    parser.add_argument("schedule", metavar="SCHEDULE", help="such as 'v1:3.0,21.1'")
    targets.add_execution_options(parser)
    targets.add_outputs(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem import explore
    from concmem.cli.hunt import run_program, show
    from concmem.cli.hunt_display import Outputs

    schedule = explore.Schedule.parse(args.schedule)
    outputs = Outputs(args)
    program = targets.load_target(args)
    options = targets.execution_options(args)
    try:
        outcome = run_program(lambda: explore.replay(program, schedule, **options))
    except ReplayDiverged as error:
        complain(f"the replay diverged, so the program, or an option, is not what it was: {error}")
        return USAGE
    return USAGE if outcome is None else show(args, outcome, outputs)
