"""
``struct kmem_cache``: a cache of objects of one size, and how to allocate and free one.

`alloc` and `free` are the fast paths, bound at construction (:mod:`concmem.mm.slub_fast_path`). All
the rest is done by the classes that are named after what they do and get the cache as their first
argument, as the functions of ``mm/slub.c`` do: :mod:`~concmem.mm.slub_alloc`,
:mod:`~concmem.mm.slub_free`, :mod:`~concmem.mm.slub_cpu`, :mod:`~concmem.mm.slub_bulk`,
:mod:`~concmem.mm.slab_page`, :mod:`~concmem.mm.slab_common`.

Lock order::

    slab_mutex -> list_lock
    the cpu_slab lock only keeps interrupts of its own CPU out, so it nests with list_lock either way
    list_lock is taken in interrupts; neither is held across a page allocation

Follows ``mm/slub.c`` of Linux 6.12, with the lists and colours of the older ``mm/slab.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from concmem.errors import CacheDestroyed, FreepointerCorrupt
from concmem.mm import gfp as gfp_flags
from concmem.mm.freelist import HardenedWords
from concmem.mm.gfp import GFP_KERNEL
from concmem.mm.kmem_cache_cpu import EVENT_NAMES
from concmem.mm.page import INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT
from concmem.mm.slab_flags import (
    SLAB_CACHE_DMA,
    SLAB_CACHE_DMA32,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.statistics import SlabCpuStatistics, SlabNodeStatistics, SlabStatistics
from concmem.units import PAGE_OFFSET

if TYPE_CHECKING:
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.page import Page
    from concmem.mm.slab_common import SlabCommon
    from concmem.mm.slab_geometry import Geometry
    from concmem.mm.slub_fast_path import Alloc, Free
    from concmem.runtime.api import PerCpu, Runtime, Words


class FreelistOptions(NamedTuple):
    """How free lists are written; the same for all caches of a machine."""

    random: bool = False
    """CONFIG_SLAB_FREELIST_RANDOM: a new slab's objects come in a random order."""
    hardened: bool = False
    """CONFIG_SLAB_FREELIST_HARDENED: free pointers are stored encoded."""


PARTS: Final = frozenset(("alloc", "free", "cpu_slab", "node", "rng", "random", "random_seq"))
"""What a cache is used with: its functions, what each CPU and each node has of it, its randomness."""


