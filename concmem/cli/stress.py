"""``concmem stress``: put a machine under load, and check it all the while."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

import concmem
from concmem.cli.output import (
    BROKEN,
    CLEAN,
    INTERRUPTED,
    USAGE,
    JsonTarget,
    command_line,
    complain,
)
from concmem.errors import ShutdownTimeout

if TYPE_CHECKING:
    from concmem.machine import Machine
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

An operation is one call of the allocator. The same seed makes the same choices of each workload;
the order of events between CPUs is the host's, so a run is not repeated exactly.

With the jitter runtime, CPUs hesitate now and then inside of critical steps, which finds races
under a GIL; `auto` takes it there, and the free runtime on a free-threaded interpreter.

exit status: 0 clean, 1 a rule was broken, 2 nothing was run, 130 interrupted but clean.
Ctrl-C ends a run cleanly: memory is given back and verified, and the result so far is shown.
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
    add("--cpus", type=int, metavar="N", help="simulated CPUs, 1 to 256; each is an OS thread")
    add("--memory", metavar="SIZE", help="such as 256M or 4G; backed by the host where touched")
    add("--nodes", type=int, metavar="N", help="NUMA nodes, 1 to 64")
    add("--seconds", type=float, metavar="S", help="host seconds of the whole run")
    add("--ops", type=int, metavar="N", help="operations of each CPU in the whole run")
    add("--seed", type=int, metavar="N", help="of the workloads' choices and of hesitations")
    add("--runtime", choices=("auto", "free", "jitter"), help="how the CPUs run (default: auto)")
    add("--verify-every", type=float, metavar="S",
        help="host seconds between two verifications; 0: only at the end")  # fmt: skip
    add("--json", metavar="FILE", help="write the result as JSON; - for standard output")
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
        name: getattr(args, name)
        for name in (
            *("cpus", "memory", "nodes", "seconds", "ops", "seed", "runtime", "verify_every"),
            "lockdep",
        )
    }
    scenario = load_scenario(args.scenario).changed(**options)
    json = JsonTarget(args.json) if args.json is not None else None
    try:
        machine = scenario.boot(lockstat=not args.no_lockstat)
    except (OSError, MemoryError, RuntimeError) as error:  # no memory or threads on this host
        complain(f"the machine cannot be booted: {error}")
        return USAGE
    result: StressResult | None = None
    try:
        result = _run(machine, scenario, progress=not args.no_progress)
    finally:
        _close(machine, result)
    again = _again(args.scenario, scenario, machine)
    from concmem.cli.display import make_console, print_text
    from concmem.cli.stress_display import show_result, verdict_line

    console = make_console(sys.stderr if json is not None and json.is_stdout else sys.stdout)
    show_result(console, result)
    style = "bold green" if result.clean else "bold red"
    print_text(console, verdict_line(result, again), style)
    if json is not None:
        json.write({**_about(again), **result.to_json()})
    if not result.clean:
        return BROKEN
    return INTERRUPTED if result.interrupted else CLEAN


def _list() -> int:
    from concmem.workloads import WORKLOADS, find_scenarios, load_scenario, summary

    print("scenarios:")
    for name in find_scenarios():
        print(f"  {name:24} {load_scenario(name).description}")
    print("workloads:")
    for name, cls in WORKLOADS.items():
        print(f"  {name:24} {summary(cls)}")
    return CLEAN


def _run(machine: Machine, scenario: Scenario, progress: bool) -> StressResult:
    from concmem.workloads import run_stress

    if not progress:
        return run_stress(machine, scenario)
    from concmem.cli.stress_display import LiveProgress

    with LiveProgress(machine) as display:
        return run_stress(machine, scenario, on_progress=display)


def _close(machine: Machine, result: StressResult | None) -> None:
    """Stop the CPUs. Those of a run that hung cannot be, and the report has said so."""
    try:
        machine.close()
    except ShutdownTimeout as error:
        if result is None or result.clean:
            raise
        complain(error)


def _again(source: str, scenario: Scenario, machine: Machine) -> str:
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
            "runtime": machine.runtime.name,
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
