"""
``vm_map_ram``: short mappings of a few pages, cut from blocks of address space.

Each CPU has a queue of blocks. A block is handed out from its start to its end, once: what is unmapped
becomes dirty, and is used again only when the whole block is dirty (or nothing but free and dirty) and
has gone through a purge. So unmapping needs no TLB flush of its own.

Locks:
    vmap_purge_lock (mutex, of vmap_space.py)
    vb->lock        one block: used_map, requests, free, dirty, dirty_min, dirty_max
    vbq->lock       inside vb->lock: the list of a queue's blocks with free space
    vbq->xa_lock    which block is where; taken inside nothing but the mutex

Without a lock: walks of ``vbq->free`` and looks at ``vb->free`` and ``vb->dirty`` before vb->lock is taken,
after which everything is looked at again; looking a block up by its address, which whoever has a mapping
in it may do, since that keeps the block.

Follows ``mm/vmalloc.c`` of Linux 6.12: ``vb_alloc``, ``vb_free``, ``purge_fragmented_block``,
``_vm_unmap_aliases``. The size of each request is kept, so that a wrong one is an error with a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from concmem.errors import BadFree, DoubleFree
from concmem.mm.list_head import List, ListHead
from concmem.mm.rculist import list_del_rcu, list_for_each_entry_rcu
from concmem.mm.vmap_area import VMAP_BLOCK, VMAP_RAM, VmapArea
from concmem.mm.vmap_space import NO_RANGE
from concmem.runtime.api import lockless_reads
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.vmap_space import VmapSpace
    from concmem.runtime.api import Lock, Runtime

VMAP_MAX_ALLOC: Final = 64
"""Pages of the largest request that comes from a block."""

VMAP_BBMAP_BITS_MAX: Final = 1024
VMAP_BBMAP_BITS_MIN: Final = 2 * VMAP_MAX_ALLOC


def vmap_bbmap_bits(nr_pages: int, nr_cpus: int) -> int:
    """Pages of a block: 1024, less where *nr_pages* of addresses are too few for all CPUs."""
    share = nr_pages // (1 << (nr_cpus - 1).bit_length()) // 16
    bits = min(VMAP_BBMAP_BITS_MAX, max(VMAP_BBMAP_BITS_MIN, share))
    return 1 << bits.bit_length() - 1


class VmapBlockQueue:
    """``struct vmap_block_queue``: the blocks that one CPU has made."""

    __guarded_by__: Final = {"free": "lock", "vmap_blocks": "xa_lock"}

    def __init__(self, rt: Runtime) -> None:
        self.lock = rt.spinlock("vbq->lock")
        self.free: List[VmapBlock] = List()
        """Blocks with free space."""
        self.free_rcu = self.free
        """The same, for who walks it without the lock."""
        self.xa_lock = rt.spinlock("vbq->xa_lock")
        self.vmap_blocks: dict[int, VmapBlock] = {}
        """
        Blocks by number: not those that the CPU made, but its share of all numbers, so that
        lookups of different blocks meet at different locks.
        """
        self.xa_load = self.vmap_blocks.get
        """Looks up without the lock: the caller owns an address of the block, so it is there."""


class VmapBlock(ListHead):
    """``struct vmap_block``: *bits* pages of addresses, of which the first *used* are taken."""

    __slots__ = (
        "bits",
        "cpu",
        "dirty",
        "dirty_max",
        "dirty_min",
        "free",
        "list_lock",
        "lock",
        "requests",
        "used_map",
        "va",
    )

    __guarded_by__: Final = {
        "dirty_min": "lock",
        "dirty_max": "lock",
        "used_map": "lock",
        "requests": "lock",
        # Read without the lock by walks of `vbq->free`: see list_for_each_entry_rcu.
        "next": lockless_reads("list_lock"),
        "prev": "list_lock",
    }

    def __init__(
        self,
        rt: Runtime,
        va: VmapArea,
        bits: int,
        nr_pages: int,
        cpu: int,
        list_lock: Lock,
    ) -> None:
        used = 1 << get_order(nr_pages)
        self.list_lock = list_lock
        """The lock of the queue that the block is on."""
        self.next = None
        self.prev = None
        self.va = va
        self.bits = bits
        self.cpu = cpu
        """Whose queue the block is on: not always that of the CPU that changes it."""
        self.lock = rt.spinlock("vb->lock")
        # lock; free and dirty are read without
        self.free = rt.cell(bits - used, "vb->free")
        """Pages never handed out, at the end of the block."""
        self.dirty = rt.cell(0, "vb->dirty")
        """Pages handed out and unmapped."""
        self.used_map = (1 << used) - 1
        """One bit for each page that is handed out."""
        self.requests: dict[int, int] = {0: nr_pages}
        """Pages asked for, by page offset."""
        self.dirty_min = bits
        self.dirty_max = 0
        """Range of pages that were unmapped since the last flush."""

    def bump(self, nr_pages: int) -> int:
        """Hand out the first free pages; their address. Caller holds `lock`, and they are enough."""
        size = 1 << get_order(nr_pages)
        offset = self.bits - self.free.value
        self.free.value -= size
        self.used_map |= (1 << size) - 1 << offset
        self.requests[offset] = nr_pages
        return self.va.va_start + (offset << PAGE_SHIFT)

    def is_fragmented(self) -> bool:
        """Whether all of it is free or dirty, and some of it free."""
        dirty = self.dirty.value
        return self.free.value + dirty == self.bits and dirty != self.bits

    def __repr__(self) -> str:
        return f"<vmap_block {self.va.va_start:#x} cpu:{self.cpu}>"


def get_order(nr_pages: int) -> int:
    """The smallest order of at least *nr_pages* pages."""
    return (nr_pages - 1).bit_length()


class VmapBlocks:
    """The blocks of all CPUs, in the addresses of *space*."""

    def __init__(self, rt: Runtime, space: VmapSpace) -> None:
        self._rt = rt
        self.space = space
        self.bits = vmap_bbmap_bits((space.end - space.start) >> PAGE_SHIFT, rt.nr_cpus)
        self.vmap_block_queue = rt.percpu(lambda: rt.watch(VmapBlockQueue(rt)), "vmap_block_queue")
        space.purge_fragmented_blocks = self._purge_fragmented_blocks_allcpus

    # -- where things are

    def _number(self, address: int) -> int:
        """Of the block that *address* is in (``addr_to_vb_idx``)."""
        return address // (self.bits << PAGE_SHIFT)

    def _addr_to_vb_queue(self, address: int) -> VmapBlockQueue:
        """The queue whose table has the block that *address* is in (``addr_to_vb_xa``)."""
        return self.vmap_block_queue.of(self._number(address) % self._rt.nr_cpus)

    def _queue_of(self, vb: VmapBlock) -> VmapBlockQueue:
        """
        The queue whose list *vb* is on, and whose lock protects that.

        Since Linux kernel commit 8c61291fd850 ("mm: fix incorrect vbq reference in
        purge_fragmented_block") (in v6.10) it is found by the CPU kept in the block.
        """
        return self.vmap_block_queue.of(vb.cpu)

    def find_vmap_block(self, address: int) -> VmapBlock | None:
        """The block that *address* is in."""
        # No lock: see above. One step of a dictionary is indivisible.
        return self._addr_to_vb_queue(address).xa_load(self._number(address))

    def for_each_vmap_block(self) -> Iterator[VmapBlock]:
        """Every block there is: free, partly used or full."""
        for cpu in range(self._rt.nr_cpus):
            vbq = self.vmap_block_queue.of(cpu)
            with vbq.xa_lock:
                blocks = list(vbq.vmap_blocks.values())
            yield from blocks

    # -- allocate

    def vb_alloc(self, nr_pages: int, gfp: int) -> int | None:
        """Addresses for up to `VMAP_MAX_ALLOC` pages, on this CPU's blocks first. May sleep."""
        size = 1 << get_order(nr_pages)
        vbq = self.vmap_block_queue.this()
        for vb in list_for_each_entry_rcu(vbq.free_rcu):
            if vb.free.value < size:  # no lock: looked at again
                continue
            with vb.lock:
                if vb.free.value < size:
                    continue
                address = vb.bump(nr_pages)
                if not vb.free.value:
                    self._unlist(vb)
                return address
        return self._new_vmap_block(nr_pages, gfp)

    def _unlist(self, vb: VmapBlock) -> None:
        """A block without free space leaves its queue's list. Caller holds vb->lock."""
        vbq = self._queue_of(vb)
        with vbq.lock:
            list_del_rcu(vb)

    def _new_vmap_block(self, nr_pages: int, gfp: int) -> int | None:
        size = self.bits << PAGE_SHIFT
        va = self.space.alloc_vmap_area(size, size, gfp, None, VMAP_RAM | VMAP_BLOCK)
        if va is None:
            return None
        # From here on the CPU does not sleep, so it cannot be another one.
        cpu = self._rt.smp_processor_id()
        vbq = self.vmap_block_queue.this()
        vb = self._rt.watch(VmapBlock(self._rt, va, self.bits, nr_pages, cpu, vbq.lock))
        home = self._addr_to_vb_queue(va.va_start)
        with home.xa_lock:
            home.vmap_blocks[self._number(va.va_start)] = vb
        with vbq.lock:
            vbq.free.add_tail(vb)
        return va.va_start

    # -- free

    def vb_free(self, address: int, nr_pages: int) -> None:
        """
        Unmap what `vb_alloc` gave.

        Raises:
            BadFree, DoubleFree: that was not handed out, or not with that size.
        """
        vb = self.find_vmap_block(address)
        if vb is None:
            raise BadFree(f"Trying to vm_unmap_ram() nonexistent vm area ({address:#x})")
        offset = address - vb.va.va_start >> PAGE_SHIFT
        size = 1 << get_order(nr_pages)
        with vb.lock:
            self._take_request(vb, address, offset, nr_pages)
            vb.used_map &= ~((1 << size) - 1 << offset)
        self.space.page_table.unmap(address, nr_pages << PAGE_SHIFT)
        with vb.lock:
            vb.dirty_min = min(vb.dirty_min, offset)
            vb.dirty_max = max(vb.dirty_max, offset + size)
            vb.dirty.value += size
            all_dirty = vb.dirty.value == vb.bits
        if all_dirty:  # the block is on no list any more, and nobody has a mapping in it: ours
            self._free_vmap_block(vb)

    def _take_request(self, vb: VmapBlock, address: int, offset: int, nr_pages: int) -> None:
        """Caller holds vb->lock."""
        found = vb.requests.get(offset)
        if found is None:
            if vb.used_map >> offset & 1:
                raise BadFree(
                    f"vm_unmap_ram: {address:#x} is inside a mapping; unmap its first address"
                )
            raise DoubleFree(f"vm_unmap_ram: {address:#x} is not mapped")
        if found != nr_pages:
            raise BadFree(
                f"count: {address:#x} was mapped with {found} page(s), unmapped with {nr_pages}"
            )
        del vb.requests[offset]

    def _free_vmap_block(self, vb: VmapBlock) -> None:
        """Its addresses go to the next purge. The caller is the only one who knows the block."""
        home = self._addr_to_vb_queue(vb.va.va_start)
        with home.xa_lock:
            del home.vmap_blocks[self._number(vb.va.va_start)]
        va = self.space.find_unlink_vmap_area(vb.va.va_start, lambda va: va is vb.va)
        assert va is not None
        self.space.free_vmap_area_noflush(va)

    # -- purge

    def _purge_fragmented_block(self, vb: VmapBlock, purge: list[VmapBlock], force: bool) -> bool:
        """
        Take a block that is free and dirty only out of use, onto *purge*. Caller holds vb->lock.

        Unless *force*, one that is still mostly free stays.
        """
        if not vb.is_fragmented() or not (force or vb.free.value < vb.bits // 4):
            return False
        vb.free.value = 0  # nobody allocates from it any more
        vb.dirty.value = vb.bits  # nor purges it
        vb.dirty_min, vb.dirty_max = 0, vb.bits
        self._unlist(vb)
        purge.append(vb)
        return True

    def _free_purged_blocks(self, purge: list[VmapBlock]) -> None:
        for vb in purge:
            self._free_vmap_block(vb)

    def _purge_fragmented_blocks_allcpus(self) -> None:
        """Caller holds vmap_purge_lock."""
        for vbq in self.vmap_block_queue.all():
            purge: list[VmapBlock] = []
            for vb in list_for_each_entry_rcu(vbq.free_rcu):
                if not vb.is_fragmented():  # no lock: looked at again
                    continue
                with vb.lock:
                    self._purge_fragmented_block(vb, purge, force=True)
            self._free_purged_blocks(purge)

    # -- flush

    def vm_unmap_aliases(self) -> None:
        """
        Flush whatever was unmapped lazily: afterwards no TLB has a translation of it.

        As in Linux, with one exception: a block whose last mapping another CPU is unmapping just now,
        which goes to the next purge.

        For who gives pages away that may have been mapped. May sleep.
        """
        with self.space.purge_lock:
            start, end = NO_RANGE
            purge: list[VmapBlock] = []
            for vb in self._blocks_to_flush():
                with vb.lock:
                    if self._purge_fragmented_block(vb, purge, force=False):
                        continue
                    low, high = self._take_dirty_range(vb)
                start, end = min(start, low), max(end, high)
            self._free_purged_blocks(purge)
            if not self.space.purge_vmap_area_lazy(start, end, False) and start < end:
                self.space.page_table.flush_tlb_kernel_range(start, end)

    def _blocks_to_flush(self) -> Iterator[VmapBlock]:
        """
        All blocks, not only those with free space.

        Since Linux kernel commit fc1e0d980037 ("mm/vmalloc: prevent stale TLBs in fully utilized
        blocks") (in v6.4).
        """
        return self.for_each_vmap_block()

    def _take_dirty_range(self, vb: VmapBlock) -> tuple[int, int]:
        """Addresses unmapped since the last flush, which the caller is going to flush."""
        if not vb.dirty_max or vb.dirty.value == vb.bits:
            return NO_RANGE
        start = vb.va.va_start
        dirty = start + (vb.dirty_min << PAGE_SHIFT), start + (vb.dirty_max << PAGE_SHIFT)
        vb.dirty_min, vb.dirty_max = vb.bits, 0
        return dirty
