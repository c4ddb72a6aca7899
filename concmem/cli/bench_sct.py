"""``concmem bench sct``: how many executions schedulers need for the bugs of calibrated programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from concmem.cli.output import CLEAN, JsonTarget
from concmem.errors import BadArgument

if TYPE_CHECKING:
    from rich.table import Table

    from concmem.sct import Measurement

DESCRIPTION: Final = """\
Run eight small programs, each with one concurrency bug, under each scheduler, and compare the mean number
of executions until the bug shows with the expected one ("measured/expected"). Of systematic
schedulers: the bound at which they find it, and after how many executions. Takes about a minute or two.

A number with a ! is not within three standard errors of the expected one; that happens by chance in about one
table of ten. The expected numbers come from 4,000 executions each.
"""

SCHEDULERS: Final = ("random", "pct-2", "pct-3", "pos", "urw", "surw", "pb", "db", "dfs", "dpor")
PROGRAMS: Final = (
    "account", "bluetooth_driver", "deadlock01", "lazy01", "reorder_3", "twostage", "wronglock_3",
    "stringbuffer",
)  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of the suite."""
    parser = subparsers.add_parser(
        "sct",
        help="schedulers on calibrated programs",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--scheduler",
        action="append",
        choices=SCHEDULERS,
        metavar="NAME",
        help=f"only this one, may be repeated; of {', '.join(SCHEDULERS)}",
    )
    parser.add_argument(
        "--program",
        action="append",
        choices=PROGRAMS,
        metavar="NAME",
        help=f"only this one, may be repeated; of {', '.join(PROGRAMS)}",
    )
    parser.add_argument(
        "--executions",
        type=int,
        default=4000,
        metavar="N",
        help="of each program under each random scheduler (4000)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all schedulers (0)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for stdout")


def run(args: argparse.Namespace) -> int:
    """Run the suite; the exit status."""
    from concmem.cli.display import make_console
    from concmem.sct import RANDOM

    if args.executions < 1:
        raise BadArgument(f"--executions: must be at least 1, got {args.executions}")
    json = JsonTarget(args.json) if args.json is not None else None
    schedulers = [name for name in SCHEDULERS if name in (args.scheduler or SCHEDULERS)]
    programs = [name for name in PROGRAMS if name in (args.program or PROGRAMS)]
    cells = list(_measure(programs, schedulers, args.executions, args.seed))
    to_stderr = json is not None and json.is_stdout
    console = make_console(sys.stderr if to_stderr else sys.stdout)
    random = [name for name in schedulers if name in RANDOM]
    systematic = [name for name in schedulers if name not in RANDOM]
    if random:
        title = f"Executions until the bug shows, of {args.executions:,}: measured/expected"
        console.print(_table(title, programs, random, cells))
    if systematic:
        title = "Bound at which the bug shows: measured/expected (executions)"
        console.print(_table(title, programs, systematic, cells))
    judged = [cell.agrees for cell in cells if cell.agrees is not None]
    console.print(f"{sum(judged)} of {len(judged)} as expected.")
    if json is not None:
        json.write(
            {"executions": args.executions, "seed": args.seed, "cells": list(map(_as_dict, cells))}
        )
    return CLEAN


def _measure(
    programs: Sequence[str], schedulers: Sequence[str], executions: int, seed: int
) -> Iterable[Measurement]:
    """All measurements, telling a terminal where they are."""
    from concmem.sct import BENCHMARKS, measure

    total = len(programs) * len(schedulers)
    number = 0
    for program in programs:
        for scheduler in schedulers:
            number += 1
            if sys.stderr.isatty():
                text = f"measuring {number} of {total}: {program} with {scheduler} ..."
                print(f"{text:60}", end="\r", file=sys.stderr, flush=True)
            yield measure(BENCHMARKS[program], scheduler, executions, seed)


def _table(
    title: str, programs: Sequence[str], schedulers: Sequence[str], cells: Sequence[Measurement]
) -> Table:
    from concmem.cli.display import make_table
    from concmem.sct import BENCHMARKS

    table = make_table(title, ("program", "tasks", "steps", *schedulers))
    for program in programs:
        row = [cell for cell in cells if cell.benchmark == program and cell.scheduler in schedulers]
        benchmark = BENCHMARKS[program]
        numbers = str(benchmark.tasks), str(benchmark.steps)
        table.add_row(program, *numbers, *map(_text, row))
    return table


def _text(cell: Measurement) -> str:
    """One cell of a table."""
    from concmem.sct import SYSTEMATIC

    mark = "!" if cell.agrees is False else ""
    if cell.scheduler in SYSTEMATIC:
        number = f"({cell.executions:,})" if cell.failures else "never"
        bound = "" if cell.bound is None else f"{cell.bound}/{cell.expected} "
        return bound + number + mark
    measured = "never" if cell.mean is None else f"{cell.mean:.1f}"
    expected = "/never" if cell.never else "" if cell.expected is None else f"/{cell.expected:.1f}"
    return measured + expected + mark


def _as_dict(cell: Measurement) -> dict[str, Any]:
    return asdict(cell) | {"mean": cell.mean, "sigmas": cell.sigmas, "agrees": cell.agrees}
