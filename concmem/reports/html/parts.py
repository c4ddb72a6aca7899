"""The parts of the page that are text: head, advice, tables, failures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Final

from concmem.reports.words import count, milliseconds, percent, plural, size

if TYPE_CHECKING:
    from concmem.reports.report import Report
    from concmem.reports.run import Run

MAX_ROWS: Final = 40
MAX_ERRORS: Final = 20


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in a box of its own, which scrolls where the screen is too narrow."""
    shown = list(rows)
    more = len(shown) - MAX_ROWS
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(_row(row) for row in shown[:MAX_ROWS])
    rest = f'<p class="quiet">and {more} more</p>' if more > 0 else ""
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}</div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in others)
    return f'<tr><td class="name">{escape(first)}</td>{rest}</tr>'


def tiles(run: Run) -> str:
    """The run in a few numbers."""
    frees = sum(cpu.freed + cpu.objects_freed for cpu in run.cpus)
    remote = sum(cpu.cross_cpu_frees + cpu.cross_cpu_object_frees for cpu in run.cpus)
    numbers = {
        "operations": count(run.operations),
        "per second": count(run.rate),
        "seconds": f"{run.seconds:.1f}",
        "CPUs": count(len(run.cpus)),
        "memory": str(run.scenario.get("memory", "")),
        "verified": f"{count(run.verifications)} times",
        "cross-CPU frees": percent(remote, frees),
        "rules broken": count(len(run.errors)),
    }
    items = "".join(f"<li><b>{escape(value)}</b>{name}</li>" for name, value in numbers.items())
    return f'<ul class="tiles">{items}</ul>'


def missing(report: Report) -> str:
    """What the report does not know; nothing if there is nothing of that kind."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in report.missing)
    return f'<ul class="missing" id="missing">{items}</ul>' if items else ""


def advice(report: Report) -> str:
    """Each with its evidence."""
    if not report.advice:
        return '<p class="none">No rule found anything wrong.</p>'
    cards = []
    for each in report.advice:
        evidence = "".join(f"<li>{escape(line)}</li>" for line in each.evidence)
        cards.append(
            f'<article class="advice {each.level}"><p class="level">{each.level}</p>'
            f"<h3>{escape(each.finding)}</h3><ul>{evidence}</ul><p>{escape(each.action)}</p></article>"
        )
    return f'<div class="grid">{"".join(cards)}</div>'


def failures(report: Report, lanes: Sequence[str]) -> str:
    """Broken rules, illegal accesses, leaks; and *lanes*, which are HTML already."""
    parts = [f'<div class="lanes scroll">{fragment}</div>' for fragment in lanes]
    for error in report.run.errors[:MAX_ERRORS]:
        trace = (
            f"<details><summary>traceback</summary><pre>{escape(error.traceback)}</pre></details>"
        )
        parts.append(
            f'<article class="error"><h3>{escape(error.type)}</h3><p>{escape(error.message)}</p>'
            f'<p class="quiet">{escape(error.where)}</p>{trace if error.traceback else ""}</article>'
        )
    for access in report.bad_accesses or ():
        parts.append(
            f'<article class="error"><h3>{escape(access.cache)}: {escape(access.kind)}</h3>'
            f"<p>{plural(access.reports, 'report')}</p><pre>{escape(access.text)}</pre></article>"
        )
    if report.leaks:
        rows = (
            (group.where, count(group.objects), size(group.size), f"{group.addresses[0]:#x}",
             " < ".join(group.backtrace))
            for group in report.leaks
        )  # fmt: skip
        columns = ("leaked from", "objects", "size", "first at", "backtrace")
        parts.append(table("Leaks", columns, rows))
    return "".join(parts) or '<p class="none">No rule was broken.</p>'


def caches(report: Report) -> str:
    """All numbers of the caches."""
    columns = (
        *("cache", "object", "slabs", "in use", "wasted", "partial", "empty", "CPU partial"),
        *("allocated", "hit rate", "freed", "remote"),
    )
    rows = (
        (
            *(cache.name, count(cache.object_size), count(cache.slabs)),
            *(percent(cache.in_use, cache.objects), size(cache.wasted)),
            *(count(cache.partial), count(cache.empty), count(cache.cpu_partial)),
            *(count(cache.allocated), percent(cache.alloc_hits, cache.allocated)),
            *(count(cache.freed), percent(cache.remote, cache.freed)),
        )
        for cache in report.caches
    )
    return table("Caches, each when it had most slabs", columns, rows)


def orders(report: Report) -> str:
    """Fragmentation of each zone."""
    return "".join(
        table(
            f"{zone}: which orders could be had",
            ("order", "free blocks", "fragmentation index", "unusable", "mean", "refused"),
            (
                (
                    str(order.order),
                    count(order.blocks),
                    f"{order.fragmentation:.3f}",
                    percent(order.unusable, 1),
                    percent(order.mean_unusable, 1),
                    percent(order.refused, 1),
                )
                for order in zone.orders
            ),
        )
        for zone in report.zones
    )


def locks(report: Report) -> str:
    """By the time that CPUs waited."""
    columns = (
        *("lock class", "waited ms", "of CPU time", "contended", "share", "longest ms"),
        *("waits in", "while held in"),
    )
    rows = (
        (
            *(lock.name, milliseconds(lock.waited), percent(lock.share, 1)),
            *(count(lock.contentions), percent(lock.contentions, lock.acquisitions)),
            *(milliseconds(lock.longest), lock.waits_in, lock.holds_in),
        )
        for lock in report.locks
    )
    return table("Locks by time waited", columns, rows)


def cpus(report: Report) -> str:
    """What each CPU did, and whose memory it freed."""
    columns = (
        *("CPU", "operations", "failed", "interrupts", "pages freed", "cross-CPU"),
        *("objects freed", "cross-CPU"),
    )
    rows = (
        (
            *(f"cpu{cpu.cpu}", count(cpu.operations), count(cpu.failed), count(cpu.interrupts)),
            *(count(free.pages), percent(free.remote_pages, free.pages)),
            *(count(free.objects), percent(free.remote_objects, free.objects)),
        )
        for cpu, free in zip(report.run.cpus, report.frees, strict=False)
    )
    return table("CPUs", columns, rows)


def phases(report: Report) -> str:
    """What ran, and how fast."""
    rows = (
        (
            phase.name + ("" if phase.complete else " (broken off)"),
            count(phase.operations),
            f"{phase.seconds:.2f}",
            count(phase.operations / phase.seconds if phase.seconds else 0),
        )
        for phase in report.run.phases
    )
    return table("Phases", ("workload", "operations", "seconds", "per second"), rows)


def processes(report: Report) -> str:
    """The largest, when they were largest."""
    peak = report.processes
    if peak is None:
        return ""
    rows = (
        (process.name, str(process.pid), *(size(kb << 10) for kb in process[2:]))
        for process in peak.processes
    )
    columns = ("process", "pid", "size", "resident", "proportional", "private")
    return table(f"The largest of {peak.nr_processes} processes", columns, rows)


def pools(report: Report) -> str:
    """What became of allocations from memory pools."""
    if report.mempools is None:
        return ""
    names = report.mempools._fields
    return table("Memory pools", names, [tuple(map(count, report.mempools))])
