"""A report as text: what is missing, advice with its evidence, then a table for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.cli.display import MAX_ROWS, make_table, print_text
from concmem.reports.advice import PROBLEM
from concmem.reports.words import count, milliseconds, percent, plural, size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from concmem.reports.analysis import MempoolAnalysis
    from concmem.reports.report import Report

MAX_CACHES: Final = 12
MAX_LOCKS: Final = 10
MAX_GROUPS: Final = 10
"""Rows shown of each; ``--json`` has them all."""


def show_report(console: Console, report: Report) -> None:
    """All of it."""
    run = report.run
    ended = ", interrupted" if run.interrupted else ""
    print_text(
        console,
        f"report of {run.name}: {run.verdict}{ended}; {count(run.operations)} operations on "
        f"{plural(len(run.cpus), 'CPU')} in {run.seconds:.1f} s",
        "bold",
    )
    for error in run.errors[:MAX_GROUPS]:
        print_text(console, f"{error.type}: {error.message}", "red")
    for sentence in report.missing:
        print_text(console, f"  not known: {sentence}", "yellow")
    _show_advice(console, report)
    for table in _tables(report):
        console.print()
        console.print(table)
    console.print()
    for line in _lines(report):
        print_text(console, line)


def _show_advice(console: Console, report: Report) -> None:
    console.print()
    if not report.advice:
        print_text(console, "nothing to advise: no rule found anything wrong", "green")
    for advice in report.advice:
        style = "bold red" if advice.level == PROBLEM else "bold"
        print_text(console, f"{advice.level}: {advice.finding}", style)
        for line in advice.evidence:
            print_text(console, f"    {line}")
        print_text(console, f"  -> {advice.action}")


def _tables(report: Report) -> Iterator[Table]:
    if report.memory is not None:
        yield _memory_table(report)
    for zone in report.zones:
        table = make_table(
            f"{zone}, fullest: {count(zone.free)} of {count(zone.managed)} pages free",
            ("order", "free blocks", "fragmentation", "unusable", "mean", "refused"),
        )
        for order in zone.orders:
            table.add_row(
                str(order.order),
                count(order.blocks),
                "had" if order.fragmentation < 0 else f"{order.fragmentation:.3f}",
                percent(order.unusable, 1),
                percent(order.mean_unusable, 1),
                percent(order.refused, 1),
            )
        yield table
    if report.caches:
        yield _cache_table(report)
    if report.frees[-1].freed:
        yield _free_table(report)
    if report.locks:
        yield _lock_table(report)
    if report.processes is not None:
        yield _process_table(report)
    if report.leaks:
        yield _leak_table(report)


def _memory_table(report: Report) -> Table:
    memory = report.memory
    assert memory is not None
    table = make_table(
        f"memory when least was free: at {memory.seconds:.1f} s, in {memory.phase or 'the end'}",
        ("what", "size", "share"),
    )
    for name, kb in memory.parts.items():
        table.add_row(name, size(kb << 10), percent(kb, memory.total))
    table.add_row("all", size(memory.total << 10), "", style="bold")
    return table


def _cache_table(report: Report) -> Table:
    table = make_table(
        "caches, each when it had most slabs",
        (
            *("cache", "size", "slabs", "in use", "wasted", "free", "padding", "tails"),
            *("partial", "empty", "hit rate", "remote frees"),
        ),
    )
    for cache in report.caches[:MAX_CACHES]:
        table.add_row(
            cache.name,
            count(cache.object_size),
            count(cache.slabs),
            percent(cache.in_use, cache.objects),
            size(cache.wasted),
            size(cache.free_bytes),
            size(cache.padding_bytes),
            size(cache.tail_bytes),
            count(cache.partial),
            count(cache.empty),
            percent(cache.alloc_hits, cache.allocated),
            percent(cache.remote, cache.freed),
        )
    if len(report.caches) > MAX_CACHES:
        table.add_row(f"... {len(report.caches) - MAX_CACHES} more")
    return table


def _free_table(report: Report) -> Table:
    table = make_table(
        "frees of what another CPU had allocated",
        ("cpu", "pages freed", "cross-CPU", "share", "objects freed", "cross-CPU", "share"),
    )
    *cpus, total = report.frees
    for row in (*cpus[:MAX_ROWS], total):
        table.add_row(
            "all" if row is total else f"cpu{row.cpu}",
            count(row.pages),
            count(row.remote_pages),
            percent(row.remote_pages, row.pages),
            count(row.objects),
            count(row.remote_objects),
            percent(row.remote_objects, row.objects),
        )
    return table


def _lock_table(report: Report) -> Table:
    table = make_table(
        "locks by time waited",
        ("lock class", "waited ms", "of CPU time", "contended", "share", "longest ms"),
    )
    table.add_column("waits in", no_wrap=True)
    for lock in report.locks[:MAX_LOCKS]:
        table.add_row(
            lock.name,
            milliseconds(lock.waited),
            percent(lock.share, 1),
            count(lock.contentions),
            percent(lock.contentions, lock.acquisitions),
            milliseconds(lock.longest),
            lock.waits_in,
        )
    return table


def _process_table(report: Report) -> Table:
    peak = report.processes
    assert peak is not None
    table = make_table(
        f"processes when they had most: at {peak.seconds:.1f} s, {peak.nr_processes} of them",
        ("process", "pid", "size", "resident", "proportional", "private"),
    )
    for process in peak.processes:
        sizes = (process.size, process.rss, process.pss, process.private)
        table.add_row(process.name, str(process.pid), *(size(kb << 10) for kb in sizes))
    return table


def _leak_table(report: Report) -> Table:
    assert report.leaks is not None
    table = make_table("leaks by who allocated", ("where", "objects", "size", "first at"))
    for group in report.leaks[:MAX_GROUPS]:
        table.add_row(
            group.where, count(group.objects), size(group.size), f"{group.addresses[0]:#x}"
        )
    if len(report.leaks) > MAX_GROUPS:
        table.add_row(f"... {len(report.leaks) - MAX_GROUPS} more")
    return table


def _lines(report: Report) -> Iterator[str]:
    """What needs no table."""
    mixed = [zone for zone in report.zones if zone.mixed is not None]
    if mixed:
        counts = (f"{zone} {zone.mixed} of {zone.mixed_of}" for zone in mixed)
        yield f"mixed page blocks, at most: {', '.join(counts)}"
    for group in report.merges[:MAX_GROUPS]:
        yield f"could share slabs: {', '.join(group.names)} ({size(group.saved)} less)"
    if report.mempools is not None:
        yield _mempool_line(report.mempools)
    is_whole = not report.run.interrupted and all(phase.complete for phase in report.run.phases)
    until = "" if is_whole else " until the run was broken off"
    if report.leaks == ():
        yield f"kmemleak found no leak{until}"
    if report.bad_accesses == ():
        yield f"slab debugging found no illegal access{until}"
    for access in report.bad_accesses or ():
        yield f"{access.cache}: {access.kind}, {plural(access.reports, 'report')}; the first:"
        yield access.text


def _mempool_line(pools: MempoolAnalysis) -> str:
    return (
        f"memory pools: {count(pools.asked)} allocations, {count(pools.allocator)} from the allocator, "
        f"{count(pools.reserved)} from a reserve, {count(pools.waited)} times waited, "
        f"{count(pools.failed)} failed"
    )
