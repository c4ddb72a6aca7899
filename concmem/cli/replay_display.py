"""What ``concmem replay-trace`` shows: progress, and tables at the end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from concmem.cli.display import lock_table, make_live_console, make_table, print_text
from concmem.mm.migratetype import migratetype_name
from concmem.reports.buddyinfo import render as render_buddyinfo
from concmem.reports.fragmentation import unusable_index
from concmem.reports.words import count, percent
from concmem.traces.agreement import cache_agreement, kmalloc_agreement
from concmem.units import NR_PAGE_ORDERS

if TYPE_CHECKING:
    from concmem.cli.replay_trace import Reading
    from concmem.mm.statistics import MachineStatistics
    from concmem.traces.plan import PagePlan, Plan, SlabPlan
    from concmem.traces.player import Player, ReplayResult

REFRESH_SECONDS = 0.2

MAX_CACHES = 12
"""Caches shown; ``--json`` has them all."""

MAX_DIFFERING = 20
"""Sizes shown that differ from the traced kernel's."""


@contextmanager
def replay_progress(player: Player) -> Iterator[None]:
    """A progress bar on standard error while the body of the ``with`` runs; none if no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    console = make_live_console(sys.stderr)
    done = threading.Event()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("replaying", total=max(1, player.nr_steps))

        def watch() -> None:
            while not done.wait(REFRESH_SECONDS):
                progress.update(task, completed=sum(player.progress))

        watcher = threading.Thread(target=watch, name="replay-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def show_malformed(reading: Reading) -> None:
    """Malformed lines on standard error, the first of them with text."""
    for line in reading.shown:
        print(f"concmem: malformed {line}", file=sys.stderr)
    if reading.malformed > len(reading.shown):
        more = reading.malformed - len(reading.shown)
        print(f"concmem: malformed: {more} more", file=sys.stderr)


def show_replay(
    console: Console, plan: Plan, reading: Reading, result: ReplayResult, verdict: str
) -> None:
    """All tables, and the verdict."""
    _show_events(console, plan, reading, result)
    if plan.pages.nr_slots:
        _show_pages(console, plan.pages, result)
    if plan.slab.nr_objects:
        _show_slab(console, plan.slab, result)
    if result.at_end is not None:
        _show_memory(console, result.at_end)
        locks = lock_table(result.at_end.locks)
        if locks is not None:
            console.print(locks)
            console.print()
    style = "bold green" if verdict == "clean" else "bold red"
    print_text(
        console,
        f"{verdict}: {count(result.steps)} steps in {result.seconds:.2f} s "
        f"({count(result.steps_per_second)}/s; with reading the file "
        f"{count(events_per_second(plan, reading, result))} events/s), "
        f"{count(plan.cross_cpu_frees)} cross-CPU frees, {count(result.waits)} of them waited; "
        + ("verified" if result.verified else "not verified"),
        style,
    )


def events_per_second(plan: Plan, reading: Reading, result: ReplayResult) -> float:
    """Events of the trace, as far as it came, per second of reading, planning and replaying."""
    seconds = reading.seconds + result.seconds
    nr_steps = sum(len(steps) for steps in plan.steps.values())
    share = result.steps / nr_steps if nr_steps else 1.0
    return sum(plan.events.values()) * share / seconds if seconds else 0.0


def _show_events(console: Console, plan: Plan, reading: Reading, result: ReplayResult) -> None:
    table = make_table("events of the trace", ("event", "times"))
    for name, times in sorted(plan.events.items(), key=lambda item: -item[1]):
        table.add_row(name, count(times))
    console.print(table)
    console.print()
    table = make_table("what became of them", ("", "events"))
    table.add_row("replayed", count(plan.planned_events))
    for reason, times in sorted(plan.skipped.items(), key=lambda item: -item[1]):
        table.add_row(f"skipped: {reason}", count(times))
    if reading.malformed:
        table.add_row("malformed lines", count(reading.malformed))
    for name, times in reading.unknown.most_common(5):
        table.add_row(f"no kmem event: {name}", count(times))
    if reading.lost:
        table.add_row("lost by the tracer", count(reading.lost))
    if plan.implied_frees:
        table.add_row("frees the trace lost, done before the next allocation of the same address",
                      count(plan.implied_frees))  # fmt: skip
    if result.failed:
        table.add_row("allocations that the model could not serve", count(result.failed))
    console.print(table)
    console.print()


def _show_pages(console: Console, plan: PagePlan, result: ReplayResult) -> None:
    table = make_table("pages by order", ("order", "allocations", "frees"))
    for order in sorted({*plan.allocs_by_order, *plan.frees_by_order}):
        table.add_row(
            str(order),
            count(plan.allocs_by_order.get(order, 0)),
            count(plan.frees_by_order.get(order, 0)),
        )
    console.print(table)
    console.print()
    table = make_table("pages by migratetype", ("migratetype", "in the trace", "same in the model"))
    for migratetype, times in plan.allocs_by_migratetype.items():
        same = result.migratetype_agreement[migratetype, migratetype]
        table.add_row(
            migratetype_name(migratetype), count(times), f"{count(same)} ({percent(same, times)})"
        )
    console.print(table)
    console.print()


def _show_slab(console: Console, plan: SlabPlan, result: ReplayResult) -> None:
    table = make_table("slab objects", ("cache", "object size", "allocations", "frees"))
    if plan.kmallocs:
        table.add_row("kmalloc", "", count(plan.kmallocs), count(plan.kfrees))
    for cache in result.caches[:MAX_CACHES]:
        table.add_row(cache.label, count(cache.object_size), count(cache.allocs),
                      count(cache.frees))  # fmt: skip
    if others := result.caches[MAX_CACHES:]:
        table.add_row(f"{len(others)} other caches", "", count(sum(c.allocs for c in others)),
                      count(sum(c.frees for c in others)))  # fmt: skip
    console.print(table)
    console.print()
    _show_agreement(console, result)


def _show_agreement(console: Console, result: ReplayResult) -> None:
    table = make_table("bytes set aside", ("", "as in the traced kernel", "of"))
    for label, (same, all_of_them) in (
        ("kmalloc", kmalloc_agreement(result.kmalloc_sizes)),
        ("caches", cache_agreement(result.caches)),
    ):
        table.add_row(label, count(same), count(all_of_them))
    console.print(table)
    console.print()
    differing = [
        *(
            (f"kmalloc of {size}", traced, model, times)
            for (size, traced, model), times in sorted(result.kmalloc_sizes.items())
            if traced != model
        ),
        *(
            (cache.label, traced, cache.model, cache.allocs)
            for cache in result.caches
            if not cache.same
            for traced in cache.traced
        ),
    ]
    if differing:
        table = make_table(
            "bytes set aside that differ", ("", "traced kernel", "model", "allocations")
        )
        for label, traced, model, times in differing[:MAX_DIFFERING]:
            table.add_row(label, count(traced), count(model), count(times))
        if len(differing) > MAX_DIFFERING:
            table.add_row(f"{len(differing) - MAX_DIFFERING} more", "", "", "")
        console.print(table)
        console.print()


def _show_memory(console: Console, stats: MachineStatistics) -> None:
    print_text(console, "buddyinfo at the end of the trace", "bold")
    print_text(console, render_buddyinfo(stats))
    table = make_table(
        "unusable free space index (share of free pages that cannot serve an order)",
        ("zone", *(str(order) for order in range(NR_PAGE_ORDERS))),
    )
    for node in stats.nodes:
        for zone in node.zones:
            if zone.managed:
                free = [sum(counts) for counts in zone.free_counts]
                indices = (unusable_index(free, order) for order in range(NR_PAGE_ORDERS))
                table.add_row(f"{node.node}/{zone.name}", *(f"{index:.3f}" for index in indices))
    console.print(table)
    console.print()
