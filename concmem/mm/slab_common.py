"""
The life of caches: create, merge, shrink, destroy.

Locks:
    cpu_hotplug_lock  while it is held, shared, no CPU goes; taken before slab_mutex
    slab_mutex      the list of caches, their names, `refcount` and `aliases`; may be held while CPUs
                    are flushed, which sleeps

Follows ``mm/slab_common.c`` and ``kmem_cache_destroy``/``__kmem_cache_do_shrink`` of Linux 6.12.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from concmem.errors import BadArgument, BadArgumentType, DoubleFree, MachineClosed
from concmem.mm.kmem_cache import FreelistOptions, Functions, KmemCache
from concmem.mm.kmem_cache_cpu import KmemCacheCpu
from concmem.mm.kmem_cache_node import KmemCacheNode
from concmem.mm.page import INUSE_MASK, OBJECTS_MASK, OBJECTS_SHIFT
from concmem.mm.slab_flags import (
    ALL_FLAGS,
    DEBUG_METADATA_FLAGS,
    SLAB_MERGE_SAME,
    SLAB_NEVER_MERGE,
    SLAB_TYPESAFE_BY_RCU,
)
from concmem.mm.slab_geometry import (
    WORD,
    align_up,
    calculate_alignment,
    calculate_geometry,
    get_order,
)
from concmem.mm.slub_fast_path import make_alloc, make_free
from concmem.runtime.api import lockless_lookups
from concmem.units import MAX_PAGE_ORDER, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.slab_debugging import SlabDebugging
    from concmem.mm.page import Page
    from concmem.mm.rcu import Rcu
    from concmem.mm.slab_geometry import Geometry
    from concmem.mm.slab_page import SlabPages
    from concmem.mm.slab_sysfs import SlabSysfs
    from concmem.mm.slub import Slub
    from concmem.mm.slub_bulk import SlubBulk
    from concmem.mm.slub_cpu import CpuSlabs
    from concmem.runtime.api import Runtime

SHRINK_PROMOTE_MAX: Final = 32
"""Slabs with up to that many free objects are sorted by a shrink."""

MAX_NAME: Final = 200
"""Bytes of a cache's name: it becomes a file name, too."""

MAX_OBJECT_SIZE: Final = PAGE_SIZE << MAX_PAGE_ORDER


