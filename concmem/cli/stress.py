"""``concmem stress``: put a machine under load, and check it all the while."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TextIO

import concmem
from concmem.cli.output import CLEAN, JsonTarget, command_line
from concmem.cli.report import html_target, write_html
from concmem.cli.running import (
    Ran,
    add_run_options,
    run_options,
    run_scenario,
    run_with_progress,
)
from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.machine import Machine
    from concmem.reports.live_export import LiveExport
    from concmem.reports.report import Report
    from concmem.workloads import Scenario, StressResult

DEFAULT_SCENARIO: Final = "default"

DESCRIPTION: Final = """\
Run workloads on all CPUs of a simulated machine, verify every invariant of its structures at
intervals and at the end, and say what was done, how fast, and where CPUs waited.

SCENARIO is a name (--list has them) or the path of a TOML file. Options replace what it says.
"""

EPILOG: Final = """\
examples:
  concmem stress smoke
  concmem stress cross-cpu --cpus 16 --seconds 60
  concmem stress fragmentation --memory 1G --nodes 2 --ops 1000000 --seed 7
  concmem stress smoke --json - --no-progress | jq .verdict
  concmem stress my-scenario.toml
  concmem stress --json run.json --html report.html
  concmem stress pressure --procfs /tmp/proc & prometheus-node-exporter --path.procfs=/tmp/proc

An operation is one call of the allocator. The same seed makes the same choices of each workload;
the order of events between CPUs is the host's, so a run is not repeated exactly.

With the jitter runtime, CPUs hesitate now and then inside of critical steps, which finds races
under a GIL; `auto` takes it there, and the free runtime on a free-threaded interpreter.

--report analyses the run at its end and gives advice, as `concmem report` does with what --json has
written; --html makes a page of that. --procfs keeps a tree of /proc files up to date, each replaced as a
whole every second, for programs that watch a system.

exit status: 0 clean, 1 a rule was broken, 2 nothing was run or something cannot be written, 130
interrupted but clean.
Ctrl-C ends a run cleanly: memory is given back and verified, and the result so far is shown and written.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "stress",
        help="run workloads on all CPUs and verify the machine",
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
    add_run_options(parser)
    add("--verify-every", type=float, metavar="S",
        help="host seconds between two verifications; 0: only at the end")  # fmt: skip
    add("--json", metavar="FILE", help="write the result as JSON; - for standard output")
    add("--report", action="store_true", help="analyse the run at its end, and give advice")
    add("--html", metavar="FILE", help="write the report as a page with pictures")
    add("--procfs", metavar="DIR", help="keep the machine's /proc files there, every second")
    add("--list", action="store_true", help="list the scenarios and workloads, and end")
    add("--no-progress", action="store_true", help="show no progress during the run")
    add("--lockdep", action="store_true", default=None,
        help="validate the order of locks: what could deadlock is an error")  # fmt: skip
    add("--no-lockstat", action="store_true", help="keep no lock statistics: runs faster")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.workloads import load_scenario

    if args.list:
        return _list()
    options = {
        **run_options(args),
        "verify_every": args.verify_every,
        "lockdep": args.lockdep,
    }
    scenario = load_scenario(args.scenario).changed(**options)
    json = JsonTarget(args.json) if args.json is not None else None
    html = html_target(args.html)
    if "-" in (args.json, args.html) and args.json == args.html:
        raise BadArgument("--html: standard output is for the JSON already")
    exports: list[LiveExport] = []
    ran = run_scenario(
        scenario,
        lambda machine: _run(machine, scenario, args, exports),
        lockstat=not args.no_lockstat,
    )
    result = ran.result
    again = _again(args.scenario, scenario, ran)
    report = _report(result, again) if args.report or html is not None else None
    out = sys.stderr if "-" in (args.json, args.html) else sys.stdout
    _show(out, result, again, report if args.report else None)
    # The JSON first: a page can be made of it later.
    if json is not None:
        json.write({**_about(again), **result.to_json()})
    if html is not None and report is not None:
        write_html(html, report)
    if exports and exports[0].error:
        raise BadArgument(f"--procfs: not kept up to date to the end: {exports[0].error}")
    return ran.status


def _list() -> int:
    from concmem.workloads import WORKLOADS, find_scenarios, load_scenario, summary

    print("scenarios:")
    for name in find_scenarios():
        print(f"  {name:24} {load_scenario(name).description}")
    print("workloads:")
    for name, cls in WORKLOADS.items():
        print(f"  {name:24} {summary(cls)}")
    return CLEAN


def _run(
    machine: Machine, scenario: Scenario, args: argparse.Namespace, exports: list[LiveExport]
) -> StressResult:
    with ExitStack() as stack:
        if args.procfs is not None:
            from concmem.reports.live_export import LiveExport

            export = LiveExport(machine.procfs, args.procfs)
            try:
                exports.append(stack.enter_context(export))
            except BadArgument as error:
                raise BadArgument(f"--procfs: {error}") from None
        return run_with_progress(machine, scenario, progress=not args.no_progress)


def _report(result: StressResult, again: str) -> Report:
    """A report of the run; that it was made is one of its events."""
    from concmem.reports.report import make_report
    from concmem.reports.run import parse_run

    report = make_report(parse_run({**_about(again), **result.to_json()}))
    result.event_totals = dict(report.event_totals)
    return report


def _show(stream: TextIO, result: StressResult, again: str, report: Report | None) -> None:
    """Tables, the report if wanted, and the verdict."""
    from concmem.cli.display import make_console, print_text
    from concmem.cli.report_display import show_report
    from concmem.cli.stress_display import show_result, verdict_line

    console = make_console(stream)
    show_result(console, result)
    if report is not None:
        show_report(console, report)
        console.print()
    style = "bold green" if result.clean else "bold red"
    print_text(console, verdict_line(result, again), style)


def _again(source: str, scenario: Scenario, ran: Ran) -> str:
    """The command line that runs the same again."""
    return command_line(
        "stress",
        source,
        {
            "cpus": scenario.cpus,
            "memory": scenario.memory,
            "nodes": scenario.nodes,
            "seconds": scenario.seconds,
            "ops": scenario.ops,
            "seed": scenario.seed,
            "runtime": ran.runtime,
            "verify_every": scenario.verify_every,
            "lockdep": scenario.lockdep or None,
        },
    )


def _about(again: str) -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "concmem": concmem.__version__,
        "command": again,
        "python": platform.python_version(),
        "host_cpus": os.cpu_count(),
    }
