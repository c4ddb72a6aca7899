"""The page: head, then a section for each subject."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from concmem.reports.flows import FLOWS, coverage
from concmem.reports.html import parts
from concmem.reports.html.cache_bars import cache_bars
from concmem.reports.html.flowchart import flowchart
from concmem.reports.html.timelines import time_lines
from concmem.reports.html.zone_map import zone_map

if TYPE_CHECKING:
    from concmem.reports.report import Report

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is loaded from anywhere, whatever the file is opened in."""

LANES_POLICY: Final = f"{POLICY}; script-src 'unsafe-inline'"
"""Lanes may bring a script of their own."""


def render(report: Report, lanes: Sequence[str] = ()) -> str:
    """
    The whole file.

    Args:
        lanes: fragments of HTML, trusted, that show failures; they come first among the failures.
    """
    run = report.run
    css = files("concmem.reports.html").joinpath("page.css").read_text(encoding="utf-8")
    sections = _sections(report, lanes)
    nav = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{name}"><h2>{heading}</h2>{content}</section>'
        for name, (heading, content) in sections.items()
    )
    policy = LANES_POLICY if lanes else POLICY
    interrupted = ", interrupted" if run.interrupted else ""
    verdict = "clean" if run.verdict == "clean" else "broken"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)}: a report of concmem</title>\n<style>\n{css}</style></head>\n"
        f"<body><header><h1>{escape(run.name)}: "
        f'<span class="verdict {verdict}">{escape(run.verdict)}{interrupted}</span></h1>'
        f'<p class="command"><code>{escape(run.command)}</code></p>'
        f"<nav>{nav}</nav>{parts.tiles(run)}{parts.missing(report)}</header>\n"
        f"<main>{body}</main>\n<footer>concmem {escape(run.concmem)}, {escape(run.runtime)} runtime, "
        f"Python {escape(run.python)} {'with' if run.gil else 'without'} a GIL. "
        "Hover over a picture for its numbers.</footer></body></html>\n"
    )


def _sections(report: Report, lanes: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Heading and content by name."""
    return {
        "advice": ("Advice", parts.advice(report)),
        "failures": ("Failures", parts.failures(report, lanes)),
        "timelines": ("Time lines", _grid(time_lines(report.run)) + parts.phases(report)),
        "memory": ("Memory", _memory(report)),
        "slabs": ("Slabs", _slabs(report)),
        "locks": ("Locks", parts.locks(report) if report.locks else _none("was waited for")),
        "cpus": ("CPUs", parts.cpus(report)),
        "flows": ("Flowcharts", _flows(report)),
    }


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(figures)}</div>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>{content}</details>"


def _none(what: str) -> str:
    return f'<p class="none">Nothing {what}.</p>'


def _memory(report: Report) -> str:
    if report.run.busiest is None or report.memory is None:
        return _none("is known of memory while the run was on")
    moment = report.run.busiest
    text = (
        f"<p>The zones at {moment.seconds:.1f} s, in {escape(moment.phase or 'the end')}, when the least "
        f"memory was free. Page blocks by type; free blocks by type and order, the darker the more "
        f"pages.</p>"
    )
    files = f"<pre>{escape(moment.buddyinfo)}</pre><pre>{escape(moment.meminfo)}</pre>"
    tables = _folded("Fragmentation by order", f'<div class="grid">{parts.orders(report)}</div>')
    tables += _folded("/proc/buddyinfo and /proc/meminfo then", files)
    return (
        text + _grid([zone_map(zone) for zone in report.zones]) + tables + parts.processes(report)
    )


def _slabs(report: Report) -> str:
    pools = parts.pools(report)
    if not report.caches:
        return _none("is known of slabs while the run was on") + pools
    return (
        _grid(cache_bars(report.caches))
        + _folded("All numbers of the caches", parts.caches(report))
        + pools
    )


def _flows(report: Report) -> str:
    key = (
        '<p class="key"><span class="taken">taken, wider the more often</span>'
        '<span class="never">never taken</span></p>'
    )
    charts = []
    for flow in FLOWS.values():
        found = coverage(flow, report.event_totals)
        possible = len(found.taken) + len(found.never)
        charts.append(
            f'<details open id="flow-{flow.name}"><summary>{escape(flow.title)} <span class="unit">'
            f"{len(found.taken)} of {possible} arrows taken</span></summary>"
            f'<div class="scroll">{flowchart(flow, report.event_totals)}</div></details>'
        )
    return key + "".join(charts)
