"""``concmem report``: what can be concluded from the result of a run."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from concmem.cli.output import CLEAN, FileTarget, JsonTarget
from concmem.errors import BadArgument

if TYPE_CHECKING:
    from concmem.reports.report import Report

DESCRIPTION: Final = """\
Analyse the result of a run that `concmem stress --json` has written: where the memory was, which orders
could be had, what the caches used and wasted, who freed what others had allocated, which locks CPUs waited
for, whether memory pools ran dry, what leaked, which accesses were illegal; and say what to do about it,
with the numbers behind each advice.
"""

EPILOG: Final = """\
examples:
  concmem stress --json run.json && concmem report run.json
  concmem stress pressure --json - --no-progress | concmem report - --html report.html
  concmem report run.json --json - | jq '.advice[].finding'

--html makes one file that needs nothing else, with pictures: time lines, a map of the zones, the caches,
and the flowcharts with counts. It needs the report extra: pip install 'concmem[report]'

A run that was interrupted, hung, or was made by an older version has less to tell. The report says what is
missing, and has the rest.

exit status: 0 the report was made, whatever it says; 2 the file is of no use, or the report cannot be
written.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command's parser."""
    parser = subparsers.add_parser(
        "report",
        help="analyse the result of a stress run, with advice and pictures",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", metavar="RUN.json", help="of `concmem stress --json`; - for standard input")
    add("--json", metavar="FILE", help="write the report as JSON; - for standard output")
    add("--html", metavar="OUT.html", help="write the report as a page with pictures")
    add("--lanes", metavar="FILE", action="append", default=[],
        help="put this fragment of HTML, the lanes of a failure, into the page; may be repeated")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the sub-command; the exit status."""
    from concmem.cli.display import make_console
    from concmem.cli.report_display import show_report
    from concmem.reports.report import make_report
    from concmem.reports.run import read_run

    if args.lanes and args.html is None:
        raise BadArgument("--lanes: is for a page, and there is no --html")
    if args.json == "-" and args.html == "-":
        raise BadArgument("--html: standard output is for the JSON already")
    html = html_target(args.html)
    json = JsonTarget(args.json) if args.json is not None else None
    lanes = [_read(path, f"--lanes: {path!r}") for path in args.lanes]
    text = _read(args.file, repr(args.file))
    try:
        report = make_report(read_run(text))
    except BadArgument as error:
        raise BadArgument(f"{args.file!r}: {error}") from None
    to_stderr = "-" in (args.json, args.html)
    show_report(make_console(sys.stderr if to_stderr else sys.stdout), report)
    if json is not None:
        json.write(report.to_json())
    if html is not None:
        write_html(html, report, lanes)
    return CLEAN


def html_target(path: str | None) -> FileTarget | None:
    """
    Where a page goes, if one is wanted; checked before anything takes long.

    Raises:
        BadArgument: *path* cannot be written, or what draws is not installed.
    """
    if path is None:
        return None
    if find_spec("svg") is None:
        raise BadArgument("--html: needs the report extra: pip install 'concmem[report]'")
    return FileTarget("--html", path)


def write_html(target: FileTarget, report: Report, lanes: list[str] | None = None) -> None:
    """Draw *report*, and write it to *target*."""
    from concmem.reports.html.page import render

    target.write_text(render(report, lanes or []))


def _read(path: str, what: str) -> str:
    try:
        if path == "-":
            if sys.stdin is None:
                raise BadArgument(f"{what} cannot be read: there is no standard input")
            return sys.stdin.read()
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, BadArgument):
            raise
        raise BadArgument(f"{what} cannot be read: {error}") from None
