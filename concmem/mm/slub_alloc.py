"""
Allocation beyond the fast path: the CPU's own slab again, its partial list, node lists, a new slab.

The state of the CPU may change between any two steps, by an interrupt that allocates, frees or
flushes; so each step takes the CPU's lock, looks again, and starts over if somebody was faster.

Follows ``___slab_alloc`` and ``get_partial`` of ``mm/slub.c``, Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from concmem.mm import gfp as gfp_flags
from concmem.mm.zonelist import node_order

if TYPE_CHECKING:
    from concmem.mm.kmem_cache import KmemCache
    from concmem.mm.kmem_cache_cpu import KmemCacheCpu
    from concmem.mm.kmem_cache_node import KmemCacheNode
    from concmem.mm.node import PgData
    from concmem.mm.page import Page
    from concmem.mm.slab_page import SlabPages
    from concmem.mm.slub_cpu import CpuSlabs
    from concmem.runtime.api import Runtime


class SlubAlloc:
    """The slow path of allocation, for all caches of a machine."""

    def __init__(
        self, rt: Runtime, nodes: Sequence[PgData], pages: SlabPages, cpu_slabs: CpuSlabs
    ) -> None:
        self._rt = rt
        self._nodes = nodes
        self._pages = pages
        self._cpu_slabs = cpu_slabs
        self._node_of_cpu = {cpu: node.node_id for node in nodes for cpu in node.cpus}

    def slab_alloc(self, s: KmemCache, gfp: int, node: int | None) -> int:
        """
        The address of an object, or 0 when there is no memory (``___slab_alloc``).

        May sleep when *gfp* has ``DIRECT_RECLAIM``. *node*: wanted, and forced with ``THISNODE``.
        """
        c = s.cpu_slab.this()
        if c.cpu < 0:
            self._cpu_slabs.come_up(s, c)
        c.count("alloc_slowpath")
        if node is not None and not self._nodes[node].populated_zones():
            node = None  # it has no memory: then any will do
        while True:
            freelist = self._from_cpu_slab(s, c, node)
            if freelist:
                return freelist
            if c.partial is None:
                break
            slab = self._pop_cpu_partial(s, c, node)
            if slab is not None:
                return self._install(s, c, slab)
        slab = None
        if node is not None and not gfp & gfp_flags.THISNODE:
            # Wanted, not forced: without much trying there first, then anywhere.
            slab = self._get_slab(s, c, gfp_flags.GFP_NOWAIT | gfp_flags.THISNODE, node)
        if slab is None:
            slab = self._get_slab(s, c, gfp, node)
        return 0 if slab is None else self._install(s, c, slab)

    def _get_slab(self, s: KmemCache, c: KmemCacheCpu, gfp: int, node: int | None) -> Page | None:
        """A slab with free objects that is on no list: from the node lists, or a new one."""
        slab = self._get_partial(s, c, gfp, node)
        if slab is not None:
            c.count("alloc_from_partial")
            return slab
        # Allocating pages may sleep, and lets interrupts in: nothing of the CPU is held.
        slab = self._pages.new_slab(s, gfp, node, c.words)
        if slab is not None:
            c.count("alloc_slab")
        return slab

    # -- the CPU's own slab

    def _from_cpu_slab(self, s: KmemCache, c: KmemCacheCpu, node: int | None) -> int:
        """An object of the CPU slab; 0: the CPU has none any more."""
        while (slab := c.page) is not None:
            if node is not None and slab.zone.zone_pgdat.node_id != node:
                c.count("alloc_node_mismatch")
                self._give_up(s, c, slab)
                continue
            with c.lock:
                if not self._recheck_cpu_slab(c, slab):
                    continue
                freelist = c.freelist_tid.first or self._cpu_slabs.get_freelist(s, slab)
                if freelist:
                    c.count("alloc_refill")
                    return self._load(s, c, slab, freelist)
                c.take_away()
                c.count("deactivate_bypass")
        return 0

    @staticmethod
    def _recheck_cpu_slab(c: KmemCacheCpu, slab: Page) -> bool:
        """Whether *slab*, seen without the lock, is still the CPU's. Caller holds the CPU's lock."""
        return c.page is slab

    def _give_up(self, s: KmemCache, c: KmemCacheCpu, slab: Page) -> None:
        """Deactivate the CPU slab if it is still *slab*."""
        with c.lock:
            if not self._recheck_cpu_slab(c, slab):
                return
            _, freelist = c.take_away()
        self._cpu_slabs.deactivate_slab(s, slab, freelist)

    @staticmethod
    def _load(s: KmemCache, c: KmemCacheCpu, slab: Page, freelist: int) -> int:
        """Take the first object of *freelist*, the rest is the CPU's. Caller holds its lock."""
        following = s.get_freepointer(c.words, freelist)
        c.load(slab, slab.zone.zone_pgdat.node_id, following)
        return freelist

    # -- slabs that are not frozen

    def _pop_cpu_partial(self, s: KmemCache, c: KmemCacheCpu, node: int | None) -> Page | None:
        """The first slab of the CPU partial list; ``None``: look again what the CPU has."""
        with c.lock:
            if c.page is not None:
                return None  # an interrupt has got one
            slab = c.pop_partial()
        if slab is None or node is None or slab.zone.zone_pgdat.node_id == node:
            if slab is not None:
                c.count("cpu_partial_alloc")
            return slab
        self._cpu_slabs.put_partials(s, slab)
        return None

    def _install(self, s: KmemCache, c: KmemCacheCpu, slab: Page) -> int:
        """Freeze *slab*, which is on no list, and make it the CPU slab; its first object."""
        freelist = self._cpu_slabs.freeze_slab(s, slab)
        while True:
            with c.lock:
                if c.page is None:
                    return self._load(s, c, slab, freelist)
                # An interrupt has installed one since. Ours has what is wanted; its goes.
                other, other_freelist = c.take_away()
            assert other is not None
            c.count("cpuslab_flush")
            self._cpu_slabs.deactivate_slab(s, other, other_freelist)

    def _get_partial(
        self, s: KmemCache, c: KmemCacheCpu, gfp: int, node: int | None
    ) -> Page | None:
        """A slab with free objects from the node lists, near ones first (``get_partial``)."""
        for n in partial_nodes(s, self._node_of_cpu.get(c.cpu, 0), gfp, node):
            slab = self._get_partial_node(s, c, n)
            if slab is not None:
                return slab
        return None

    def _get_partial_node(self, s: KmemCache, c: KmemCacheCpu, n: KmemCacheNode) -> Page | None:
        """
        A slab of *n*, taken off its list; more of them go to the CPU partial list.

        Partly used slabs first, then empty ones, as the older SLAB did.
        """
        # No lock: who puts one there now is later than this allocation.
        if not n.nr_partial and not n.nr_free_slabs:
            return None
        with n.list_lock:
            wanted = None
            nr_more = 0
            while (slab := n.slabs_partial.first()) is not None:
                n.remove_partial(slab)
                c.count("free_remove_partial")
                if wanted is None:
                    wanted = slab
                else:
                    self._cpu_slabs.put_cpu_partial(s, slab, drain=False)
                    c.count("cpu_partial_node")
                    nr_more += 1
                if nr_more > s.cpu_partial_slabs // 2:
                    break
            if wanted is None and (wanted := n.slabs_free.first()) is not None:
                n.remove_free(wanted)
        return wanted


def partial_nodes(s: KmemCache, local: int, gfp: int, node: int | None) -> Iterator[KmemCacheNode]:
    """
    Whose lists an allocation may take from, in order.

    Args:
        local: the CPU's own node, which is the first unless *node* is wanted.
    """
    first = local if node is None else node
    yield s.node[first]
    if (node is not None and gfp & gfp_flags.THISNODE) or not s.remote_node_defrag_ratio:
        return
    for other in node_order(first, len(s.node))[1:]:
        n = s.node[other]
        # No lock: a node is only robbed of what it has plenty of; an estimate will do.
        if n.nr_partial > s.min_partial:
            yield n
