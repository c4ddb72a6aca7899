"""
A worker: what one CPU does in a stress run, counted and checked.

Every page that a worker gets is stamped with a tag that no other allocation of the run has, and
looked at again before it is freed, by whichever CPU frees it. When two owners were given the same
page, the one that wrote first finds the other's tag.

Locks: none. A worker belongs to its CPU's thread; interrupt handlers run on that thread, and only
at points, of which there is none between the load and the store of a counter. `stopped` and `limit`
are written by the thread that directs the run: a stale value costs one operation more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import PageOwnershipError
from concmem.units import PAGE_OFFSET, PAGE_SHIFT
from concmem.workloads.object_owner import CPU_BITS, MAX_RELEASE_ERRORS, ObjectOwner

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from concmem.machine import Machine
    from concmem.mm.page import Page
    from concmem.workloads.progress import Progress

Owned = tuple["Page", int, int]
"""A page that somebody owns: its struct, its order, and the tag stamped into it."""

_CPU_MASK: Final = (1 << CPU_BITS) - 1

TAG_BYTES: Final = 8
"""Bytes at the start of a page that hold its tag."""

MAX_STAMPS: Final = 16
"""Pages of one block that are stamped, besides its first; which ones differs from tag to tag."""


def stamped_pages(pfn: int, order: int, tag: int) -> range:
    """The page frames of a block of order 1 or more that carry *tag*, besides the first."""
    nr_pages = 1 << order
    stride = max(1, nr_pages // MAX_STAMPS)
    return range(pfn + (tag >> CPU_BITS) % stride, pfn + nr_pages, stride)


class Worker:
    """
    One CPU (or kernel thread) of a stress run.

    Args:
        cpu: its number.
        progress: where its operations are counted.
        owner: makes what it has its objects in.
    """

    def __init__(
        self,
        machine: Machine,
        cpu: int,
        progress: Progress,
        owner: Callable[[Machine, int, Progress], ObjectOwner] = ObjectOwner,
    ) -> None:
        self.cpu = cpu
        self.progress = progress
        self.held: list[Owned] = []
        """Pages to give back when the body ends, however it ends. This CPU's body only."""
        self.objects = owner(machine, cpu, progress)
        """What it has from caches, ``kmalloc`` and ``vmalloc``."""
        self.limit = 0
        """Operations, of the whole run so far, after which the body shall end."""
        self.stopped = True
        """The body shall end before its next operation."""
        self.rng: random.Random = machine.runtime.rng(f"stress/{cpu}")
        self._alloc_pages = machine.alloc_pages
        self._free_pages = machine.free_pages
        # Bytes, not words: copying slices leaves the host mapping's count of exported buffers
        # alone, which a free-threaded interpreter does not keep exactly.
        self._write = machine.memory.write
        self._read = machine.memory.read

    def running(self) -> bool:
        """Whether the body shall do another operation."""
        return not self.stopped and self.progress.operations < self.limit

    def alloc(self, order: int, gfp: int) -> Owned | None:
        """``2**order`` pages, stamped; the caller owns them. ``None`` is a result, and counted."""
        progress = self.progress
        progress.operations += 1
        page = self._alloc_pages(order, gfp)
        if page is None:
            progress.failed += 1
            return None
        # After the last point: an interrupt handler that allocates here gets another number.
        progress.allocated = number = progress.allocated + 1
        tag = number << CPU_BITS | self.cpu
        pfn = page.pfn
        stamp = tag.to_bytes(TAG_BYTES, "little")
        self._write(PAGE_OFFSET + (pfn << PAGE_SHIFT), stamp)
        if order:
            for stamped in stamped_pages(pfn, order, tag):
                self._write(PAGE_OFFSET + (stamped << PAGE_SHIFT), stamp)
        return page, order, tag

    def free(self, owned: Owned) -> None:
        """
        Check the stamps of what the caller owns, and free it.

        Raises:
            PageOwnershipError: somebody else has written to the pages. They are not freed.
        """
        page, order, tag = owned
        pfn = page.pfn
        stamp = tag.to_bytes(TAG_BYTES, "little")
        if self._read(PAGE_OFFSET + (pfn << PAGE_SHIFT), TAG_BYTES) != stamp:
            raise self._two_owners(pfn, owned)
        if order:
            for stamped in stamped_pages(pfn, order, tag):
                if self._read(PAGE_OFFSET + (stamped << PAGE_SHIFT), TAG_BYTES) != stamp:
                    raise self._two_owners(stamped, owned)
        progress = self.progress
        progress.operations += 1
        progress.freed += 1
        if tag & _CPU_MASK != self.cpu:
            progress.cross_cpu += 1
        self._free_pages(page, order)

    def hold(self, order: int, gfp: int) -> bool:
        """Allocate into `held`; false when there is no memory."""
        owned = self.alloc(order, gfp)
        if owned is None:
            return False
        self.held.append(owned)
        return True

    def drop_any(self) -> None:
        """Free one of the pages held, any. There must be one."""
        held = self.held
        index = int(self.rng.random() * len(held))
        held[index], held[-1] = held[-1], held[index]
        self.free(held.pop())

    def release(self) -> list[Exception]:
        """Free all that is held, also after an error; what went wrong, the first few."""
        errors = self.objects.release()
        while self.held:
            try:
                self.free(self.held.pop())
            except Exception as error:
                if len(errors) < MAX_RELEASE_ERRORS:
                    errors.append(error)
        return errors

    def _two_owners(self, pfn: int, owned: Owned) -> PageOwnershipError:
        page, order, tag = owned
        found = int.from_bytes(self._read(PAGE_OFFSET + (pfn << PAGE_SHIFT), TAG_BYTES), "little")
        return PageOwnershipError(
            f"pfn {pfn:#x} (order-{order} block at pfn {page.pfn:#x}) has two owners: "
            f"{_show(tag)} wrote its tag, but it holds that of {_show(found)}; "
            f"found by cpu{self.cpu} before the free"
        )


def _show(tag: int) -> str:
    """A tag as text, such as ``cpu1's allocation 17``."""
    return f"cpu{tag & _CPU_MASK}'s allocation {tag >> CPU_BITS}"
