"""
A process with a C library: its system calls, and malloc on top of them.

Unmapping goes through here, so that malloc forgets where a page was before it is gone: for malloc's own calls
that has happened already, the program's own come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from concmem.mm.mman import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    TASK_SIZE,
)
from concmem.mm.pgtable import PFN_MASK, PTE_PRESENT, PTE_RW
from concmem.mm.process import Process, ProcessTable
from concmem.units import PAGE_OFFSET, PAGE_SHIFT, PAGE_SIZE
from concmem.user.malloc import Malloc
from concmem.user.validate_malloc import validate_malloc

if TYPE_CHECKING:
    from concmem.mm.mm_struct import MmStruct
    from concmem.mm.shmem import Shmem
    from concmem.runtime.api import PerCpu, Words

_WRITABLE: Final = PTE_PRESENT | PTE_RW
_WORDS_SHIFT: Final = PAGE_SHIFT - 3


class UserProcess(Process):
    """
    A process whose threads call malloc. Made by `UserSpace.make_process`.

    Attributes:
        malloc(size), free(address): see :mod:`concmem.user.malloc_fast_path`. On a CPU; may sleep.
        calloc(n, size), realloc(address, size), memalign(alignment, size),
            aligned_alloc(alignment, size): as in C; ``None`` is no memory.
        malloc_usable_size(address), malloc_trim(pad=0), mallinfo(), mallopt(param, value): as in glibc.
        thread_exit(): the thread on this CPU ends; the next call starts another.
        heap: the :class:`~concmem.user.malloc.Malloc` itself.
    """

    def __init__(
        self, table: ProcessTable, pid: int, name: str, mm: MmStruct, user: UserSpace
    ) -> None:
        super().__init__(table, pid, name, mm)
        self.heap = heap = Malloc(
            table.context.rt, _SystemCalls(self, user), user.tcache, user.classes
        )
        self.malloc = heap.malloc
        self.free = heap.free
        self.calloc = heap.calloc
        self.realloc = heap.realloc
        self.memalign = heap.memalign
        self.aligned_alloc = heap.aligned_alloc
        self.malloc_usable_size = heap.malloc_usable_size
        self.malloc_trim = heap.malloc_trim
        self.mallinfo = heap.mallinfo
        self.mallopt = heap.mallopt
        self.thread_exit = heap.thread_exit
        # What unmaps goes through malloc's memory of pages.
        # Interrupts come at points only, none of which is between looking up where a page is and
        # using it: once every CPU has had this one, none writes to a page that is about to go.
        mm.before_exit = heap.memory.forget_everywhere
        self.brk = self._brk
        self.mmap = self._mmap  # type: ignore[method-assign]  # as the others
        self.munmap = self._munmap
        self.mprotect = self._mprotect

    def _brk(self, addr: int) -> int:
        """Set the end of the heap, see `Brk.sys_brk`."""
        self.mm.context.rt.smp_processor_id()  # on no CPU: NotACpu, before anything is forgotten
        with self.mm.mmap_lock.read():
            now = self.mm.brk
        if isinstance(addr, int) and self.mm.start_brk <= addr < now:
            self.heap.memory.forget(addr, now)
        return self.mm.sys_brk(addr)

    def _mmap(
        self,
        length: int,
        prot: int = PROT_READ | PROT_WRITE,
        flags: int = MAP_PRIVATE | MAP_ANONYMOUS,
        addr: int = 0,
        file: Shmem | None = None,
        offset: int = 0,
    ) -> int | None:
        """Map *length* bytes, see `Mmap.mmap`; ``MAP_FIXED`` replaces what was there."""
        if isinstance(flags, int) and flags & MAP_FIXED:
            self._forget(addr, length)
        return self.mm.mmap(length, prot, flags, addr, file, offset)

    def _munmap(self, addr: int, length: int) -> bool:
        """Unmap a range, see `Munmap.munmap`."""
        self._forget(addr, length)
        return self.mm.munmap(addr, length)

    def _mprotect(self, addr: int, length: int, prot: int) -> bool:
        """Change rights, see `Mprotect.mprotect`."""
        self._forget(addr, length)
        return self.mm.mprotect(addr, length, prot)

    def _forget(self, addr: object, length: object) -> None:
        """Malloc looks for the pages anew. Bad arguments are left to who refuses them."""
        if isinstance(addr, int) and isinstance(length, int) and 0 < length <= TASK_SIZE:
            self.heap.memory.forget_places(addr, addr + length)

    def exit(self) -> None:
        """
        Give everything back. On a CPU; may sleep.

        Linux kills the other threads first; here those that still use its memory or malloc get an
        error. `brk` and `sbrk` go on saying where the break was.
        """
        super().exit()
        self.heap.memory.forget(0, TASK_SIZE)
        self.heap.end()

    def validate_malloc(self) -> None:
        """Check every rule of the heap, all CPUs parked: `HeapError` says what is broken."""
        validate_malloc(self.heap)


class _SystemCalls:
    """What malloc sees of its process (:class:`~concmem.user.system.System`)."""

    def __init__(self, process: UserProcess, user: UserSpace) -> None:
        self._process = process
        self._mm = mm = process.mm
        self._words = user.words
        self.read = mm.read
        self.write = mm.write
        self.munmap = mm.munmap
        self.mprotect = mm.mprotect
        self.count = mm.context.events.count

    def sbrk(self, increment: int) -> int | None:
        return Process.sbrk(self._process, increment)

    def mmap(self, length: int, prot: int, flags: int, addr: int = 0) -> int | None:
        return self._mm.mmap(length, prot, flags, addr, None, 0)

    def words(self) -> Words:
        return self._words.this()

    def map_page(self, address: int) -> int:
        mm = self._mm
        while True:
            mm.touch(address, True)
            # No lock: an entry that somebody takes away now is found missing, and faults again.
            pte = mm.page_table.walk(address)
            if mm.exited:
                # Still mapped, perhaps, but not for long: `before_exit` may have been here already.
                mm.page_fault(address, True)
            elif pte & _WRITABLE == _WRITABLE:
                return (pte & PFN_MASK) >> PAGE_SHIFT << _WORDS_SHIFT

    def peek(self, address: int) -> int | None:
        pte = self._mm.page_table.walk(address)
        if not pte & PTE_PRESENT:
            return None
        where = (pte & PFN_MASK) + PAGE_OFFSET + address % PAGE_SIZE
        return self._mm.context.memory.read_u64(where)


class UserSpace:
    """Makes the processes of a machine, each with a malloc of its own."""

    def __init__(
        self,
        table: ProcessTable,
        classes: Mapping[type, type] | None = None,
        tcache: bool = True,
    ) -> None:
        context = table.context
        rt, memory = context.rt, context.memory
        self.classes = classes
        self.tcache = tcache
        self.words: PerCpu[Words] = rt.percpu(
            lambda: rt.watch_words(memory.words(), "process memory"), "user words"
        )
        table.make_process = self.make_process

    def make_process(self, table: ProcessTable, pid: int, name: str, mm: MmStruct) -> UserProcess:
        """The process of a new address space."""
        return UserProcess(table, pid, name, mm, self)
