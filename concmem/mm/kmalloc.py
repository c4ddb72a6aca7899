"""
``kmalloc`` and its relatives: memory of any size, by size class.

Up to 8 KiB from the cache of the size class; above that whole page blocks; from 2 MiB on ``vmalloc``.
What an address is, is found from the address alone, so one `kfree` fits all.

Follows ``mm/slab_common.c`` and ``include/linux/slab.h`` of Linux 6.12; ``kmalloc`` of 2 MiB and more
fails there, from 4 MiB on.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from concmem.errors import BadArgument, BadArgumentType, BadFree, DoubleFree, KernelBug
from concmem.mm import gfp as gfp_flags
from concmem.mm.gfp import GFP_KERNEL, check_gfp
from concmem.mm.memory import pfn_to_virt
from concmem.mm.page import PAGE_TYPE_LARGE_KMALLOC, PAGE_TYPE_NONE
from concmem.mm.slab_flags import SLAB_ACCOUNT, SLAB_CACHE_DMA, SLAB_RECLAIM_ACCOUNT
from concmem.mm.slab_geometry import get_order
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.debug.kasan import Kasan
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.slab_common import SlabCommon
    from concmem.mm.slub_fast_path import Alloc
    from concmem.mm.vm_area import Caller
    from concmem.mm.vmalloc import Vmalloc
    from concmem.runtime.api import Runtime

KMALLOC_SIZES: Final = (8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
KMALLOC_MAX_CACHE_SIZE: Final = 8192
KMALLOC_VMALLOC_SIZE: Final = 2 << 20
"""Bytes from which on `kmalloc` takes `vmalloc`: the seed's flow."""
ZERO_SIZE_PTR: Final = 16
"""What an allocation of 0 bytes returns; it may be freed, and must not be read or written."""
SIZE_MAX: Final = (1 << 64) - 1

_OTHER_TYPES: Final = 0x400011
"""GFP flags that choose another set of caches: DMA, RECLAIMABLE, ACCOUNT."""


class KmallocType(NamedTuple):
    """One set of caches (``enum kmalloc_cache_type``)."""

    gfp: int
    """The flag that chooses it."""
    prefix: str
    flags: int


KMALLOC_TYPES: Final = (
    KmallocType(0, "kmalloc-", 0),
    KmallocType(gfp_flags.GFP_DMA, "dma-kmalloc-", SLAB_CACHE_DMA),
    KmallocType(gfp_flags.RECLAIMABLE, "kmalloc-rcl-", SLAB_RECLAIM_ACCOUNT),
    KmallocType(gfp_flags.ACCOUNT, "kmalloc-cg-", SLAB_ACCOUNT),
)
"""The normal one first, then in order of precedence."""


