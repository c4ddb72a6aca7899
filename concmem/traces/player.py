"""
Replaying a plan: each traced CPU's steps on a CPU of their own, in order.

The model's caches are made before the run, as the traced kernel's were before the recording, and are
given up after it. They are never merged: what a trace tells apart was not merged there.

What the CPUs do, and how they wait for each other, is in :mod:`concmem.traces.replay_cpu`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING

from concmem.errors import BadArgument, PageCountError, SlabError
from concmem.machine import Machine
from concmem.mm.slab_flags import SLAB_NO_MERGE
from concmem.mm.statistics import MachineStatistics
from concmem.runtime.free import wait_interruptibly
from concmem.traces.agreement import CacheSizes, KmallocSizes
from concmem.traces.known_caches import known_cache
from concmem.traces.plan import Plan
from concmem.traces.replay_cpu import CpuCounts, ReplayCpu, Slots, free_part
from concmem.traces.slab_planner import PlannedCache
from concmem.traces.source import printable
from concmem.traces.steps import KMALLOC
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache


@dataclass
class ReplayResult:
    """What a replay did. Filled also when it was broken off."""

    cpus: dict[int, int]
    """Traced CPU to model CPU."""
    page_allocs: int = 0
    page_frees: int = 0
    """Free steps done; each is one free of the trace, or one that it lost."""
    object_allocs: int = 0
    object_frees: int = 0
    """As `page_frees`, of slab objects."""
    failed: int = 0
    """Allocations that the model could not serve; their frees are skipped."""
    waits: int = 0
    """Frees that had to wait for the allocation on another CPU."""
    seconds: float = 0.0
    migratetype_agreement: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(traced, model's) migratetype of each allocation of pages."""
    kmalloc_sizes: KmallocSizes = field(default_factory=Counter)
    caches: tuple[CacheSizes, ...] = ()
    """The caches of the trace, those first that allocate most."""
    at_end: MachineStatistics | None = None
    """Before what is still live is freed."""
    verified: bool = False

    def add(self, counts: CpuCounts) -> None:
        """Add what one CPU did."""
        self.page_allocs += counts.page_allocs
        self.page_frees += counts.page_frees
        self.failed += counts.failed_pages
        self.waits += counts.waits
        self.migratetype_agreement += counts.migratetypes
        self.kmalloc_sizes += counts.kmalloc_sizes

    @property
    def steps(self) -> int:
        done = self.page_allocs + self.page_frees + self.object_allocs + self.object_frees
        return done + self.failed

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds if self.seconds else 0.0


