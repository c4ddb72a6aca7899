"""
``slab->obj_exts``: a word for each object of a slab, which says who has allocated it.

Objects of SLAB_ACCOUNT caches only, so that the others pay nothing. The vector of a slab is allocated when
the first of its objects is tagged, and freed with the slab. Two CPUs may come first: one compare-exchange
decides. If memory is short the slab is marked, since there are untagged objects now; a vector that comes
later has `CODETAG_EMPTY` for every object, which excuses them.

Follows ``alloc_slab_obj_exts`` and ``handle_failed_objexts_alloc`` of ``mm/slub.c``, Linux 6.12, with the
fixes of 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, KernelBug
from concmem.mm.gfp import GFP_KERNEL, NOWARN
from concmem.mm.slab_flags import SLAB_ACCOUNT
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.memory import Memory
    from concmem.mm.page import Page
    from concmem.runtime.api import Atomic

OBJEXTS_ALLOC_FAIL: Final = 1
"""Instead of a vector: there was no memory for one."""

CODETAG_EMPTY: Final = 1
"""The tag of an object that could not be tagged."""


class SlabObjExts:
    """The vectors of all slabs of a machine."""

    kcalloc: Callable[[int, int, int], int | None]
    """Where vectors come from. Set at boot, when there is such a function."""

    def __init__(self, memory: Memory, slabs: dict[int, Page]) -> None:
        self._memory = memory
        self._slabs = slabs

    # -- for the owner of an object

    def tag(self, address: int, tag: int, gfp: int = GFP_KERNEL) -> bool:
        """
        Say who has the object at *address*. On a CPU; may sleep as *gfp* says.

        Args:
            tag: 2 or more, below 2**64.

        Returns:
            Whether there was memory to write it down.

        Raises:
            BadArgument: *address* is in no slab of a SLAB_ACCOUNT cache, or *tag* cannot be.
        """
        slab = self._slab_of(address)
        if not CODETAG_EMPTY < tag < 1 << 64:
            raise BadArgument(f"tag: must be 2 to 2**64 - 1, got {tag!r}")
        if not slab_obj_exts(slab) and not self.alloc_slab_obj_exts(slab, gfp):
            return False
        self._memory.write_u64(self._entry(slab, address), tag)
        return True

    def untag(self, address: int) -> int:
        """
        Take the tag from an object that is about to be freed; 0: it has none, and that is known.

        Raises:
            BadArgument: as `tag`.
            KernelBug: nobody has tagged it.
        """
        slab = self._slab_of(address)
        if not slab_obj_exts(slab):
            return 0
        entry = self._entry(slab, address)
        tag = self._memory.read_u64(entry)
        if not tag:
            raise KernelBug(f"obj_exts: alloc_tag was not set for the object at {address:#x}")
        self._memory.write_u64(entry, 0)
        return 0 if tag == CODETAG_EMPTY else tag

    def _slab_of(self, address: int) -> Page:
        slab = self._slabs.get(address >> PAGE_SHIFT)
        cache = None if slab is None else slab.slab_cache
        if slab is None or cache is None or not cache.flags & SLAB_ACCOUNT:
            raise BadArgument(f"address: {address:#x} is in no slab of a SLAB_ACCOUNT cache")
        return slab

    @staticmethod
    def _entry(slab: Page, address: int) -> int:
        """Where the tag of an object is."""
        assert slab.slab_cache is not None
        return slab_obj_exts(slab) + 8 * ((address - slab.s_mem) // slab.slab_cache.size)

    # -- vectors

    def alloc_slab_obj_exts(self, slab: Page, gfp: int) -> bool:
        """Whether *slab* has a vector, this CPU's or another's. May sleep as *gfp* says."""
        vector = self.kcalloc(slab.objects, 8, gfp | NOWARN)
        if vector is None:
            return self._no_vector(slab)
        while True:
            old = slab.obj_exts.value
            if old > OBJEXTS_ALLOC_FAIL:
                self._kfree(vector)
                return True
            if old == OBJEXTS_ALLOC_FAIL:
                for index in range(slab.objects):
                    self._memory.write_u64(vector + 8 * index, CODETAG_EMPTY)
            if slab.obj_exts.cmpxchg(old, vector) == old:
                return True

    def _no_vector(self, slab: Page) -> bool:
        """There is no memory for a vector; whether another CPU has made one."""
        self._mark_failed(slab.obj_exts)
        # Since Linux kernel commit 7f434e1d9a17 ("slab: Fix obj_ext mistakenly considered NULL due to
        # race condition") (2025): what counts is what is there, not what this CPU could do.
        return bool(slab_obj_exts(slab))

    @staticmethod
    def _mark_failed(obj_exts: Atomic) -> None:
        # Since Linux kernel commit 6ed8bfd24ce1 ("slab: Avoid race on slab->obj_exts in
        # alloc_slab_obj_exts") (2025): another CPU's vector must not be overwritten.
        obj_exts.cmpxchg(0, OBJEXTS_ALLOC_FAIL)

    def free_slab_obj_exts(self, slab: Page) -> None:
        """An empty slab is about to go."""
        vector = slab_obj_exts(slab)
        if vector:
            self._kfree(vector)

    def _kfree(self, vector: int) -> None:
        self._slabs[vector >> PAGE_SHIFT].slab_free(vector)


def slab_obj_exts(slab: Page) -> int:
    """Address of the vector; 0 for none."""
    return slab.obj_exts.value & ~OBJEXTS_ALLOC_FAIL
