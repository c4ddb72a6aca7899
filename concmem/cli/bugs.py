"""``concmem bugs``: the catalogue of planted bugs, and how they are found."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from concmem.cli.output import BROKEN, CLEAN, INTERRUPTED, FileTarget, JsonTarget
from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.bugs import Bug
    from concmem.bugs.hunts import Hunt

DESCRIPTION: Final = """\
The catalogue of documented bugs, each planted in the model by one small override. Without arguments: list
them. With names or numbers: what happens, in columns. With --all: hunt each with each scheduler.
"""

EPILOG: Final = """\
examples:
  concmem bugs                                   the list
  concmem bugs B01                               what happens in one of them
  concmem hunt --bug B01                         find it, and see it
  concmem bugs --all --scheduler default         hunt all, each with the scheduler that suits it
  concmem bugs --all --seconds 10 --json table.json

A cell of the table is the number of executions to the first failure, the median of those seeds from which
the bug was found, and after a slash the preemptions that are left after shrinking: 12/1. "2:12/1" was
found from only 2 of the seeds; "-" from none; "other": something failed that is not what the bug leads to;
"error": the program could not be run; empty: not hunted. In the list, "depth" is the number of ordering
constraints that a schedule must meet, and "schedules" says who finds the bug within how many of them.

exit status: 0, or with --all 1 when some bug was found by no scheduler; 2 bad usage, 130 interrupted.
"""

SCHEDULERS: Final = (
    *("default", "random", "pct", "pos", "urw", "surw", "pb", "db", "dfs", "dpor"),
)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "bugs",
        help="documented bugs, planted and hunted",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="of bugs, or numbers (default: all)")
    add("--all", action="store_true", dest="hunt", help="hunt them")
    add("--scheduler", action="append", choices=SCHEDULERS, metavar="NAME",
        help="only this one, may be repeated; default: the one that each bug names first "
        "(without this option: random, pct, pos, surw, pb, db, dpor)")  # fmt: skip
    add("--seconds", type=float, default=5.0, metavar="S",
        help="at most so long for each bug, scheduler and seed (default: 5)")  # fmt: skip
    add("--executions", type=int, default=10_000, metavar="N",
        help="at most so many for each (default: 10000)")  # fmt: skip
    add(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="random schedulers start from (default: 3)",
    )
    add("--jobs", type=int, metavar="N", help="processes (default: one for each host CPU)")
    add("--json", metavar="FILE", help="write the list or the table as JSON; - for standard output")
    add(
        "--markdown",
        metavar="FILE",
        help="write the table of --all as Markdown; - for standard output",
    )
    add("--no-progress", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.bugs import all_bugs, find_bug

    if args.scheduler is not None and not args.hunt:
        raise BadArgument("--scheduler: is for --all")
    if args.markdown is not None and not args.hunt:
        raise BadArgument("--markdown: is for --all")
    json = JsonTarget(args.json) if args.json is not None else None
    bugs = [find_bug(name) for name in args.names] or list(all_bugs())
    if args.hunt:
        return _hunt_all(args, bugs, json)
    if json is not None:
        json.write({"bugs": [_as_dict(bug) for bug in bugs]})
        if json.is_stdout:
            return CLEAN
    if args.names:
        for bug in bugs:
            _describe(bug)
    else:
        _list(bugs)
    return CLEAN


def _as_dict(bug: Bug) -> dict[str, Any]:
    return {
        "name": bug.name,
        "number": bug.number,
        "title": bug.title,
        "fixed_by": bug.fixed_by,
        "subsystem": bug.subsystem,
        "kind": bug.kind,
        "depth": bug.depth,
        "cpus": bug.cpus,
        "replaces": [cls.__name__ for cls in bug.replaces],
        "expect": sorted(bug.expect),
        "executions": dict(bug.executions),
        "witness": bug.witness,
        "note": bug.note,
        "description": inspect.getdoc(inspect.getmodule(bug.workload)),
    }


def _list(bugs: Sequence[Bug]) -> None:
    """A line for each, so that it can be searched."""
    width = max(len(bug.name) for bug in bugs)
    print(
        f"{'no':4} {'name':{width}} {'subsystem':12} {'kind':15} depth CPUs {'schedules':16} fixed by"
    )
    for bug in bugs:
        schedules = f"{bug.scheduler} {bug.executions[bug.scheduler]}"
        print(
            f"{bug.number:4} {bug.name:{width}} {bug.subsystem:12} {bug.kind:15} "
            f"{bug.depth:5} {bug.cpus:4} {schedules:16} {bug.fixed_by}"
        )
    print(
        f"{len(bugs)} bugs; concmem bugs NAME tells what happens, concmem hunt --bug NAME finds it"
    )


def _describe(bug: Bug) -> None:
    module = inspect.getmodule(bug.workload)
    print(f"{bug.number} {bug.name}: {bug.title}\n")
    print(inspect.getdoc(module))
    replaced = ", ".join(f"{b.__name__} by {p.__name__}" for b, p in bug.replaces.items())
    print(f"\n{bug.subsystem}, {bug.kind}, depth {bug.depth}, {bug.cpus} CPUs")
    print(f"planted: {replaced}, in {getattr(module, '__name__', '?')}")
    print(f"fixed by: {bug.fixed_by}")
    if bug.note:
        print(f"note: {bug.note}")
    print(f"hunt:   concmem hunt --bug {bug.name}")
    print(f"replay: concmem replay {bug.name} '{bug.witness}'\n")


def _hunt_all(args: argparse.Namespace, bugs: Sequence[Bug], json: JsonTarget | None) -> int:
    from concmem.bugs.hunts import SCHEDULERS as USUAL
    from concmem.bugs.hunts import hunt_all

    for name in ("executions", "seeds"):
        if getattr(args, name) < 1:
            raise BadArgument(f"--{name}: must be at least 1, got {getattr(args, name)}")
    if not args.seconds > 0:
        raise BadArgument(f"--seconds: must be positive, got {args.seconds}")
    markdown = FileTarget("--markdown", args.markdown) if args.markdown is not None else None
    schedulers = list(dict.fromkeys(args.scheduler or USUAL))
    jobs = args.jobs if args.jobs is not None else len(os.sched_getaffinity(0))
    if jobs < 1:
        raise BadArgument(f"--jobs: must be at least 1, got {jobs}")
    found: list[Hunt] = []
    total, start = len(bugs) * len(schedulers), perf_counter()

    def done(result: Hunt) -> None:
        found.append(result)
        if not args.no_progress:
            _tell(f"{len(found)} of {total}: {result.bug} with {result.scheduler}")

    interrupted = False
    try:
        hunt_all(
            bugs, schedulers,
            seeds=args.seeds, executions=args.executions, seconds=args.seconds,
            jobs=min(jobs, total), done=done,
        )  # fmt: skip
    except KeyboardInterrupt:
        interrupted = True
    seconds = perf_counter() - start
    to_stderr = json is not None and json.is_stdout
    _print_table(bugs, schedulers, found, seconds, sys.stderr if to_stderr else sys.stdout)
    if markdown is not None:
        markdown.write_text(_markdown(bugs, schedulers, found))
    if json is not None:
        json.write(
            {
                "seconds": seconds,
                "interrupted": interrupted,
                "limits": {
                    name: getattr(args, name) for name in ("seconds", "executions", "seeds")
                },
                "hunts": [asdict(result) for result in found],
            }
        )
    if interrupted:
        return INTERRUPTED
    shown = {result.bug for result in found if result.found}
    return CLEAN if len(shown) == len({bug.name for bug in bugs}) else BROKEN


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)


def _print_table(
    bugs: Sequence[Bug], schedulers: Sequence[str], found: Sequence[Hunt], seconds: float, out: Any
) -> None:
    from concmem.cli.display import make_console, make_table

    table = make_table(f"Hunted in {seconds:.0f} s", ("no", "bug", "depth", *_headings(schedulers)))
    for row in _rows(bugs, schedulers, found):
        table.add_row(*row)
    console = make_console(out)
    console.print(table)
    shown = {each.bug for each in found if each.found}
    hunted = {each.bug for each in found}
    missed = [bug.name for bug in bugs if bug.name in hunted - shown]
    left = len(bugs) - len(hunted)
    for each in found:
        if each.error is not None:
            console.print(f"{each.bug} with {each.scheduler}: {each.error}")
    console.print(
        f"{len(shown)} of {len(bugs)} found"
        + (f"; not: {', '.join(missed)}" if missed else "")
        + (f"; interrupted, {left} not hunted" if left else "")
    )


def _headings(schedulers: Sequence[str]) -> list[str]:
    return ["executions/preemptions"] if schedulers == ["default"] else list(schedulers)


def _rows(
    bugs: Sequence[Bug], schedulers: Sequence[str], found: Sequence[Hunt]
) -> Iterator[list[str]]:
    """Number, name and depth of each bug, and a cell for each scheduler."""
    cells = {(each.bug, each.scheduler): each for each in found}
    for bug in bugs:
        names = [bug.scheduler if name == "default" else name for name in schedulers]
        row = [_cell(cells.get((bug.name, name))) for name in names]
        yield [bug.number, bug.name, str(bug.depth), *row]


def _markdown(bugs: Sequence[Bug], schedulers: Sequence[str], found: Sequence[Hunt]) -> str:
    headings = ["no", "bug", "depth", *_headings(schedulers)]
    rows = [headings, ["---"] * len(headings), *_rows(bugs, schedulers, found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(result: Hunt | None) -> str:
    if result is None:
        return ""
    if result.error is not None:
        return "error"
    if not result.found:
        return "other" if result.other else "-"
    seeds = f"{result.found}:" if result.found < result.seeds else ""
    return f"{seeds}{result.executions:.0f}/{result.preemptions}"