class SlabCommon:
    """
    All caches of a machine.

    Args:
        merge: merge caches that are alike enough (False: ``slab_nomerge``).
        cache_classes: classes of a cache, its per-CPU and its per-node part.
    """

    __guarded_by__: ClassVar = {
        "_slab_caches": "_slab_mutex",
        "_names": lockless_lookups("_slab_mutex"),
    }

    def __init__(
        self,
        rt: Runtime,
        slub: Slub,
        pages: SlabPages,
        cpu_slabs: CpuSlabs,
        bulk: SlubBulk,
        debug: SlabDebugging,
        sysfs: SlabSysfs,
        rcu: Rcu,
        nr_nodes: int,
        merge: bool,
        freelist: FreelistOptions,
        cache_classes: tuple[type[KmemCache], type[KmemCacheCpu], type[KmemCacheNode]],
    ) -> None:
        self._rt = rt
        self.slub = slub
        self._pages = pages
        self.cpu_slabs = cpu_slabs
        self._bulk = bulk
        self.debug = debug
        self.kasan = debug.kasan
        """Of a checked machine."""
        self.obj_exts = pages.obj_exts
        self.sysfs = sysfs
        self.rcu = rcu
        self._nr_nodes = nr_nodes
        # What has an object must be known exactly where every access is checked.
        self._merge = merge and debug.kasan is None
        self._freelist = freelist
        self._classes = cache_classes
        # What who uses a destroyed cache finds: no free list, and nobody's objects.
        self._dead_cpu_slab = cache_classes[1](rt, 0)
        self._cpu_hotplug_lock = rt.rwsem("cpu_hotplug_lock")
        self._slab_mutex = rt.mutex("slab_mutex")
        # slab_mutex
        self._slab_caches: list[KmemCache] = []
        self._copy_caches = self._slab_caches.copy
        """For who looks without the lock."""
        self._names: dict[str, KmemCache] = {}
        self.destroyed_events: Counter[str] = Counter()
        """SLUB statistics of the caches that are gone, summed."""
        rt.watch(self)

    def caches(self) -> list[KmemCache]:
        """All caches, newest first. No lock: one copy of a list."""
        return self._copy_caches()[::-1]

    def find(self, name: str) -> KmemCache:
        """
        The cache of that name, or the one that it was merged into.

        Raises:
            BadArgument: there is none.
        """
        cache = self._names.get(name)
        if cache is None:
            raise BadArgument(f"name: there is no cache {name!r}")
        return cache

    # -- create

    def create(
        self,
        name: str,
        size: int,
        align: int = 0,
        flags: int = 0,
        ctor: Callable[[int], None] | None = None,
        usersize: int = 0,
    ) -> KmemCache:
        """
        Make a cache, or find one to share (``kmem_cache_create_usercopy``). May sleep.

        Args:
            name: unique; no blanks, no slash, nothing that cannot be printed, up to 200 bytes.
            size: of an object, bytes, 1 to 4 MiB.
            align: a power of two, or 0 for that of a word.
            flags: ``SLAB_*`` bits (:mod:`concmem.mm.slab_flags`).
            ctor: called with the address of each object when its slab is made.
            usersize: bytes that may be copied to or from user space; keeps the cache apart.

        Raises:
            BadArgument: something cannot be, or the name is taken.
        """
        self._check(name, size, align, flags, ctor)
        flags = self.debug.options.flags_for(name, flags)
        if not self.slub.memory.size:
            raise MachineClosed(f"kmem_cache_create: {name}: the machine has been shut down")
        with self._slab_mutex:
            if name in self._names:
                raise BadArgument(f"name: a cache {name!r} exists already")
            s = None if ctor or usersize else self._find_mergeable(size, align, flags)
            if s is None:
                s = self._make(name, size, align, flags, ctor, usersize)
                self._add_cache(s)
            else:
                s.refcount += 1
                s.aliases.append(name)
                s.object_size = max(s.object_size, size)
                s.inuse = max(s.inuse, align_up(size, WORD))
            self._names[name] = s
        # Not before the mutex is released: user space may need a new cache to answer.
        self.sysfs.uevent(name)
        return s

    def create_boot_cache(
        self, name: str, size: int, align: int, flags: int, usersize: int
    ) -> KmemCache:
        """
        Make a cache of the allocator's own, early in the boot (``create_boot_cache``).

        Nobody else is there yet: no lock, and nothing to share it with.
        """
        flags = self.debug.options.flags_for(name, flags)
        s = self._names[name] = self._make(name, size, align, flags, None, usersize)
        self._slab_caches.append(s)
        return s

    def _add_cache(self, s: KmemCache) -> None:
        """A new cache is one of all. Caller holds slab_mutex."""
        self._slab_caches.append(s)
        self.sysfs.add(s)

    def late_init(self) -> None:
        """Late in the boot: sysfs is there (``slab_sysfs_init``). May sleep."""
        with self._slab_mutex:
            self.sysfs.init(self._slab_caches)

    @staticmethod
    def _check(name: object, size: object, align: object, flags: object, ctor: object) -> None:
        if not isinstance(name, str):
            raise BadArgumentType(f"name: expected text, got {name!r}")
        if not 1 <= len(name.encode("utf-8", "replace")) <= MAX_NAME:
            raise BadArgument(f"name: must have 1 to {MAX_NAME} bytes, got {name!r}")
        if "/" in name or " " in name or not name.isprintable() or name in {".", ".."}:
            raise BadArgument(
                f"name: must not have blanks, slashes or what cannot be printed, nor be . or .., got {name!r}"
            )
        size = _whole_number("size", size)
        align = _whole_number("align", align)
        flags = _whole_number("flags", flags)
        if not 1 <= size <= MAX_OBJECT_SIZE:
            raise BadArgument(f"size: must be 1 to {MAX_OBJECT_SIZE} bytes, got {size}")
        if not 0 <= align <= MAX_OBJECT_SIZE or align & (align - 1):
            raise BadArgument(
                f"align: must be a power of two up to {MAX_OBJECT_SIZE}, or 0, got {align}"
            )
        if flags & ~ALL_FLAGS:
            raise BadArgument(f"flags: {flags:#x} has bits that are no flag of a cache")
        if ctor is not None and not callable(ctor):
            raise BadArgumentType(f"ctor: expected a function, got {ctor!r}")

    def _find_mergeable(self, size: int, align: int, flags: int) -> KmemCache | None:
        """A cache whose objects will do as well (``find_mergeable``). Caller holds slab_mutex."""
        if not self._merge or flags & SLAB_NEVER_MERGE:
            return None
        size = align_up(size, WORD)
        align = calculate_alignment(flags, align, size)
        size = align_up(size, align)
        for s in reversed(self._slab_caches):
            if s.flags & SLAB_NEVER_MERGE or s.ctor or s.usersize or s.refcount < 1:
                continue
            if (flags ^ s.flags) & SLAB_MERGE_SAME or s.size % align:
                continue
            if s.colour > 1 and s.colour_off % align:
                continue  # its slabs do not all begin at such a multiple
            if 0 <= s.size - size < WORD:
                return s
        return None

    def _make(
        self,
        name: str,
        size: int,
        align: int,
        flags: int,
        ctor: Callable[[int], None] | None,
        usersize: int,
    ) -> KmemCache:
        geometry, flags = self._geometry(size, align, flags, ctor is not None, bool(usersize))
        s = self._classes[0](self, self._rt, name, size, geometry, flags, ctor, usersize)
        if s.layout is not None:
            self._pages.events.switch_on("slub_debug_on")
        return s

    def make_parts(self, s: KmemCache) -> dict[str, Any]:
        """
        What *s* is used with (`PARTS`): here it is chosen how its objects are allocated and freed.

        Takes no lock: it may be needed anywhere.
        """
        rt = self._rt
        debug = self.debug
        _, cpu_class, node_class = self._classes
        fp_offset = s.offset // WORD
        cpu_slab = rt.percpu(lambda: rt.watch(cpu_class(rt, fp_offset)), f"{s.name} cpu_slab")
        if s.layout is None:
            alloc = make_alloc(s, self.slub, cpu_slab.offset)
            functions = Functions(alloc, make_free(s, self.slub, cpu_slab.offset), self._bulk)
        else:
            functions = debug.slub.functions(s, cpu_slab.offset)
        if debug.kasan is not None:
            functions = debug.kasan.watch(s, functions)
        if debug.failslab is not None:
            functions = debug.failslab.watch(s, functions)
        return {
            "node": [rt.watch(node_class(rt, number)) for number in range(self._nr_nodes)],
            "cpu_slab": cpu_slab,
            **functions._asdict(),
            **s.make_random(rt.rng(f"kmem_cache {s.birth_name}"), self._freelist),
        }

    def _geometry(
        self, size: int, align: int, flags: int, has_ctor: bool, is_kmalloc: bool
    ) -> tuple[Geometry, int]:
        """The layout of a cache, and the flags that are left of *flags*."""
        nr_cpus, kasan = self._rt.nr_cpus, self.kasan is not None
        geometry = calculate_geometry(size, align, flags, has_ctor, nr_cpus, is_kmalloc, kasan)
        if self.debug.options.disable_higher_order and (
            geometry is None or geometry.min_order > get_order(size)
        ):
            flags &= ~DEBUG_METADATA_FLAGS
            geometry = calculate_geometry(size, align, flags, has_ctor, nr_cpus, is_kmalloc, kasan)
        if geometry is None:
            debugged = " and debugging" if flags & DEBUG_METADATA_FLAGS else ""
            raise BadArgument(
                f"size: {size} with align {align}{debugged} is more than the largest block"
            )
        return geometry, flags

    # -- shrink

    def shrink(self, s: KmemCache) -> int:
        """See `KmemCache.shrink`."""
        s.check_alive()
        self._rt.smp_processor_id()  # slabs are freed here: only on a CPU, or nothing happens
        return self._shrink(s)

    def _shrink(self, s: KmemCache) -> int:
        if self.kasan is not None:
            self.kasan.quarantine.remove_cache(s)
        self.cpu_slabs.flush_all(s)
        return sum(self._shrink_node(s, node) for node in range(self._nr_nodes))

    def _shrink_node(self, s: KmemCache, node: int) -> int:
        n = s.node[node]
        promote: list[list[Page]] = [[] for _ in range(SHRINK_PROMOTE_MAX)]
        with n.list_lock:
            discard = list(n.slabs_free)
            for slab in discard:
                n.remove_free(slab)
                n.dec_slabs_node(slab.objects)
            for slab in n.slabs_partial:
                free = self._nr_free(slab)
                if free <= SHRINK_PROMOTE_MAX:
                    self._promote(promote, free, slab)
            for bucket in reversed(promote):  # so that the fullest end up in front
                for slab in bucket:
                    n.remove_partial(slab)
                    n.add_partial(slab, tail=False)
            left = n.nr_partial
        for slab in discard:
            s.cpu_slab.this().count("free_slab")
            self._pages.free_slab(s, slab)
        return left

    @staticmethod
    def _nr_free(slab: Page) -> int:
        """Free objects of a slab on `slabs_partial`; read once, as a free changes it any time."""
        counters = slab.freelist_counters.second
        return (counters >> OBJECTS_SHIFT & OBJECTS_MASK) - (counters & INUSE_MASK)

    @staticmethod
    def _promote(promote: list[list[Page]], free: int, slab: Page) -> None:
        promote[free - 1].append(slab)

    # -- validate

    def validate(self, s: KmemCache) -> int:
        """See `KmemCache.validate`."""
        if s.layout is None:
            raise BadArgument(f"cache: {s.name} is no debug cache, so there is nothing to validate")
        return self.debug.validate.validate_slab_cache(s)

    def skip_orig_size_check(self, s: KmemCache, address: int) -> None:
        """Somebody has asked how large an object is, and may use all of it from now on."""
        if s.layout is not None:
            self.debug.check.tracks.set_orig_size(s.layout, address, s.object_size)

    # -- CPUs that go

    def cpu_dead(self, cpu: int) -> None:
        """
        CPU *cpu* goes: the nodes get its slabs of all caches (``slub_cpu_dead``). May sleep.

        The model's CPUs stay. One that is used again takes new slabs.

        Raises:
            BadArgument: there is no such CPU.
        """
        if not 0 <= _whole_number("cpu", cpu) < self._rt.nr_cpus:
            raise BadArgument(f"cpu: there is no CPU {cpu}, only 0 to {self._rt.nr_cpus - 1}")
        with self._cpu_hotplug_lock.write(), self._slab_mutex:
            for s in self._slab_caches:
                if s.is_up:
                    self._cpu_dead(s, cpu)

    def _cpu_dead(self, s: KmemCache, cpu: int) -> None:
        """
        One cache of a CPU that goes. Caller holds slab_mutex.

        Its node keeps its lists, also when this was the last CPU there: others use the node's memory.
        """
        self.cpu_slabs.flush_cpu(s, cpu)

    # -- destroy

    def destroy(self, s: KmemCache, name: str | None = None) -> None:
        """See `KmemCache.destroy`."""
        if s.usersize:
            raise BadArgument(f"cache: {s.name} is a kmalloc cache, which is never destroyed")
        self._rt.smp_processor_id()  # slabs are freed here: only on a CPU, or nothing happens
        if s.flags & SLAB_TYPESAFE_BY_RCU:
            self.rcu.check_may_wait("kmem_cache_destroy")
        with self._cpu_hotplug_lock.read(), self._slab_mutex:
            s.check_alive()
            if name is not None and self._names.get(name) is not s:
                raise BadArgument(f"name: cache {s.name} has no name {name!r}")
            if s.refcount > 1:
                self._drop_name(s, name or s.aliases[-1])
                return
            # Both sampled here: once the mutex is released, somebody else may be done with the cache.
            # Since Linux kernel commit d71608a87736 ("mm/slab_common: fix possible double free of
            # kmem_cache") (in v6.0).
            rcu_set = bool(s.flags & SLAB_TYPESAFE_BY_RCU)
            in_sysfs = self.sysfs.is_up
            self._shutdown(s)
        self._finish(s, rcu_set, in_sysfs)

    def _drop_name(self, s: KmemCache, name: str) -> None:
        """One of several merged caches goes. Caller holds slab_mutex."""
        s.refcount -= 1
        del self._names[name]
        if name == s.name:  # the others keep it
            s.name = s.aliases[0]
        s.aliases.remove(name if name in s.aliases else s.name)

    def _shutdown(self, s: KmemCache) -> None:
        """Take a cache without objects out of everything (``shutdown_cache``). Caller holds slab_mutex."""
        self._shrink(s)
        if any(n.nr_slabs for n in s.node):
            raise self.debug.validate.objects_remaining(s)
        s.refcount = 0
        self._slab_caches.remove(s)
        for c in s.cpu_slab.all():
            self.destroyed_events.update(c.all_events())
        self._remove_name(s.name)

    def _remove_name(self, name: str) -> None:
        """From here on a new cache may have it. Caller holds slab_mutex."""
        del self._names[name]

    def _finish(self, s: KmemCache, rcu_set: bool, in_sysfs: bool) -> None:
        """
        The end of a cache that nobody finds any more.

        Args:
            rcu_set: a grace period may keep slabs of it.
            in_sysfs: it has a directory.
        """
        if rcu_set:
            self._wait_for_slabs()
        if in_sysfs:
            self.sysfs.release(s)
        self._release(s)

    def _wait_for_slabs(self) -> None:
        """Until every slab that a grace period keeps has been freed; they point to their cache."""
        # Since Linux kernel commit 7ed9f7e5db58 ("fix RCU-callback-after-kmem_cache_destroy problem
        # in sl[aou]b") (in v2.6.31): a grace period alone is not enough.
        self.rcu.rcu_barrier()

    def _release(self, s: KmemCache) -> None:
        """Give back what the cache is made of (``kmem_cache_release``). Its memory may be anybody's then."""
        if s.cpu_slab.of(0) is self._dead_cpu_slab:
            raise DoubleFree(f"kmem_cache: {s.name} has been released already")
        self._rt.free_percpu(s.cpu_slab, self._dead_cpu_slab)
        s.flags = 0


def _whole_number(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgumentType(f"{name}: expected a whole number, got {value!r}")
    return value