class Player:
    """
    One replay of *plan* on *machine*, which nobody else uses meanwhile.

    Raises:
        BadArgument: the machine has fewer CPUs than the trace.
    """

    def __init__(self, machine: Machine, plan: Plan) -> None:
        if machine.runtime.nr_cpus < len(plan.cpus):
            raise BadArgument(
                f"cpus: the trace has {len(plan.cpus)} CPUs, the machine {machine.runtime.nr_cpus}"
            )
        self._machine = machine
        self._plan = plan
        self._slots = Slots(machine, plan)
        self._caches: list[KmemCache] = []
        self._pages_before: list[int] = []
        self._cpus = [
            ReplayCpu(machine, plan, self._slots, self._caches, plan.steps[cpu])
            for cpu in plan.cpus
        ]
        self.nr_steps = sum(len(steps) for steps in plan.steps.values())
        self.result = ReplayResult({cpu: i for i, cpu in enumerate(plan.cpus)})

    @property
    def progress(self) -> list[int]:
        """Steps done by each CPU, every so often."""
        return [cpu.progress for cpu in self._cpus]

    def stop(self) -> None:
        """Break the replay off: every CPU stops soon."""
        self._slots.stop.value = True

    def run(self) -> ReplayResult:
        """
        Replay, verify, free what is left, verify again.

        Raises:
            KeyboardInterrupt: the replay was broken off. `result` says how far it came.
        """
        self._machine.run([self._prepare])
        self._play()
        self.result.at_end = self._machine.statistics()
        self._machine.verify()
        self._machine.run([self._check_live])
        if self._slots.stop.value:
            self.result.verified = True
            raise KeyboardInterrupt
        self._machine.run([self._free_what_is_left])
        self._machine.verify()
        self._check_nothing_left()
        self.result.verified = True
        return self.result

    # -- before

    def _prepare(self) -> None:
        """Make the caches of the trace. On a CPU."""
        self._pages_before = self._settle()
        for planned in self._plan.slab.caches:
            self._caches.append(self._create(planned))
        sizes = [
            CacheSizes(each.name, each.object_size, each.sizes, made.size, each.allocs, each.frees)
            for each, made in zip(self._plan.slab.caches, self._caches, strict=True)
            if each.allocs
        ]
        self.result.caches = tuple(sorted(sizes, key=lambda cache: (-cache.allocs, cache.name)))

    def _create(self, planned: PlannedCache) -> KmemCache:
        known = known_cache(planned.name)
        return self._machine.kmem_cache_create(
            self._free_name(planned),
            planned.object_size,
            align=known.align,
            flags=known.flags | SLAB_NO_MERGE,
            ctor=_construct if known.ctor else None,
        )

    def _free_name(self, planned: PlannedCache) -> str:
        """A name that no cache of the machine has: as a rule that of the trace."""
        taken = {name for cache in self._machine.slab.caches() for name in names_of(cache)}
        name = planned.name or f"unnamed-{planned.object_size}-{planned.sizes[0]}"
        # A cache has no blanks and no slash in its name, nor what cannot be printed, and is short.
        name = "".join(c if c.isprintable() and c not in " /" else "_" for c in printable(name))
        name = name.encode()[:150].decode(errors="ignore")
        while name in taken:
            name = f"trace:{name}"
        return name

    # -- the run

    def _play(self) -> None:
        """Run every CPU's steps. Ctrl-C stops them soon, and is raised by `run`."""
        start = perf_counter()
        futures = [self._machine.submit(number, cpu.run) for number, cpu in enumerate(self._cpus)]
        try:
            wait_interruptibly(futures)
        except KeyboardInterrupt:
            self.stop()
            wait_interruptibly(futures)
        result = self.result
        result.seconds = perf_counter() - start
        for cpu in self._cpus:
            result.add(cpu.counts)
        result.object_allocs, result.object_frees, failed = self._slots.count_objects()
        result.failed += failed
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise BaseExceptionGroup(f"{len(failures)} failure(s) on the CPUs", failures)

    # -- after

    def _check_live(self) -> None:
        """
        No two live objects or blocks of pages share a byte. On a CPU.

        Raises:
            SlabError: two do.
        """
        blocks = [
            (address, address + self._machine.ksize(address), f"object {obj}")
            for obj, address in enumerate(self._slots.objects)
            if address > 0
        ]
        if not self._slots.stop.value:  # else nobody knows which parts of slots are live
            for slot, offset, order in self._plan.pages.live_at_end:
                page = self._slots.pages[slot]
                if page is not None:
                    start = self._machine.page_address(page) + offset * PAGE_SIZE
                    blocks.append((start, start + (PAGE_SIZE << order), f"pages of slot {slot}"))
        blocks.sort()
        for (start, end, what), (following, _, other) in pairwise(blocks):
            if following < end:
                raise SlabError(
                    f"live at the end of the replay: {what} at {start:#x} to {end:#x}, and {other} "
                    f"at {following:#x}"
                )

    def _free_what_is_left(self) -> None:
        """On a CPU."""
        machine, slots = self._machine, self._slots
        for slot, offset, order in self._plan.pages.live_at_end:
            page = slots.pages[slot]
            if page is not None:
                free_part(machine, page, offset, order, slot in self._plan.pages.split_slots)
        for obj, cache in self._plan.slab.live_at_end:
            address = slots.objects[obj]
            if address > 0:
                free = machine.kfree if cache == KMALLOC else self._caches[cache].free
                free(address)
        for made in self._caches:
            made.destroy()

    def _settle(self) -> list[int]:
        """Pages of each zone that are free once no cache keeps empty slabs. On a CPU."""
        for cache in self._machine.slab.caches():
            cache.shrink()
        self._machine.rcu.rcu_barrier()  # until then RCU keeps the slabs of some
        return self._free_pages()

    def _free_pages(self) -> list[int]:
        return [
            zone.nr_free_pages_snapshot() + sum(pcp.count for pcp in zone.pageset.all())
            for zone in self._machine.zones
        ]

    def _check_nothing_left(self) -> None:
        """Every page came back, also those of slabs."""
        self._machine.run([self._settle])
        after = self._free_pages()
        for zone, pages, now in zip(self._machine.zones, self._pages_before, after, strict=True):
            if now != pages:
                raise PageCountError(
                    f"zone {zone.name}: {pages - now} pages still allocated after the replay freed "
                    "all"
                )


def names_of(cache: KmemCache) -> list[str]:
    """Its own name and those of caches that were merged into it."""
    return [cache.name, *cache.aliases]


def _construct(address: int) -> None:
    """A constructor: that there is one moves the free pointer, what it writes does not matter."""
