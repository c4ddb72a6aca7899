"""The time lines of a run: rates, memory, contention, cross-CPU frees, fragmentation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from concmem.reports.fragmentation import unusable_index
from concmem.reports.html.chart import NR_COLOURS, Chart, Series, render
from concmem.units import PAGE_SIZE, PAGEBLOCK_ORDER

if TYPE_CHECKING:
    from concmem.reports.run import Run
    from concmem.reports.run.rows import Sample, Timeline

MAX_LOCKS: Final = 6
ORDERS: Final = (1, 3, PAGEBLOCK_ORDER)
"""Of which fragmentation is shown."""


def time_lines(run: Run) -> list[str]:
    """Each as HTML."""
    timeline = run.timeline
    seconds = [sample.seconds for sample in timeline.samples]
    phases = [sample.phase for sample in timeline.samples]

    def chart(title: str, unit: str, series: list[Series], stacked: bool = False) -> str:
        return render(Chart(title, unit, seconds, phases, series, stacked))

    return [
        chart("Operations", "per second", _operations(timeline)),
        chart("Memory", "MiB", _memory(timeline), stacked=True),
        chart("Lock contention", "waits per second", _waits(timeline, 0, 1.0)),
        chart("Time waited for locks", "ms per second, all CPUs", _waits(timeline, 1, 1e-6)),
        chart("Cross-CPU frees", "% of frees", _cross_cpu(timeline)),
        chart("Free memory of no use to an order", "% of free pages", _unusable(timeline)),
    ]


def rates(samples: tuple[Sample, ...], value: Callable[[Sample], float]) -> list[float]:
    """What *value* gained per second since the sample before; for the first as for the second."""
    found = [
        max(0.0, value(now) - value(before)) / max(1e-9, now.seconds - before.seconds)
        for before, now in pairwise(samples)
    ]
    return [*found[:1], *found]


def _operations(timeline: Timeline) -> list[Series]:
    samples = timeline.samples
    nr_cpus = len(samples[0].operations) if samples else 0
    if nr_cpus > NR_COLOURS:
        return [Series(f"all {nr_cpus} CPUs", rates(samples, lambda s: sum(s.operations)))]
    return [
        Series(f"cpu{cpu}", rates(samples, lambda sample, cpu=cpu: sample.operations[cpu]))  # type: ignore[misc]
        for cpu in range(nr_cpus)
    ]


def _memory(timeline: Timeline) -> list[Series]:
    """What all pages are; in use is what is neither free nor a slab."""
    zones = range(len(timeline.zones))
    managed = sum(zone.managed for zone in timeline.zones)
    free = [sum(sample.free_pages(zone) for zone in zones) for sample in timeline.samples]
    cached = [sample.cached for sample in timeline.samples]
    slab = [sample.slab for sample in timeline.samples]
    other = [max(0, managed - sum(row)) for row in zip(free, cached, slab, strict=True)]
    mib = PAGE_SIZE / (1 << 20)
    parts = (
        ("slabs", slab, 1),
        ("in use", other, 2),
        ("in page sets", cached, 5),
        ("free", free, 3),
    )
    return [
        Series(name, [pages * mib for pages in values], colour) for name, values, colour in parts
    ]


def _waits(timeline: Timeline, part: int, factor: float) -> list[Series]:
    """Of the lock classes with most of it: contentions, or nanoseconds waited."""
    if not timeline.samples:
        return []
    last = timeline.samples[-1].waits
    names = sorted(last, key=lambda name: -last[name][part])[:MAX_LOCKS]

    def value(sample: Sample, name: str) -> float:
        return sample.waits.get(name, (0, 0))[part] * factor

    return [
        Series(name, rates(timeline.samples, lambda sample, name=name: value(sample, name)))  # type: ignore[misc]
        for name in names
    ]


def _cross_cpu(timeline: Timeline) -> list[Series]:
    freed = rates(timeline.samples, lambda sample: sample.freed)
    cross = rates(timeline.samples, lambda sample: sample.cross_cpu)
    shares = [
        100 * part / whole if whole else 0.0 for part, whole in zip(cross, freed, strict=True)
    ]
    return [Series("pages and objects", [min(100.0, share) for share in shares])]


def _unusable(timeline: Timeline) -> list[Series]:
    """Over all zones: of their free pages together."""

    def share(sample: Sample, order: int) -> float:
        blocks = [sum(column) for column in zip(*sample.blocks, strict=True)]
        return 100 * unusable_index(blocks, order) if any(blocks) else 100.0

    return [
        Series(f"order {order}", [share(sample, order) for sample in timeline.samples])
        for order in ORDERS
        if timeline.samples and order < len(timeline.samples[0].blocks[0])
    ]
