"""
Shared memory: pages that several address spaces map (``mm/shmem.c``).

An object is what ``shmget`` or a shared anonymous mapping makes. Its pages are allocated when first
touched, and freed when its last user is gone: the one who made it, and every VMA that maps it.

Locks:
    shmem->lock         pages; ``_mapcount`` of the object's pages (which is atomic in the kernel).
                        Taken inside mm->page_table_lock; a page may not be allocated under it
    shmem_lock          the list of all objects; a leaf
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from concmem.errors import BadArgument, BadArgumentType, KernelBug
from concmem.mm.gfp import GFP_HIGHUSER_MOVABLE, ZERO
from concmem.mm.mman import TASK_SIZE, page_align
from concmem.units import PAGE_SHIFT

if TYPE_CHECKING:
    from concmem.mm.commit import CommitAccounting
    from concmem.mm.page import Page
    from concmem.mm.page_alloc import PageAllocator
    from concmem.runtime.api import Runtime

GFP_SHMEM: Final = GFP_HIGHUSER_MOVABLE | ZERO
FIRST_INODE: Final = 1025


class ShmemFs:
    """All shared memory objects of a machine (``shm_mnt``)."""

    __guarded_by__: Final = {"_files": "_lock", "_next_inode": "_lock"}

    def __init__(
        self, rt: Runtime, page_alloc: PageAllocator, commit: CommitAccounting, cls: type[Shmem]
    ) -> None:
        self.rt = rt
        self.page_alloc = page_alloc
        self.commit = commit
        self._class = cls
        self._lock = rt.spinlock("shmem_lock")
        # _lock
        self._files: dict[int, Shmem] = {}
        self._next_inode = FIRST_INODE
        rt.watch(self)

    def create(self, size: int, name: str = "") -> Shmem | None:
        """
        An object of *size* bytes with one user, who must `Shmem.close` it.

        Its whole size is charged at once, as ``shmget`` does. ``None`` when that is too much.

        Raises:
            BadArgument: *size* is not 1 to the largest user address.
        """
        if isinstance(size, bool) or not isinstance(size, int):
            raise BadArgumentType(f"size: expected bytes, got {size!r}")
        if not 0 < size <= TASK_SIZE:
            raise BadArgument(f"size: must be 1 to {TASK_SIZE:#x}, got {size}")
        size = page_align(size)
        if not self.commit.enough_memory(size >> PAGE_SHIFT, 0):
            return None
        with self._lock:
            inode, self._next_inode = self._next_inode, self._next_inode + 1
            shmem = self._class(self, inode, size, name or f"/SYSV{inode:08x}")
            self._files[inode] = shmem
        return shmem

    def forget(self, shmem: Shmem) -> None:
        """*shmem* has no user any more."""
        with self._lock:
            del self._files[shmem.inode]

    def files(self) -> list[Shmem]:
        """All objects that have a user."""
        with self._lock:
            return list(self._files.values())


class Shmem:
    """
    One object of shared memory (an inode of shmem). Made by `ShmemFs.create`.

    Attributes:
        size: bytes, whole pages.
        pages: page by number; each has one reference of the object's.
    """

    __guarded_by__ = {"pages": "lock"}

    def __init__(self, fs: ShmemFs, inode: int, size: int, name: str) -> None:
        self.fs = fs
        self.inode = inode
        self.size = size
        self.name = name
        self.lock = fs.rt.spinlock("shmem->lock")
        self.pages: dict[int, Page] = {}
        self._users = fs.rt.refcount("shmem->users")
        self._users.add(True)
        self._open = fs.rt.atomic(1, "shmem->open")
        fs.rt.watch(self)

    # -- users

    def get(self) -> None:
        """
        One more user: a VMA.

        Raises:
            BadArgument: there is no user any more, so the object is gone.
        """
        if not self._users.inc_not_zero():
            raise BadArgument(f"file: {self!r} was closed and is mapped nowhere")

    def put(self) -> None:
        """One user less (``fput``); the last one frees the pages. On a CPU."""
        if self._users.dec_and_test():
            self._evict()

    def close(self) -> None:
        """
        The maker needs it no longer; it lives on while something maps it. On a CPU.

        Raises:
            KernelBug: it was closed before.
        """
        if not self._open.xchg(0):
            raise KernelBug(f"{self!r} is closed twice")
        self.put()

    @property
    def nr_users(self) -> int:
        """The maker, if it has not closed, and VMAs."""
        return self._users.read()

    @property
    def is_open(self) -> bool:
        """Whether the maker has not closed it."""
        return bool(self._open.value)

    def _evict(self) -> None:
        """Nobody else knows the object any more (``shmem_evict_inode``)."""
        with self.lock:
            pages, self.pages = self.pages, {}
        for page in pages.values():
            page.mapping = None
            self.fs.page_alloc.free_pages(page)
        self.fs.commit.unacct_memory(self.size >> PAGE_SHIFT)
        self.fs.forget(self)

    # -- pages

    def get_page(self, index: int) -> Page | None:
        """
        Page number *index*, allocated now if need be; ``None`` without memory. May sleep.

        The caller keeps the object alive, and so the page.
        """
        with self.lock:
            page = self.pages.get(index)
        if page is not None:
            return page
        new = self.fs.page_alloc.alloc_pages(0, GFP_SHMEM)
        if new is None:
            return None
        with self.lock:
            page = self._add_to_page_cache(index, new)
        if page is not new:
            self.fs.page_alloc.free_pages(new)
        return page

    def _add_to_page_cache(self, index: int, new: Page) -> Page:
        """The page that is there by now, or *new*. Caller holds lock."""
        page = self.pages.get(index)  # again: another CPU may have put one there meanwhile
        if page is None:
            page = self.pages[index] = new
            new.mapping = self
            self.fs.rt.watch(new)
        return page

    def add_rmap(self, page: Page) -> None:
        """An address space maps *page* once more (``folio_add_file_rmap_pte``), with a reference."""
        page._count.inc_not_zero()
        with self.lock:
            page._mapcount += 1

    def remove_rmap(self, page: Page) -> None:
        """One mapping less. The caller still has the mapping's reference, to drop after a flush."""
        with self.lock:
            page._mapcount -= 1

    def __repr__(self) -> str:
        return f"<shmem {self.name} inode:{self.inode} size:{self.size:#x}>"