class KmemCache:
    """
    One cache. Made by ``machine.kmem_cache_create`` only.

    Sizes and offsets in bytes. Set once, but for what merging changes under slab_mutex: `name`, `aliases`,
    `refcount`, and `object_size` and `inuse`, which only grow, inside of what an object has room for. They are
    read without a lock.

    Most caches of a machine are never used. So the larger part of one, `PARTS`, is made when it is first
    asked for, whoever asks; making it takes no lock and cannot sleep.

    Attributes, besides those documented here:
        alloc(gfp=GFP_KERNEL, node=None): the address of an object, or ``None``. On a CPU.
        free(address): free one. On a CPU.
    """

    # Of `PARTS`:
    alloc: Alloc
    free: Free
    cpu_slab: PerCpu[KmemCacheCpu]
    node: Sequence[KmemCacheNode]
    """Lists of each NUMA node, by number."""
    rng: Any
    random: int
    """Key of hardened free pointers; 0: they are stored as they are."""
    random_seq: list[int]
    """A permutation of the objects of a slab, or nothing."""

    def __init__(
        self,
        common: SlabCommon,
        rt: Runtime,
        name: str,
        object_size: int,
        geometry: Geometry,
        flags: int,
        ctor: Callable[[int], None] | None,
        usersize: int,
    ) -> None:
        self._common = common
        self.name = name
        self.object_size = object_size
        """As asked for."""
        self.inuse = geometry.inuse
        """Offset of the metadata."""
        self.align = geometry.align
        self.offset = geometry.offset
        """Of the free pointer in a free object."""
        self.size = geometry.size
        """From one object to the next."""
        self.order = geometry.order
        """Of a slab's pages, when memory allows."""
        self.objs_per_slab = geometry.objects
        self.min_order = geometry.min_order
        """Of a slab's pages, when memory is short."""
        self.min_objects = geometry.min_objects
        self.colour = geometry.colour
        """Number of colours: different places for the first object of a slab."""
        self.colour_off = geometry.colour_off
        """Bytes from one colour to the next."""
        self.min_partial = geometry.min_partial
        """Empty slabs that each node keeps, at most."""
        self.cpu_partial = geometry.cpu_partial
        """Objects that a CPU partial list should hold."""
        self.cpu_partial_slabs = geometry.cpu_partial_slabs
        """Slabs on a CPU partial list that make it full."""
        self.flags = flags
        self.ctor = ctor
        """Called with the address of each object of a new slab; free objects stay constructed."""
        self.usersize = usersize
        """Bytes that may be copied to or from user space."""
        self.remote_node_defrag_ratio = 1000
        """0: never take partial slabs of other nodes. Else always."""
        self.birth_name = name
        """As it was made; what is random of it follows from that."""
        self.allocflags = self._page_gfp()
        # slab_mutex
        self.refcount = 1
        """This cache and those merged into it."""
        self.aliases: list[str] = []
        """Names of those merged into it."""

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: a part of `PARTS`, for the first time."""
        if name not in PARTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Two CPUs, or a CPU and its interrupt, may both come here first and both make the parts. One
        # indivisible step decides whose count, before anybody has used any.
        parts = self.__dict__.setdefault("_parts", self._make_parts())
        self.__dict__.update(parts)
        return parts[name]

    def _make_parts(self) -> dict[str, Any]:
        """Each of `PARTS`, by its name. Takes no lock; one of two that race is thrown away."""
        return self._common.make_parts(self)

    @property
    def is_up(self) -> bool:
        """Whether anybody has ever asked for what is needed to use it."""
        return "_parts" in self.__dict__

    def make_random(self, rng: Any, freelist: FreelistOptions) -> dict[str, Any]:
        """The parts of `PARTS` that come by chance."""
        objects = self.objs_per_slab
        return {
            "rng": rng,
            "random": rng.getrandbits(64) if freelist.hardened else 0,
            "random_seq": rng.sample(range(objects), objects) if freelist.random else [],
        }

    def _page_gfp(self) -> int:
        """GFP flags of every slab's pages."""
        gfp = gfp_flags.COMP if self.order else 0
        if self.flags & SLAB_CACHE_DMA:
            gfp |= gfp_flags.GFP_DMA
        if self.flags & SLAB_CACHE_DMA32:
            gfp |= gfp_flags.GFP_DMA32
        if self.reclaimable:
            gfp |= gfp_flags.RECLAIMABLE
        return gfp

    @property
    def reclaimable(self) -> bool:
        """Whether a shrinker can free the objects (SLAB_RECLAIM_ACCOUNT)."""
        return bool(self.flags & SLAB_RECLAIM_ACCOUNT)

    def check_alive(self) -> None:
        """Raise `CacheDestroyed` if the cache has been destroyed."""
        if not self.refcount:
            raise CacheDestroyed(f"cache: {self.name} has been destroyed")

    # -- free pointers

    def words_for(self, words: Words) -> Words:
        """*words* as the free pointers of this cache are stored in them."""
        return HardenedWords(words, self.random) if self.random else words

    def freepointer_index(self, address: int) -> int:
        """Which word of memory holds the free pointer of the object at *address*."""
        return address + self.offset - PAGE_OFFSET >> 3

    def get_freepointer(self, words: Words, address: int) -> int:
        """What follows the free object at *address* on its free list; 0: nothing."""
        try:
            return words[address + self.offset - PAGE_OFFSET >> 3]
        except IndexError:
            raise self.freepointer_corrupt(address) from None

    def freepointer_corrupt(self, address: int) -> FreepointerCorrupt:
        """The error for a free list that leads to *address*, which is no memory."""
        return FreepointerCorrupt(
            f"{self.name}: a free list leads to {address:#x}, where no object is: somebody wrote to a "
            "free object"
        )

    def set_freepointer(self, words: Words, address: int, following: int) -> None:
        """Link *following* after the free object at *address*."""
        words[address + self.offset - PAGE_OFFSET >> 3] = following

    def usable_size(self) -> int:
        """Bytes of an object that its owner may use (``slab_ksize``)."""
        return self.inuse if self.flags & SLAB_TYPESAFE_BY_RCU or self.ctor else self.size

    # -- the rest of the interface

    def alloc_bulk(self, nr: int, gfp: int = GFP_KERNEL) -> list[int]:
        """
        Allocate *nr* objects (``kmem_cache_alloc_bulk``). On a CPU; may sleep as `alloc` does.

        Returns:
            Their addresses; none at all when memory is short.
        """
        return self._common.bulk.alloc_bulk(self, nr, gfp)

    def free_bulk(self, addresses: Sequence[int]) -> None:
        """
        Free objects (``kmem_cache_free_bulk``). On a CPU; never sleeps.

        Raises:
            BadFree, DoubleFree: as `free`; then none of them has been freed.
        """
        self._common.bulk.free_bulk(self, addresses)

    def flush_all(self) -> None:
        """Have every CPU give up the slabs it keeps. May sleep."""
        self.check_alive()
        self._common.cpu_slabs.flush_all(self)

    def shrink(self) -> int:
        """
        Flush, then free all empty slabs and sort the others, fullest first. May sleep.

        Returns:
            Slabs that are left on the partial lists.
        """
        return self._common.shrink(self)

    def destroy(self, name: str | None = None) -> None:
        """
        Give the cache up (``kmem_cache_destroy``); the last of merged ones frees it. May sleep.

        Args:
            name: of merged caches, which one; by default the newest.

        Raises:
            BadArgument: the cache has no such name.
            CacheBusy: there are live objects. The cache stays as it is; the kernel log names them.
        """
        self._common.destroy(self, name)

    def statistics(self) -> SlabStatistics:
        """
        A copy of everything the cache knows. Stops nobody.

        The per-CPU rows are read without a lock, each slab once: a CPU may change its slab meanwhile,
        and even give it back, so that counts of one that is another cache's by now may come in.
        """
        cpus = list(enumerate(self.cpu_slab.all()))
        events = [cpu_slab.all_events() for _, cpu_slab in cpus]
        return SlabStatistics(
            name=self.name,
            aliases=tuple(self.aliases),
            flags=self.flags,
            object_size=self.object_size,
            inuse=self.inuse,
            align=self.align,
            size=self.size,
            offset=self.offset,
            usersize=self.usersize,
            ctor=getattr(self.ctor, "__qualname__", repr(self.ctor)) if self.ctor else None,
            order=self.order,
            objs_per_slab=self.objs_per_slab,
            min_order=self.min_order,
            min_objs=self.min_objects,
            colour=self.colour,
            colour_off=self.colour_off,
            min_partial=self.min_partial,
            cpu_partial=self.cpu_partial,
            cpu_partial_slabs=self.cpu_partial_slabs,
            refcount=self.refcount,
            nodes=tuple(self._node_statistics(n) for n in self.node),
            cpus=tuple(_cpu_statistics(cpu, c) for cpu, c in cpus),
            events={name: tuple(counts[name] for counts in events) for name in EVENT_NAMES},
        )

    @staticmethod
    def _node_statistics(n: KmemCacheNode) -> SlabNodeStatistics:
        with n.list_lock:
            partial = [slab.freelist_counters.second for slab in n.slabs_partial]
            free = [slab.freelist_counters.second for slab in n.slabs_free]
            nr_full = n.nr_full
        return SlabNodeStatistics(
            node=n.node,
            nr_slabs=n.nr_slabs,
            nr_partial=len(partial),
            nr_free=len(free),
            nr_full=nr_full,
            total_objects=n.total_objects,
            free_objects=n.free_objects,
            partial_objects=sum(map(_objects, partial)) + sum(map(_objects, free)),
            partial_inuse=sum(map(_inuse, partial)),
        )

    def __repr__(self) -> str:
        return f"<kmem_cache {self.name} object_size:{self.object_size} size:{self.size}>"


def _objects(counters: int) -> int:
    return counters >> OBJECTS_SHIFT & OBJECTS_MASK


def _inuse(counters: int) -> int:
    return counters & INUSE_MASK


def _cpu_statistics(cpu: int, c: KmemCacheCpu) -> SlabCpuStatistics:
    # Each pointer is read once: between two reads the CPU may have given the slab up.
    slab: Page | None = c.page
    partial: Page | None = c.partial
    counters = slab.freelist_counters.second if slab is not None else 0
    return SlabCpuStatistics(
        cpu=cpu,
        slab_node=slab.zone.zone_pgdat.node_id if slab is not None else -1,
        slab_objects=_objects(counters),
        slab_inuse=_inuse(counters),
        partial_slabs=partial.private if partial is not None else 0,
        partial_node=partial.zone.zone_pgdat.node_id if partial is not None else -1,
    )
