"""``concmem flows``: the flowcharts of the model, with how often each arrow was taken."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import concmem
from concmem.cli.output import CLEAN, JsonTarget, command_line
from concmem.cli.running import (
    RUN_OPTIONS,
    add_run_options,
    run_options,
    run_scenario,
    run_with_progress,
)
from concmem.errors import BadArgument
from concmem.reports.flows import FLOWS, Flow, coverage, mermaid, pending_part, to_json

DEFAULT_SCENARIO: Final = "default"
DEFAULT_SECONDS: Final = 10.0

DESCRIPTION: Final = f"""\
Print the flowcharts of memory management as Mermaid, with the number of times that each arrow was
taken, and say which arrows never were. The numbers are those of a run of SCENARIO, or of a result
that `concmem stress --json` has written.

charts: {", ".join(FLOWS)}
"""

EPILOG: Final = f"""\
examples:
  concmem flows
  concmem flows smoke --cpus 2 --flow free > free.mmd
  concmem stress --json run.json && concmem flows --from run.json --json flows.json

A run takes {DEFAULT_SECONDS:g} seconds unless --seconds or --ops says otherwise. Arrows that were never taken
are red; those of parts that do not exist yet are dotted, and "pending". Which events prove which
arrow: docs/reference/flows.md.

exit status: 0 clean, 1 a rule was broken in the run, 2 nothing was run or a file is of no use,
130 interrupted but clean.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "flows",
        help="show which arrows of the flowcharts a run has taken",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "scenario", nargs="?", metavar="SCENARIO",
        help=f"name or path of a scenario (default: {DEFAULT_SCENARIO})",
    )  # fmt: skip
    add = parser.add_argument
    add("--flow", choices=tuple(FLOWS), metavar="NAME", help="show this chart only")
    add("--from", dest="source", metavar="RUN.json", help="take the numbers of this result")
    add("--json", metavar="FILE", help="write nodes and arrows as JSON; - for standard output")
    add_run_options(parser, DEFAULT_SECONDS)
    add("--no-progress", action="store_true", help="show no progress during the run")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    flows = list(FLOWS.values()) if args.flow is None else [FLOWS[args.flow]]
    if args.source is not None:
        for name in ("scenario", *RUN_OPTIONS):
            if getattr(args, name) is not None:
                raise BadArgument(f"{name}: is for a run, and --from shows a result")
        totals = read_totals(args.source)
        target = JsonTarget(args.json) if args.json is not None else None
        _show(flows, totals, target, {"from": args.source})
        return CLEAN
    return _run_and_show(args, flows)


def read_totals(path: str) -> dict[str, int]:
    """
    The event totals in a result of ``concmem stress --json`` or ``concmem flows --json``.

    Raises:
        BadArgument: the file cannot be read, or has none.
    """
    try:
        data = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        totals = json.loads(data)["event_totals"]
    except (OSError, ValueError) as error:
        raise BadArgument(f"--from: {path!r} cannot be read: {error}") from None
    except (KeyError, TypeError):
        totals = None
    if not isinstance(totals, dict) or not all(type(n) is int for n in totals.values()):
        raise BadArgument(f"--from: {path!r} is no result of `concmem stress --json`")
    return totals


def _run_and_show(args: argparse.Namespace, flows: list[Flow]) -> int:
    from concmem.cli.stress_display import verdict_line
    from concmem.workloads import load_scenario

    options = run_options(args)
    if args.ops is None and args.seconds is None:
        options["seconds"] = DEFAULT_SECONDS
    source = args.scenario if args.scenario is not None else DEFAULT_SCENARIO
    scenario = load_scenario(source).changed(**options)
    target = JsonTarget(args.json) if args.json is not None else None
    ran = run_scenario(
        scenario,
        lambda machine: run_with_progress(machine, scenario, not args.no_progress),
        lockstat=False,
        kmemleak=True,
    )
    result = ran.result
    options["runtime"] = ran.runtime
    about = {"command": command_line("flows", source, options), "verdict": result.verdict}
    _show(flows, result.event_totals, target, about)
    print(verdict_line(result, command_line("stress", source, options)), file=sys.stderr)
    return ran.status


def _show(
    flows: list[Flow],
    totals: Mapping[str, int],
    target: JsonTarget | None,
    about: Mapping[str, Any],
) -> None:
    """The charts, then what was not taken; and the same as JSON."""
    out = sys.stderr if target is not None and target.is_stdout else sys.stdout
    for flow in flows:
        print(mermaid(flow, totals), file=out)
    # As comments, so that the whole is Mermaid still when there is one chart.
    for flow in flows:
        print("\n".join(_remarks(flow, totals)), file=out)
    if target is not None:
        target.write(
            {
                **to_json(flows, totals),
                "coverage": {flow.name: coverage(flow, totals).to_json() for flow in flows},
                "event_totals": dict(totals),
                "concmem": concmem.__version__,
                **about,
            }
        )


def _remarks(flow: Flow, totals: Mapping[str, int]) -> list[str]:
    """Comment lines: how much was taken, and each arrow that was not."""
    found = coverage(flow, totals)
    possible = len(found.taken) + len(found.never)
    lines = [f"%% {flow.name}: {len(found.taken)} of {possible} arrows taken"]
    for edge in found.never:
        where = f"{flow.nodes[edge.source]} -> {flow.nodes[edge.target]}"
        label = f" ({edge.label})" if edge.label else ""
        lines.append(f"%%   never taken: {edge.name}: {where}{label}")
    waiting: dict[str, list[str]] = {}
    for edge in found.pending:
        waiting.setdefault(pending_part(edge) or "", []).append(edge.name)
    lines += [f"%%   pending, no {part} yet: {' '.join(names)}" for part, names in waiting.items()]
    return lines
