"""``concmem bench``: speed and memory of this version on this host, as ratios; and other suites."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from concmem.cli import bench_sct
from concmem.cli.output import CLEAN, JsonTarget
from concmem.runtime.interpreter import has_gil

if TYPE_CHECKING:
    from concmem.workloads.bench_tools import Measure

DESCRIPTION: Final = """\
Measure speed and memory as ratios within one run: allocate/free pairs of pages and of objects against
the least that the interpreter can do (the floor: two method calls around a list), a large machine
against a small one, two CPUs against one, objects that another CPU frees against those that their own
frees. Takes about half a minute. Nothing is judged: the goals stand beside.
"""

EXPLORE: Final = """\
Measure what controlled mode costs: a scheduling point, a switch to another CPU against one by two locks, and
executions a second of a small program and of a machine that boots for each. By CPU time, so that on a busy
host what others take is not counted. Takes some seconds. Nothing is judged: the goals stand beside.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    summary = "measure speed and memory, as ratios in one run"
    parser = _add_suite(subparsers, "bench", summary, DESCRIPTION, run)
    suites = parser.add_subparsers(title="other suites", metavar="SUITE")
    bench_sct.add_parser(suites)
    summary = "controlled mode: points, switches, executions a second"
    _add_suite(suites, "explore", summary, EXPLORE, run_explore)


def _add_suite(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.workloads.bench import BENCHMARKS

    return _measure(args, BENCHMARKS)


def run_explore(args: argparse.Namespace) -> int:
    """Run the suite of controlled mode; the exit status."""
    from concmem.workloads.bench_explore import BENCHMARKS

    return _measure(args, BENCHMARKS)


def _measure(args: argparse.Namespace, benchmarks: Sequence[Callable[[], Measure]]) -> int:
    from concmem.cli.display import make_console, make_table

    json = JsonTarget(args.json) if args.json is not None else None
    measures = []
    for number, benchmark in enumerate(benchmarks, 1):
        if sys.stderr.isatty():
            print(f"measuring {number} of {len(benchmarks)} ...", end="\r", file=sys.stderr)
        measures.append(benchmark())
    gil = "GIL" if has_gil() else "free-threaded"
    python = f"Python {platform.python_version()}, {gil}"
    table = make_table(python, ("what", "median", "min", "max", "unit", "goal"))
    for measure in measures:
        values = (f"{value:.2f}" for value in (measure.ratio, measure.low, measure.high))
        table.add_row(measure.name, *values, measure.unit, measure.goal)
    to_stderr = json is not None and json.is_stdout
    make_console(sys.stderr if to_stderr else sys.stdout).print(table)
    if json is not None:
        json.write({"python": python, "measures": [asdict(measure) for measure in measures]})
    return CLEAN
