"""
The ``concmem`` command.

Each sub-command is a module with ``add_parser(subparsers)``, which sets the default ``run`` of its
parser, and ``run(args) -> int``, the exit status. What takes long to import is imported in ``run``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

import concmem
from concmem.cli import bench, bugs, flows, hunt, replay, replay_trace, report, slabtop, stress, top
from concmem.cli.output import INTERRUPTED, PIPE, USAGE, complain
from concmem.errors import BadArgument, TraceError

COMMANDS: Final[tuple[ModuleType, ...]] = (
    *(stress, hunt, replay, bugs, report, top, slabtop, flows, replay_trace, bench),
)
"""The modules of the sub-commands, in the order of ``--help``."""

DESCRIPTION: Final = f"""\
A working model of Linux {concmem.KERNEL_VERSION} memory management whose CPUs are real OS threads
and whose locks are real locks, to put under load and to check.
"""

EPILOG: Final = """\
examples:
  concmem stress                        half a minute of everything, with the default scenario
  concmem stress smoke                  every workload for a moment
  concmem stress --list                 the scenarios there are
  concmem hunt mytests:program          look for a schedule under which a program fails
  concmem bugs                          documented kernel bugs, planted one at a time
  concmem stress pressure --cpus 8 --seconds 60 --json result.json
  concmem report result.json --html report.html
  concmem top slab-storm                CPUs, caches, zones and locks, live
  concmem COMMAND --help                all about one command

not modelled: TLB and page tables' hardware, swap, the page cache, transparent huge pages,
  memory cgroups, memory hotplug. All memory accesses are sequentially consistent: a bug that
  needs a weaker order cannot show.

exit status:
  0    no rule was broken
  1    a rule was broken: the report says which
  2    an argument or a file cannot be used, or the result cannot be written
  130  interrupted, and no rule had been broken until then
  141  whoever read the output went away
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line, with all sub-commands."""
    parser = argparse.ArgumentParser(
        prog="concmem",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"concmem {concmem.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (``sys.argv`` unless given); the exit status."""
    parser = make_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as end:  # --help, --version, or bad usage, which argparse has explained
        return end.code if isinstance(end.code, int) else USAGE
    if not hasattr(args, "run"):
        parser.print_help(sys.stderr)
        return USAGE
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except (BadArgument, TraceError) as error:
        complain(error)
        return USAGE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; so that the interpreter's last flush is silent too:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except OSError as error:
        complain(f"the result cannot be written: {error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return USAGE
    return status


def console() -> int:
    """The entry point of the installed command."""
    return main()
