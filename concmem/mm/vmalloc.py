"""
``vmalloc``: memory that is contiguous in virtual addresses only.

Order of an allocation: reserve the area, allocate its pages one by one, map them, and only then say
that it is complete. Order of a free: unmap, leave the addresses to the next purge, free the pages.

Locks:
    see vmap_space.py; none of them is held while pages are allocated or freed
    vfree_deferred->lock (irqsave)  addresses that interrupts have freed

Nothing here may be called from an interrupt, since all of it may sleep, but for `Vmalloc.vfree`, which a
kernel thread then completes.

Follows ``mm/vmalloc.c`` of Linux 6.12. Pages are of order 0, as without huge mappings; the array of pages
is no object in the model's memory.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType
from concmem.mm.gfp import GFP_KERNEL, NOWARN, ZERO, check_gfp, show_gfp_flags
from concmem.mm.statistics import VmallocStatistics
from concmem.mm.vm_area import Caller, VmAreas, caller_of_caller, check_address, check_whole
from concmem.mm.vmap_area import VM_ALLOC, VM_UNINITIALIZED, VmStruct
from concmem.mm.workqueue import Work
from concmem.units import PAGE_SIZE

if TYPE_CHECKING:
    from concmem.mm.log import KernelLog
    from concmem.mm.mem_map import MemMap
    from concmem.mm.page_alloc import PageAllocator
    from concmem.mm.vmap_block import VmapBlocks
    from concmem.mm.vmap_space import VmapSpace
    from concmem.mm.workqueue import WorkQueue
    from concmem.runtime.api import Runtime


class Vmalloc(VmAreas):
    """``vmalloc`` and ``vfree``, beside ``vmap`` and ``vm_map_ram`` of `VmAreas`."""

    __guarded_by__: Final = {"_deferred": "_deferred_lock"}

    def __init__(
        self,
        rt: Runtime,
        space: VmapSpace,
        blocks: VmapBlocks,
        page_alloc: PageAllocator,
        mem_map: MemMap,
        workqueue: WorkQueue,
        log: KernelLog,
    ) -> None:
        super().__init__(rt, space, blocks, mem_map, len(page_alloc.nodes))
        self._page_alloc = page_alloc
        self._workqueue = workqueue
        self._log = log
        self.nr_vmalloc_pages = rt.atomic(0, "nr_vmalloc_pages")
        self._deferred_lock = rt.spinlock("vfree_deferred->lock", irqsave=True)
        self._deferred: deque[int] = deque()  # _deferred_lock
        self._vfree_work = Work(self._delayed_vfree_work, "delayed_vfree_work")
        rt.watch(self)

    # -- vmalloc

    def vmalloc(self, size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
        """
        Allocate *size* bytes, rounded up to whole pages, and map them. May sleep.

        Args:
            gfp: of the pages.
            node: their preferred NUMA node; the CPU's own by default.

        Returns:
            The address, a multiple of ``PAGE_SIZE``, or ``None`` when pages or addresses are short;
            addresses also with ``NOFAIL``.

        Raises:
            BadArgument: *size*, *gfp* or *node* cannot be.
            SleepInAtomic: in an interrupt.
        """
        return self.vmalloc_node_range(size, gfp, node, caller_of_caller())

    def vzalloc(self, size: int, gfp: int = GFP_KERNEL, node: int | None = None) -> int | None:
        """As `vmalloc`, filled with zeros."""
        check_gfp(gfp)
        return self.vmalloc_node_range(size, gfp | ZERO, node, caller_of_caller())

    def vmalloc_node_range(
        self, size: int, gfp: int, node: int | None, caller: Caller
    ) -> int | None:
        """As `vmalloc`, for *caller*, who stands for it in ``/proc/vmallocinfo``."""
        check_whole("size", size)
        check_gfp(gfp)
        self._check_node(node)
        self.might_sleep("vmalloc")
        nr_pages = -(-size // PAGE_SIZE)
        if nr_pages > self.totalram_pages():
            self._warn(gfp, f"vmalloc error: size {size}, exceeds total pages")
            return None
        flags = VM_ALLOC | VM_UNINITIALIZED
        vm = self.get_vm_area(nr_pages, flags, gfp, caller)
        if vm is None:
            self._warn(gfp, f"vmalloc error: size {size}, vm_struct allocation failed")
            return None
        if not self._vmalloc_area_node(vm, nr_pages, gfp, node):
            self._warn(
                gfp,
                f"vmalloc error: size {nr_pages * PAGE_SIZE}, failed to allocate pages",
            )
            return None
        self._clear_vm_uninitialized_flag(vm)
        return vm.addr

    def _vmalloc_area_node(self, vm: VmStruct, nr_pages: int, gfp: int, node: int | None) -> bool:
        """Allocate and map; if there are too few pages, give everything back, *vm* too."""
        vm.pages = []
        try:
            self._vm_area_alloc_pages(vm, nr_pages, gfp, node)
        except BaseException:  # a shrinker has raised, or the machine is shut down
            self._free_failed(vm)
            raise
        if vm.nr_pages < nr_pages:
            self._free_failed(vm)
            return False
        self.page_table.map(vm.addr, [page.pfn for page in vm.pages])
        self._page_alloc.events.count("vmalloc_map")
        return True

    def _vm_area_alloc_pages(self, vm: VmStruct, nr_pages: int, gfp: int, node: int | None) -> None:
        """As many pages as there are, up to *nr_pages*. Sleeps and parks between them."""
        assert vm.pages is not None
        alloc_pages = self._page_alloc.alloc_pages
        try:
            for _ in range(nr_pages):
                page = alloc_pages(0, gfp | NOWARN, node)
                if page is None:
                    break
                vm.pages.append(page)
                vm.nr_pages += 1
        finally:
            self.nr_vmalloc_pages.add(vm.nr_pages)

    def _free_failed(self, vm: VmStruct) -> None:
        """Nobody but the caller knows *vm*, so it is there."""
        va = self.space.find_unlink_vmap_area(vm.addr, lambda va: va.vm is vm)
        assert va is not None
        self.space.free_unmap_vmap_area(va)
        self._free_pages(vm)

    def _clear_vm_uninitialized_flag(self, vm: VmStruct) -> None:
        """Everything of *vm* is set: readers may look (``smp_wmb()`` in the kernel)."""
        vm.flags.value &= ~VM_UNINITIALIZED

    # -- vfree

    def vfree(self, addr: int | None) -> None:
        """
        Free what `vmalloc` gave; nothing for 0 and ``None``.

        May sleep, but in an interrupt, where a kernel thread does it later (``vfree_atomic``); then
        what is wrong surfaces as a failure at the end of the run.

        Raises:
            DoubleFree: there is no area at *addr*, or not any more.
            BadFree: *addr* is not what `vmalloc` returned.
        """
        if addr is None or check_address("addr", addr) == 0:
            return
        self.rt.smp_processor_id()
        if self.rt.in_interrupt():
            self._vfree_atomic(addr)
            return
        self.rt.cond_resched()
        vm = self.remove_vm_area(addr, VM_ALLOC)
        if vm is None:
            raise self.nonexistent("vfree", addr)
        self._free_pages(vm)

    def _free_pages(self, vm: VmStruct) -> None:
        """The pages of an area that is gone. Parks between them."""
        # Before the first of them, so that a parked CPU has nothing counted that is not there.
        self.nr_vmalloc_pages.add(-vm.nr_pages)
        free_pages, cond_resched = self._page_alloc.free_pages, self.rt.cond_resched
        for page in vm.pages or ():
            free_pages(page, 0)
            cond_resched()

    def _vfree_atomic(self, addr: int) -> None:
        with self._deferred_lock:
            self._deferred.append(addr)
        self._workqueue.queue_work(self._vfree_work)

    def _delayed_vfree_work(self) -> None:
        while (addr := self._next_deferred()) is not None:
            try:
                self.vfree(addr)
            except Exception:
                self._workqueue.queue_work(self._vfree_work)  # the others' turn comes
                raise

    def _next_deferred(self) -> int | None:
        with self._deferred_lock:
            return self._deferred.popleft() if self._deferred else None

    # -- report and check

    def statistics(self) -> VmallocStatistics:
        """A copy of what is known of all areas."""
        return VmallocStatistics(
            size=self.space.end - self.space.start,
            nr_vmalloc_pages=self.nr_vmalloc_pages.value,
            nr_lazy_pages=self.space.vmap_lazy_nr.value,
            lazy_max_pages=self.space.lazy_max_pages(),
            nr_purges=self.space.nr_purges.value,
            nr_flushes=self.page_table.nr_flushes,
            areas=tuple(self.area_statistics()),
        )

    def _check_node(self, node: object) -> None:
        nr_nodes = self.nr_nodes
        if node is None:
            return
        if isinstance(node, bool) or not isinstance(node, int):
            raise BadArgumentType(f"node: expected a node number, got {node!r}")
        if not 0 <= node < nr_nodes:
            raise BadArgument(f"node: there is no node {node}, only 0 to {nr_nodes - 1}")

    def _warn(self, gfp: int, text: str) -> None:
        """``warn_alloc``."""
        if not gfp & NOWARN:
            cpu = self.rt.smp_processor_id()
            self._log.printk(f"cpu{cpu}: {text}, mode:{gfp:#x}({show_gfp_flags(gfp)})")
