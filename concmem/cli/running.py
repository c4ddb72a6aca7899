"""What the sub-commands share that run a scenario: their options, and the life of the machine."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TextIO

from concmem.cli.output import BROKEN, CLEAN, INTERRUPTED, complain
from concmem.errors import BadArgument, ShutdownTimeout

if TYPE_CHECKING:
    from concmem.cli.keys import Keys
    from concmem.cli.live import LiveView
    from concmem.machine import Machine
    from concmem.workloads import Scenario, StressResult

RUN_OPTIONS: Final = (
    *("cpus", "memory", "nodes", "seconds", "ops", "seed", "runtime"),
    *("slab_debug", "page_poison", "page_owner", "kasan", "failslab", "fail_page_alloc"),
)
"""Options that replace what a scenario says."""

MAX_DELAY: Final = 24 * 3600.0

KEYS_EVERY: Final = 0.1
"""Host seconds between two looks at the keyboard."""


def add_run_options(parser: argparse.ArgumentParser, seconds: float | None = None) -> None:
    """Add `RUN_OPTIONS`; *seconds* is the default that the help names."""
    default = "" if seconds is None else f" (default: {seconds:g})"
    add = parser.add_argument
    add("--cpus", type=int, metavar="N", help="simulated CPUs, 1 to 256; each is an OS thread")
    add("--memory", metavar="SIZE", help="such as 256M or 4G; backed by the host where touched")
    add("--nodes", type=int, metavar="N", help="NUMA nodes, 1 to 64")
    add("--seconds", type=float, metavar="S", help=f"host seconds of the whole run{default}")
    add("--ops", type=int, metavar="N", help="operations of each CPU in the whole run")
    add("--seed", type=int, metavar="N", help="of the workloads' choices and of hesitations")
    add("--runtime", choices=("auto", "free", "jitter"), help="how the CPUs run (default: auto)")
    group = parser.add_argument_group("debugging", "As the kernel's boot parameters; slower.")
    add = group.add_argument
    add("--slab-debug", metavar="FZPUTA[,CACHE...]",
        help="consistency checks, red zones, poison, user tracking, ...; of all caches, or those named")  # fmt: skip
    add("--page-poison", action="store_true", default=None, help="fill and check free pages")
    add("--page-owner", action="store_true", default=None, help="keep who allocated each page")
    add("--kasan", action="store_true", default=None, help="check every access to memory")
    attr = "INTERVAL,PROBABILITY,SPACE,TIMES"
    add("--failslab", metavar=attr, help="have allocations of objects fail; times -1: for ever")
    add("--fail-page-alloc", metavar=attr, help="have allocations of pages fail")


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of `RUN_OPTIONS`; the others are ``None``."""
    return {name: getattr(args, name) for name in RUN_OPTIONS}


class Ran(NamedTuple):
    """A run that is over, and whose machine is closed."""

    result: StressResult
    runtime: str
    """As ``--runtime`` takes it."""

    @property
    def status(self) -> int:
        """The exit status for it."""
        if not self.result.clean:
            return BROKEN
        return INTERRUPTED if self.result.interrupted else CLEAN


def run_scenario(
    scenario: Scenario, run: Callable[[Machine], StressResult], **arguments: bool
) -> Ran:
    """
    Boot a machine for *scenario*, have *run* do it, and close the machine, whatever happens.

    Args:
        arguments: of :class:`concmem.Machine`.

    Raises:
        BadArgument: this host has no memory or threads for it.
    """
    try:
        machine = scenario.boot(**arguments)
    except (OSError, MemoryError, RuntimeError) as error:
        raise BadArgument(f"the machine cannot be booted: {error}") from None
    result: StressResult | None = None
    try:
        result = run(machine)
    finally:
        _close(machine, result)
    return Ran(result, machine.runtime.name)


def run_with_progress(machine: Machine, scenario: Scenario, progress: bool) -> StressResult:
    """Run *scenario*, and show on standard error how far it is if *progress* is wanted."""
    from concmem.workloads import run_stress

    if not progress:
        return run_stress(machine, scenario)
    from concmem.cli.stress_display import LiveProgress

    with LiveProgress(machine) as display:
        return run_stress(machine, scenario, on_progress=display)


def run_in_view(
    machine: Machine, scenario: Scenario, make_view: Callable[[Keys], LiveView], delay: float
) -> StressResult:
    """
    Run *scenario*, and show it in a view all the while.

    A run that the view ended, as the user wanted, is a whole run of its command, if not of the scenario.
    """
    from concmem.cli.keys import Keys
    from concmem.workloads import run_stress

    with Keys() as keys, make_view(keys) as view:
        result = run_stress(
            machine, scenario, on_progress=view, progress_every=min(delay, KEYS_EVERY)
        )
        if not view.shown:  # the run was shorter than the delay
            view.look()
    return replace(result, interrupted=False) if view.ended else result


def check_delay(delay: float) -> None:
    """Raise `BadArgument` unless *delay* is a time between two looks that can be."""
    if not 0.01 <= delay <= MAX_DELAY:  # also false for not-a-number
        raise BadArgument(f"--delay: must be 0.01 to {MAX_DELAY:g} seconds, got {delay:g}")


def show_verdict(result: StressResult, again: str, stream: TextIO) -> None:
    """What went wrong, and the verdict, below the last table of a view."""
    from concmem.cli.display import make_console, print_text
    from concmem.cli.stress_display import MAX_ERRORS_SHOWN, verdict_line

    console = make_console(stream)
    print_text(console, "")
    for error in result.errors[:MAX_ERRORS_SHOWN]:
        print_text(console, f"{error.type}: {error.message}", "red")
    style = "bold green" if result.clean else "bold red"
    print_text(console, verdict_line(result, again), style)


def _close(machine: Machine, result: StressResult | None) -> None:
    """Stop the CPUs. Those of a run that hung cannot be, and its verdict says so."""
    try:
        machine.close()
    except ShutdownTimeout as error:
        if result is None or result.clean:
            raise
        complain(error)
