"""What ``concmem stress`` shows of slab caches and vmalloc after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.cli.display import MAX_ROWS, make_table, print_text
from concmem.reports.words import count, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from concmem.workloads.result import StressResult

MAX_CACHES: Final = 10
"""Caches shown; ``--json`` has them all."""


def show_slabs(console: Console, result: StressResult) -> None:
    """Objects by CPU, the most active caches, and a line about vmalloc; nothing if there were none."""
    if result.objects_allocated:
        console.print()
        console.print(_object_table(result))
    if result.slabs:
        console.print()
        console.print(_cache_table(result))
    vmalloc = result.vmalloc
    if vmalloc.areas_allocated:
        print_text(
            console,
            f"\nvmalloc: {count(vmalloc.areas_allocated)} areas allocated, "
            f"{count(vmalloc.areas_freed)} freed, {count(vmalloc.purges)} purges, "
            f"{count(vmalloc.flushes)} TLB flushes; at the end {count(vmalloc.nr_vmalloc_pages)} "
            f"pages in areas and {count(vmalloc.nr_lazy_pages)} waiting for a flush",
        )


def _object_table(result: StressResult) -> Table:
    table = make_table("objects", ("cpu", "allocated", "freed", "cross-CPU", "share"))
    for cpu in result.cpus[:MAX_ROWS]:
        table.add_row(
            f"cpu{cpu.cpu}",
            count(cpu.objects_allocated),
            count(cpu.objects_freed),
            count(cpu.cross_cpu_object_frees),
            percent(cpu.cross_cpu_object_frees, cpu.objects_freed),
        )
    if len(result.cpus) > MAX_ROWS:
        table.add_row(f"... {len(result.cpus) - MAX_ROWS} more")
    table.add_row(
        "all",
        count(result.objects_allocated),
        count(result.objects_freed),
        count(result.cross_cpu_object_frees),
        percent(result.cross_cpu_object_frees, result.objects_freed),
        style="bold",
    )
    return table


def _cache_table(result: StressResult) -> Table:
    table = make_table(
        "most active caches",
        (
            *("cache", "size", "allocated", "fast path", "freed", "fast path", "slow path"),
            *("new slabs", "freed slabs"),
        ),
    )
    for slab in result.slabs[:MAX_CACHES]:
        allocated = slab.alloc_fastpath + slab.alloc_slowpath
        freed = slab.free_fastpath + slab.free_slowpath
        table.add_row(
            slab.name,
            count(slab.object_size),
            count(allocated),
            percent(slab.alloc_fastpath, allocated),
            count(freed),
            percent(slab.free_fastpath, freed),
            count(slab.free_slowpath),
            count(slab.slabs_allocated),
            count(slab.slabs_freed),
        )
    if len(result.slabs) > MAX_CACHES:
        table.add_row(f"... {len(result.slabs) - MAX_CACHES} more")
    return table
