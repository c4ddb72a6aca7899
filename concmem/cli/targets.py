"""What ``concmem hunt`` and ``concmem replay`` are pointed at: a function of a module, or a workload."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from concmem.errors import BadArgument

if TYPE_CHECKING:
    import argparse

    from concmem.explore import ControlledRuntime, Program

EXECUTION_OPTIONS: Final = (
    "cpus", "ops", "max_steps", "early_timeouts", "spurious_wakeups", "detectors", "verify_every",
)  # fmt: skip
"""Options that decide what an execution is; a replay needs them as they were."""


def add_target(parser: argparse._ActionsContainer, nargs: str | None = None) -> None:
    """The argument that both commands have."""
    parser.add_argument(
        "target", metavar="TARGET", nargs=nargs,
        help="module:function (called with a runtime, returns a Program), a workload, or a planted "
        "bug (concmem bugs lists them)",
    )  # fmt: skip


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """The options that decide what an execution is."""
    add = parser.add_argument
    add("--cpus", type=int, metavar="N", help="CPUs (default: what the program needs)")
    add("--ops", type=int, metavar="N", help="operations of each CPU, for a workload (default: 6)")
    add("--max-steps", type=int, metavar="N", dest="max_steps",
        help="an execution with more steps is a livelock (default: 20000)")  # fmt: skip
    add("--early-timeouts", type=int, metavar="N", dest="early_timeouts",
        help="time-outs that may fire while others could still run (default: 0)")  # fmt: skip
    add("--spurious-wakeups", type=int, metavar="N", dest="spurious_wakeups",
        help="sleepers that may wake without a reason (default: 0)")  # fmt: skip
    add("--verify-every", type=int, metavar="N", dest="verify_every",
        help="check all invariants also after every N steps (default: only at the end)")  # fmt: skip
    add("--detectors", metavar="NAMES",
        help="which of races,lockdep are on; an empty text for none (default: both)")  # fmt: skip


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """Where a failure goes besides the terminal."""
    add = parser.add_argument
    add("--json", metavar="FILE", help="write the outcome as JSON; - for standard output")
    add("--html", metavar="FILE", help="write the failure as a page with lanes and a slider")
    add("--trace-events", metavar="FILE", dest="trace_events",
        help="write it as Chrome trace events, for Perfetto or chrome://tracing")  # fmt: skip


def execution_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`concmem.explore.check` is to be told, of `add_execution_options`."""
    names = ("cpus", "max_steps", "early_timeouts", "spurious_wakeups", "verify_every")
    options = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.cpus is not None and not 1 <= args.cpus <= 256:
        raise BadArgument(f"cpus: must be 1 to 256, got {args.cpus}")
    if args.detectors is not None:
        options["detectors"] = {each.strip() for each in args.detectors.split(",") if each.strip()}
    return options


def load_target(args: argparse.Namespace) -> Callable[[ControlledRuntime], Program]:
    """
    The program that ``TARGET`` names.

    Raises:
        BadArgument: there is none.
    """
    target: str = args.target
    if ":" not in target:
        return _load_by_name(args)
    if args.ops is not None:
        raise BadArgument("ops: is for workloads; a function decides itself what its CPUs do")
    module_name, _, function_name = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as python -m does
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise BadArgument(f"target: {module_name!r} cannot be imported: {error}") from None
    except Exception as error:
        raise BadArgument(f"target: importing {module_name!r} raised {error!r}") from error
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise BadArgument(f"target: module {module_name!r} has no function {function_name!r}")
    program: Callable[[ControlledRuntime], Program] = found
    return program


def _load_by_name(args: argparse.Namespace) -> Callable[[ControlledRuntime], Program]:
    """A workload, or a planted bug with its own options where there are none."""
    from concmem.workloads import WORKLOADS

    if args.target in WORKLOADS:
        from concmem.workloads.hunting import OPERATIONS, hunting_program

        if args.cpus is None:
            args.cpus = 2
        return hunting_program(args.target, OPERATIONS if args.ops is None else args.ops)
    from concmem.bugs import find_bug

    try:
        bug = find_bug(args.target)
    except BadArgument:
        names = ", ".join(WORKLOADS)
        raise BadArgument(
            f"target: {args.target!r} is neither module:function nor a workload ({names}) nor a planted "
            "bug, which concmem bugs lists"
        ) from None
    if args.ops is not None:
        raise BadArgument("ops: is for workloads; a bug decides itself what its CPUs do")
    args.target = bug.name
    args.bug_scheduler = bug.scheduler
    for name, value in bug.options.items():
        if getattr(args, name) is None:
            setattr(args, name, ",".join(sorted(value)) if name == "detectors" else value)
    return bug.program


def replay_target(args: argparse.Namespace) -> str:
    """What to write after ``concmem replay``, besides the schedule."""
    return with_options(args.target, {name: getattr(args, name) for name in EXECUTION_OPTIONS})


def with_options(target: str, options: Mapping[str, object]) -> str:
    """*target* and those *options* that are not ``None``, for a shell."""
    words = [target]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)
