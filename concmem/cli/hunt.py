"""``concmem hunt``: look for a schedule under which a program fails."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from concmem.cli import targets
from concmem.cli.output import BROKEN, CLEAN, INTERRUPTED, USAGE, complain
from concmem.errors import BadArgument, ConcmemError

if TYPE_CHECKING:
    from concmem.explore import Outcome, Scheduler

RANDOM: Final = ("random", "pct", "pos", "urw", "surw")

SCHEDULERS: Final = ("random", "pct", "pos", "urw", "surw", "pb", "db", "dfs", "dpor", "rr")

DESCRIPTION: Final = """\
Run a program again and again, each time under another schedule, until it fails: an assertion, an
exception, a deadlock, a lost wake-up, a data race, a lock that is not given back, a livelock. The
schedule is then made as simple as possible, shown, and printed as a line to replay.
"""

EPILOG: Final = """\
examples:
  concmem hunt mytests:program                       10,000 executions under PCT
  concmem hunt mytests:program --scheduler dpor      every behaviour once: can end with "exhausted"
  concmem hunt mytests:program --seconds 60 --json found.json --html found.html
  concmem hunt slab-churn --ops 4 --cpus 2           a stress workload, on a small machine
  concmem hunt --bug fastpath-ignores-tid            a documented bug, planted; concmem bugs lists them
  concmem replay mytests:program 'v1:3.0,21.1'       what was found, again

mytests.py, in this directory, might be:
  from concmem import explore
  def program(rt):
      x = rt.cell(0, "x")
      def body():
          x.value = x.value + 1
      def after():
          assert x.value == 2
      return explore.Program([body, body], after)

schedulers: random (each choice alike), pct (finds bugs of --depth with a known probability), pos,
  urw, surw (sample other spaces), pb, db (few preemptions or delays first), dfs, dpor (everything),
  rr (one schedule, with a switch at every step). Random ones begin with the schedule without preemptions.

exit status: 0 nothing found, 1 found, 2 bad usage, 130 interrupted and nothing found until then.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "hunt",
        help="look for a schedule under which a program fails",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    target = parser.add_mutually_exclusive_group(required=True)
    targets.add_target(target, nargs="?")
    target.add_argument("--bug", metavar="NAME", help="the same as a bug as TARGET")
    add("--scheduler", choices=SCHEDULERS, metavar="NAME",
        help="who decides (default: pct; for a bug, who finds it soonest)")  # fmt: skip
    add("--depth", type=int, metavar="D", help="bug depth to look for, with pct (default: 3)")
    add("--executions", type=int, metavar="N", help="at most so many (default: 10000)")
    add("--seconds", type=float, metavar="S", help="at most so long")
    add("--seed", type=int, default=0, metavar="N", help="of all random decisions (default: 0)")
    targets.add_execution_options(parser)
    add("--no-shrink", action="store_true", help="leave the schedule as it was found")
    add("--no-pin", action="store_true", help="do not keep the threads on one host CPU")
    targets.add_outputs(parser)
    add("--no-progress", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem import explore
    from concmem.cli.hunt_display import HuntProgress, Outputs

    if args.target is None:
        args.target = args.bug
    outputs = Outputs(args)
    program = targets.load_target(args)
    scheduler = _scheduler(args)
    executions = args.executions
    if executions is None:
        executions = 10_000 if args.seconds is None else 1 << 62
    options: dict[str, Any] = targets.execution_options(args)
    options |= {"shrink": not args.no_shrink, "pin": not args.no_pin}

    def search() -> Outcome:
        if args.scheduler in RANDOM:
            # What needs no preemption at all, random schedulers may miss where bodies are of unequal length.
            first = explore.check(program, "pb", 1, **options)
            if first.failure is not None:
                return first
        with HuntProgress(executions, args.seconds, quiet=args.no_progress) as progress:
            return explore.check(
                program, scheduler, executions, args.seed,
                seconds=args.seconds, progress=progress, **options,
            )  # fmt: skip

    outcome = run_program(search)
    return USAGE if outcome is None else show(args, outcome, outputs)


def run_program(search: Callable[[], Outcome]) -> Outcome | None:
    """What *search* gives; ``None``, and a line says so, where the program cannot even be made."""
    try:
        return search()
    except (ConcmemError, KeyboardInterrupt):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = frames[-1]
        complain(
            f"target: the program raised {error!r} when it was called with a runtime, at "
            f"{place.filename}:{place.lineno} {place.name}"
        )
        return None


def show(args: argparse.Namespace, outcome: Outcome, outputs: Any) -> int:
    """Print and write *outcome*; the exit status."""
    if outcome.failure is not None:
        outcome.failure.target = targets.replay_target(args)
    out = sys.stderr if outputs.json is not None and outputs.json.is_stdout else sys.stdout
    print(outcome.to_text(colour=out.isatty() and not os.environ.get("NO_COLOR")), file=out)
    outputs.write(outcome)
    if outcome.failure is not None:
        return BROKEN
    return INTERRUPTED if outcome.interrupted else CLEAN


def _scheduler(args: argparse.Namespace) -> str | Scheduler:
    from concmem.explore import PCT

    if args.scheduler is None:
        args.scheduler = "pct" if args.depth is not None else getattr(args, "bug_scheduler", "pct")
    if args.depth is None:
        return str(args.scheduler)
    if args.scheduler != "pct":
        raise BadArgument("depth: is for --scheduler pct")
    return PCT(depth=args.depth)