class KmallocFunction(Protocol):
    """The type of ``machine.kmalloc``."""

    def __call__(self, size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None: ...


class KfreeFunction(Protocol):
    """The type of ``machine.kfree``."""

    def __call__(self, address: int | None) -> None: ...


def size_name(size: int) -> str:
    """``96``, ``1k``."""
    return f"{size >> 10}k" if size >= 1024 else str(size)


def check_size(size: object, name: str = "size") -> int:
    """*size* if it is a number of bytes, else `BadArgument`."""
    if isinstance(size, bool) or not isinstance(size, int):
        raise BadArgumentType(f"{name}: expected bytes, got {size!r}")
    if size < 0:
        raise BadArgument(f"{name}: must not be negative, got {size}")
    if size > SIZE_MAX:
        raise BadArgument(f"{name}: at most {SIZE_MAX:#x}, got {size:#x}")
    return size


class Kmalloc:
    """``kmalloc`` of one machine."""

    kmalloc: KmallocFunction
    kfree: KfreeFunction
    kvfree: KfreeFunction

    def __init__(
        self,
        rt: Runtime,
        memory: Memory,
        page_alloc: PageAllocator,
        slab: SlabCommon,
        vmalloc: Vmalloc,
        kasan: Kasan | None = None,
    ) -> None:
        self._rt = rt
        self._slab = slab
        self._kasan = kasan
        self._memory = memory
        self._page_alloc = page_alloc
        self._events = page_alloc.events
        self._slabs = page_alloc.mem_map.slabs
        self._vmalloc = vmalloc
        self.caches: dict[str, dict[int, KmemCache]] = {
            kind.prefix: {
                size: slab.create_boot_cache(
                    f"{kind.prefix}{size_name(size)}",
                    size,
                    align=size & -size,  # powers of two are naturally aligned; 96: 32, 192: 64
                    flags=kind.flags,
                    usersize=size,
                )
                for size in KMALLOC_SIZES
            }
            for kind in KMALLOC_TYPES
        }
        """By prefix of the name and size class."""
        self._table = self._make_table()
        if any(map(self._keeps_size, self._all_caches())):
            self.kmalloc = self._make_kmalloc_sized()
        else:
            self.kmalloc = self._make_kmalloc()
        self.kfree = self.kvfree = self._make_kfree()

    def _all_caches(self) -> list[KmemCache]:
        return [s for by_size in self.caches.values() for s in by_size.values()]

    def _keeps_size(self, s: KmemCache) -> bool:
        """Whether debugging wants to know what was asked for of an object of *s*."""
        return self._kasan is not None or bool(s.layout and s.layout.orig_size_offset)

    def _make_table(self) -> list[Alloc]:
        """
        The allocation function of each size in words (``kmalloc_size_index``), of the usual caches.

        At first one that makes the cache ready and takes its own place.
        """
        table: list[Alloc] = []

        def first_of(cache: KmemCache, words: range) -> Alloc:
            def alloc(gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
                table[words.start : words.stop] = [cache.alloc] * len(words)
                return cache.alloc(gfp, node)

            return alloc

        for size, cache in self.caches[KMALLOC_TYPES[0].prefix].items():
            words = range(len(table), size // 8 + 1)
            table += [first_of(cache, words)] * len(words)
        return table

    # -- allocate

    def _make_kmalloc(self) -> KmallocFunction:
        table = self._table
        general = self._kmalloc_general

        def kmalloc(size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
            """
            Allocate *size* bytes. On a CPU; may sleep when *gfp* has ``DIRECT_RECLAIM``.

            Args:
                size: 0 gives ``ZERO_SIZE_PTR``.
                gfp: how hard to try, and of which set: ``GFP_DMA``, ``RECLAIMABLE``, ``ACCOUNT``;
                    ``ZERO`` clears the memory.
                node: the NUMA node wanted.

            Returns:
                An address, aligned to at least 8 bytes, powers of two to their size (from 2 MiB on:
                to pages); or ``None``.
            """
            try:
                if size.__class__ is int and 0 < size <= 8192 and not gfp & _OTHER_TYPES:
                    alloc = table[size + 7 >> 3]
                else:
                    return general(size, gfp, node)
            except TypeError:
                return general(size, gfp, node)
            return alloc(gfp, node)

        return kmalloc

    def _make_kmalloc_sized(self) -> KmallocFunction:
        """`kmalloc` of a machine that keeps what was asked for, for all caches or some."""
        general, cache_for = self._kmalloc_general, self._cache_for
        sized = frozenset(filter(self._keeps_size, self._all_caches()))

        def kmalloc(size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
            """As any machine's ``kmalloc``."""
            check_gfp(gfp)
            if size.__class__ is not int or not 0 < size <= KMALLOC_MAX_CACHE_SIZE:
                return general(size, gfp, node)
            s = cache_for(size, gfp)
            alloc: Any = s.alloc
            wanted = (size,) if s in sized else ()
            address: int | None = alloc(gfp & ~_OTHER_TYPES, node, *wanted)
            return address

        return kmalloc

    def _kmalloc_general(self, size: int, gfp: int, node: int | None) -> int | None:
        check_size(size)
        check_gfp(gfp)
        if size == 0:
            return ZERO_SIZE_PTR
        if size <= KMALLOC_MAX_CACHE_SIZE:
            return self._cache_for(size, gfp).alloc(gfp & ~_OTHER_TYPES, node)
        if size >= KMALLOC_VMALLOC_SIZE:
            if not gfp & gfp_flags.DIRECT_RECLAIM:
                return None  # vmalloc sleeps
            self._events.count("kmalloc_vmalloc")
            return self._vmalloc.vmalloc_node_range(size, gfp, node, _caller())
        return self._kmalloc_large(size, gfp, node)

    def _cache_for(self, size: int, gfp: int) -> KmemCache:
        """The cache for *size* bytes of the set that *gfp* asks for (``kmalloc_slab``)."""
        kinds = [kind for kind in KMALLOC_TYPES[1:] if gfp & kind.gfp] or KMALLOC_TYPES
        return self.caches[kinds[0].prefix][KMALLOC_SIZES[bisect_left(KMALLOC_SIZES, size)]]

    def _kmalloc_large(self, size: int, gfp: int, node: int | None) -> int | None:
        """Whole pages (``___kmalloc_large_node``)."""
        page = self._page_alloc.alloc_pages(get_order(size), gfp | gfp_flags.COMP, node)
        self._events.count("kmalloc_large")
        if page is None:
            return None
        address = pfn_to_virt(page.pfn)
        page._mapcount = PAGE_TYPE_LARGE_KMALLOC
        page.slab_free = self._free_large
        page.owners = {address: self._rt.smp_processor_id()}
        for number in range(1 << page.order):
            self._slabs[(address >> PAGE_SHIFT) + number] = page
        page.zone.zone_pgdat.account_slab(False, 1 << page.order)
        if self._kasan is not None:
            self._kasan.kmalloc_large(address, size, page.order)
        return address

    def kzalloc(self, size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
        """As `kmalloc`, all bytes 0."""
        check_gfp(gfp)
        return self.kmalloc(size, gfp | gfp_flags.ZERO, node)

    def kmalloc_array(self, n: int, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """An array of *n* elements of *size* bytes; ``None`` when that is more than a size can be."""
        nr_bytes = check_size(n, "n") * check_size(size)
        return None if nr_bytes > SIZE_MAX else self.kmalloc(nr_bytes, gfp)

    def kcalloc(self, n: int, size: int, gfp: int = GFP_KERNEL) -> int | None:
        """As `kmalloc_array`, all bytes 0."""
        check_gfp(gfp)
        return self.kmalloc_array(n, size, gfp | gfp_flags.ZERO)

    def kvmalloc(self, size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
        """`kmalloc` without much trying, else `vmalloc` (``kvmalloc_node``)."""
        check_size(size)
        check_gfp(gfp)
        kmalloc_gfp = gfp
        if size > PAGE_SIZE:
            kmalloc_gfp |= gfp_flags.NOWARN
            if not gfp & gfp_flags.RETRY_MAYFAIL:
                kmalloc_gfp |= gfp_flags.NORETRY
            kmalloc_gfp &= ~gfp_flags.NOFAIL
        address = self.kmalloc(size, kmalloc_gfp, node)
        if address is not None or size <= PAGE_SIZE or size >= KMALLOC_VMALLOC_SIZE:
            return address
        if not gfp & gfp_flags.DIRECT_RECLAIM:
            return None  # vmalloc sleeps
        return self._vmalloc.vmalloc_node_range(size, gfp, node, _caller())

    # -- free

    def _make_kfree(self) -> KfreeFunction:
        slab_of = self._slabs.get
        general = self._kfree_general

        def kfree(address: int | None) -> None:
            """
            Free what any of these functions, or a cache, has allocated. Never sleeps. On a CPU.

            ``None``, 0 and ``ZERO_SIZE_PTR`` are no memory: nothing happens.

            Raises:
                BadFree: *address* is not the start of an allocation.
                DoubleFree: it is free already.
            """
            try:
                page = slab_of(address >> 12)  # type: ignore[operator]  # tested by trying
            except TypeError:
                page = None
            if page is None:
                general(address)
            else:
                page.slab_free(address)  # type: ignore[arg-type]  # it has been shifted

        return kfree

    def _kfree_general(self, address: int | None) -> None:
        address = _check_address(address)
        if not address:
            return
        if self._vmalloc.is_vmalloc_addr(address):
            self._vmalloc.vfree(address)
            return
        raise BadFree(
            f"address: cpu{self._rt.smp_processor_id()} frees {address:#x}, which kmalloc has not "
            "allocated, or which is free already, together with its slab"
        )

    def _free_large(self, address: int) -> None:
        page = self._slabs.get(address >> PAGE_SHIFT)
        self._rt.smp_processor_id()  # on no CPU: NotACpu, before anything is changed
        # One step, so of two CPUs that free the same block one finds nothing.
        if page is None or page.owners.pop(address, None) is None:
            raise self._bad_free_large(page, address)
        for number in range(1 << page.order):
            del self._slabs[(address >> PAGE_SHIFT) + number]
        page.zone.zone_pgdat.account_slab(False, -1 << page.order)
        page._mapcount = PAGE_TYPE_NONE
        self._page_alloc.free_pages(page, page.order)
        self._events.count("kfree_large")

    def _bad_free_large(self, page: Page | None, address: int) -> KernelBug:
        where = f"address: cpu{self._rt.smp_processor_id()} frees {address:#x}"
        if page is None:
            return DoubleFree(f"{where}, but this block is free already")
        start = pfn_to_virt(page.pfn)
        if address != start:
            return BadFree(
                f"{where}, which is {address - start} bytes inside of the block at {start:#x}"
            )
        return DoubleFree(f"{where}, but this block is free already")

    # -- size

    def ksize(self, address: int | None) -> int:
        """
        Bytes that may be used at *address*; 0 for no memory.

        Raises:
            BadFree: *address* is not the start of an allocation.
        """
        address = _check_address(address)
        if not address:
            return 0
        page = self._slabs.get(address >> PAGE_SHIFT)
        if page is None:
            vm = self._vmalloc.find_vm_area(address)
            if vm is not None and vm.addr == address:
                return vm.nr_pages * PAGE_SIZE
        elif address in page.owners:
            s = page.slab_cache
            if s is None:
                return PAGE_SIZE << page.order
            self._slab.skip_orig_size_check(s, address)
            return s.usable_size()
        raise BadFree(f"address: {address:#x} is not the start of an allocation")

    def krealloc(self, address: int | None, new_size: int, gfp: int = GFP_KERNEL) -> int | None:
        """
        Make an allocation *new_size* bytes large, perhaps elsewhere, contents kept. May sleep.

        Returns:
            The address now; ``None`` when there is no memory, and then *address* stays as it is.
        """
        check_size(new_size, "new_size")
        address = _check_address(address)
        if not address:
            return self.kmalloc(new_size, gfp)
        if new_size == 0:
            self.kfree(address)
            return ZERO_SIZE_PTR
        old_size = self.ksize(address)
        if old_size >= new_size:
            if self._kasan is not None:
                self._kasan.krealloc(address, new_size, old_size)
            return address
        new = self.kmalloc(new_size, gfp)
        if new is not None:
            self._memory.write(new, self._memory.read(address, old_size))
            self.kfree(address)
        return new


def _check_address(address: int | None) -> int:
    """*address*; 0 if it is ``NULL`` or ``ZERO_SIZE_PTR``; `BadArgumentType` if it is no address."""
    if address is None or (address.__class__ is int and address == ZERO_SIZE_PTR):
        return 0
    if address.__class__ is not int:
        raise BadArgumentType(f"address: expected an address, got {address!r}")
    return address


def _caller() -> Caller:
    """Who called into this module (``__builtin_return_address``)."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    assert frame is not None
    return frame.f_code, frame.f_lasti
