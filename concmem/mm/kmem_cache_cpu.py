"""
``struct kmem_cache_cpu``: the slab that one CPU allocates from, and further ones it keeps.

Only its own CPU changes it, flushes by others included (they are interrupts there). Two rules keep it
whole although interrupts come at any point between two steps:

* ``{freelist, tid}`` changes by compare-exchange in the fast paths. The tid, unique over CPUs and
  time, changes with every operation, so what an interrupt did in between is never overlooked, also
  when the free list looks the same again.
* Everything else, and every other change of the free list, happens under `lock`, and bumps the tid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from concmem.mm.local_lock import LocalLock
from concmem.mm.memory import pfn_to_virt
from concmem.runtime.api import THIS_CPU, lockless_reads
from concmem.units import PAGE_OFFSET

if TYPE_CHECKING:
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page
    from concmem.runtime.api import Pair, Runtime, Words

TID_STEP: Final = 256
"""``roundup_pow_of_two(CONFIG_NR_CPUS)``: tid modulo this is the CPU."""

EVENT_NAMES: Final = (
    "alloc_fastpath",
    "alloc_slowpath",
    "free_fastpath",
    "free_slowpath",
    "free_frozen",
    "free_add_partial",
    "free_remove_partial",
    "alloc_from_partial",
    "alloc_slab",
    "alloc_refill",
    "alloc_node_mismatch",
    "free_slab",
    "cpuslab_flush",
    "deactivate_full",
    "deactivate_empty",
    "deactivate_to_head",
    "deactivate_to_tail",
    "deactivate_remote_frees",
    "deactivate_bypass",
    "order_fallback",
    "cmpxchg_double_cpu_fail",
    "cmpxchg_double_fail",
    "cpu_partial_alloc",
    "cpu_partial_free",
    "cpu_partial_node",
    "cpu_partial_drain",
)
"""``CONFIG_SLUB_STATS``, by sysfs name."""

_NOBODY: Final[dict[int, int]] = {}
"""The owners of no slab. Nothing is ever put in: that takes an object of the CPU slab."""


class KmemCacheCpu:
    """One cache on one CPU."""

    __slots__ = (
        "cpu",
        "events",
        "fp_base",
        "free_fastpath",
        "freelist_tid",
        "lock",
        "node",
        "nr_slow_changes",
        "offset",
        "owners",
        "page",
        "partial",
        "words",
    )

    # Others look at page and partial to see whether there is anything to flush. What comes after that
    # look came after the flush, as far as they can tell.
    __guarded_by__: Final = {
        "page": lockless_reads(THIS_CPU),
        "owners": THIS_CPU,
        "partial": lockless_reads(THIS_CPU),
    }

    words: Words
    """Memory as this CPU sees it; free pointers are read and written through it. See `come_up`."""
    fp_base: int
    """The free pointer of the object at address *a* is word ``(a + fp_base) >> 3``. See `come_up`."""

    def __init__(self, rt: Runtime, offset: int) -> None:
        self.freelist_tid: Pair = rt.this_cpu_pair(0, 0, "cpu_slab->freelist_tid")
        """The first free object (0: none) and the transaction id."""
        self.page: Page | None = None
        """The CPU slab, frozen, or ``None``."""
        self.owners: dict[int, int] = _NOBODY
        """The owners of the CPU slab's objects; empty, for good, when there is none."""
        self.partial: Page | None = None
        """First of the slabs kept, linked by ``next``; ``private`` is how many there are from it on."""
        self.node = -1
        """NUMA node of the CPU slab."""
        self.offset = offset
        """Of the free pointer in a free object, in words."""
        self.lock = LocalLock(rt)
        self.cpu = -1
        """Number of the CPU; -1 until it first comes here."""
        self.free_fastpath = 0
        self.nr_slow_changes = 0
        """Changes of the free list that were no fast path."""
        self.events: dict[str, int] = dict.fromkeys(EVENT_NAMES, 0)
        """What the slow paths count."""

    @property
    def freelist(self) -> int | None:
        """Address of the first free object of the CPU's own free list."""
        return self.freelist_tid.first or None

    @property
    def tid(self) -> int:
        """The transaction id."""
        return self.freelist_tid.second

    @property
    def page_offset(self) -> int:
        """Bytes from the CPU slab's first page to its first object: its colour."""
        page = self.page
        return 0 if page is None else page.s_mem - pfn_to_virt(page.pfn)

    @property
    def kmem_cache_node(self) -> KmemCacheNode | None:
        """The node structure of the CPU slab."""
        page = self.page
        cache = page.slab_cache if page is not None else None
        return None if page is None or cache is None else cache.node[page.zone.zone_pgdat.node_id]

    # -- on the CPU itself

    def come_up(self, cpu: int, words: Words) -> None:
        """The CPU is here for the first time (``init_kmem_cache_cpus``)."""
        self.words = words
        self.fp_base = self.offset * 8 - PAGE_OFFSET
        # Kernel threads have numbers above those of CPUs, perhaps above TID_STEP.
        self.freelist_tid.set(0, cpu % TID_STEP)
        self.cpu = cpu

    def load(self, slab: Page, node: int, freelist: int) -> None:
        """Make *slab* the CPU slab, with *freelist*. Caller holds `lock`."""
        self.page = slab
        self.owners = slab.owners
        self.node = node
        self.set_freelist(freelist)

    def set_freelist(self, freelist: int) -> None:
        """Store the free list and bump the tid. Caller holds `lock`."""
        pair = self.freelist_tid
        self.nr_slow_changes += 1
        pair.set(freelist, self._next_tid(pair.second))

    def take_away(self) -> tuple[Page | None, int]:
        """The CPU slab and its free list, which the CPU then has no more. Caller holds `lock`."""
        slab, freelist = self.page, self.freelist_tid.first
        self.page = None
        self.owners = _NOBODY
        self.node = -1
        self.set_freelist(0)
        return slab, freelist

    @staticmethod
    def _next_tid(tid: int) -> int:
        return tid + TID_STEP

    # -- the CPU partial list. Caller holds `lock`

    def push_partial(self, slab: Page, limit: int) -> Page | None:
        """
        Keep *slab*, free or partly free, on no list and not frozen.

        Returns:
            The whole old list if it has *limit* slabs or more: the caller gives it to the nodes.
        """
        old = self.partial
        full = None
        if old is not None and old.private >= limit:
            full, old = old, None
        slab.private = old.private + 1 if old is not None else 1
        slab.next = old
        self.partial = slab
        return full

    def pop_partial(self) -> Page | None:
        """The first slab of the list, taken off it."""
        slab = self.partial
        if slab is not None:
            self.partial = cast("Page | None", slab.next)
            slab.next = None
            slab.private = 0
        return slab

    def take_partial(self) -> Page | None:
        """The whole list."""
        slab, self.partial = self.partial, None
        return slab

    def count(self, event: str, nr: int = 1) -> None:
        """Count *event* on this CPU (``stat``)."""
        self.events[event] += nr

    def all_events(self) -> dict[str, int]:
        """
        Every event. No lock: exact while the CPU is between two operations.

        Every change of the free list bumps the tid, so those that were no slow change and no fast free
        were fast allocations: `alloc` need not count them.
        """
        frees = self.free_fastpath
        changes = self.tid // TID_STEP - self.nr_slow_changes
        return {
            **self.events,
            "alloc_fastpath": self.events["alloc_fastpath"] + max(0, changes - frees),
            "free_fastpath": self.events["free_fastpath"] + frees,
        }
