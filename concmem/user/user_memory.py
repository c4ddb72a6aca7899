"""
The process's memory as malloc sees it: 8-byte words, and who has what.

Each CPU remembers where the pages that it uses are (`Thread.tlb`), so that reading a field of a chunk
costs no walk through page tables. An entry is dropped, on all CPUs, *before* its page is unmapped.
Nobody uses a page while it is being unmapped: malloc unmaps only what is free, so an entry that is
missing then stays missing.

`owners` has, for each page, the addresses in it that the program has now. Every allocation and every free
changes it in one step, so that an address that is handed out twice, or freed twice, is noticed at once,
on whatever CPUs that happens, and not only when memory is corrupted. It is kept by page, since one table
for all would be shared by all CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from concmem.errors import OutOfMemory
from concmem.units import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from concmem.runtime.api import PerCpu, Runtime
    from concmem.user.system import System
    from concmem.user.thread import Thread

Tlb = dict[int, tuple[int, dict[int, int]]]
"""
By page number: ``base``, so that the word at address *a* has index ``(a + base) >> 3``, and the page's
owners.
"""


class UserMemory:
    """Loads and stores of one process's malloc, and its table of live allocations."""

    load: Callable[[int], int]
    """The word at an address that is a multiple of 8."""
    store: Callable[[int, int], None]
    """Store a word."""

    def __init__(self, rt: Runtime, system: System, threads: PerCpu[Thread]) -> None:
        self._rt = rt
        self._system = system
        self._threads = threads
        self.owners: dict[int, dict[int, int]] = {}
        """By page number: the program's addresses in that page. Changed by indivisible steps only."""
        self.killed = False
        """The heap ran out of pages in the middle of something, and may be broken."""
        self._bind()

    def _bind(self) -> None:
        this, find = self._threads.this, self.find

        def load(address: int) -> int:
            thread = this()
            entry = thread.tlb.get(address >> 12) or find(thread, address)
            return thread.words[address + entry[0] >> 3]

        def store(address: int, value: int) -> None:
            thread = this()
            entry = thread.tlb.get(address >> 12) or find(thread, address)
            thread.words[address + entry[0] >> 3] = value

        self.load = load
        self.store = store

    def find(self, thread: Thread, address: int) -> tuple[int, dict[int, int]]:
        """
        The entry for the page of *address*, remembered. May sleep.

        Raises:
            KernelBug: nothing is mapped there.
            OutOfMemory: there is no page for it. Malloc may be in the middle of something then; where a
                kernel would kill the process, its heap must not be used any more (`killed`).
        """
        page = address >> PAGE_SHIFT
        try:
            index = self._system.map_page(address)
        except OutOfMemory:
            self.killed = True
            raise
        entry = (index * 8 - (page << PAGE_SHIFT), self._owners(page))
        thread.tlb[page] = entry
        return entry

    def _owners(self, page: int) -> dict[int, int]:
        found = self.owners.get(page)
        return self.owners.setdefault(page, {}) if found is None else found

    def forget(self, start: int, end: int) -> None:
        """The range is about to be unmapped: nobody may remember where it was, and nothing in it is live."""
        self.forget_places(start, end)
        _drop(self.owners, start, end)

    def forget_places(self, start: int, end: int) -> None:
        """The range's pages may be unmapped or change their rights: nobody may remember where they are."""
        for thread in self._threads.all():
            _drop(thread.tlb, start, end)
            thread.spots.clear()

    def forget_everywhere(self) -> None:
        """Have every CPU forget all places, each by itself, as an interrupt. May sleep."""
        # Also a CPU that remembers nothing now: it may be about to.
        for cpu in range(self._rt.nr_cpus):
            self._rt.call_on(cpu, self._forget_here)

    def _forget_here(self) -> None:
        thread = self._threads.this()
        thread.tlb.clear()
        thread.spots.clear()

    def forget_chunk(self, start: int, end: int) -> None:
        """The range is a mapped chunk that is about to be unmapped: it was in no tcache, so in no `spots`."""
        for thread in self._threads.all():
            _drop(thread.tlb, start, end)
        _drop(self.owners, start, end)

    # -- live allocations

    def give(self, address: int) -> bool:
        """The program gets *address*; false if it has it already. One step."""
        token = address | 1  # an object of its own, so that identity tells whose step it was
        return self._owners(address >> PAGE_SHIFT).setdefault(address, token) is token

    def take(self, address: int) -> bool:
        """The program gives *address* back; false if it has not got it. One step."""
        owners = self.owners.get(address >> PAGE_SHIFT)
        return owners is not None and owners.pop(address, None) is not None

    def is_live(self, address: int) -> bool:
        """Whether the program has *address*."""
        return address in self.owners.get(address >> PAGE_SHIFT, ())

    def live(self) -> list[int]:
        """Every address that the program has, in order. Exact only while nobody allocates."""
        return sorted(address for owners in list(self.owners.values()) for address in list(owners))

    # -- bytes

    def copy(self, to: int, source: int, nr_bytes: int) -> None:
        """``memcpy``, in pieces of a page."""
        for offset in range(0, nr_bytes, PAGE_SIZE):
            length = min(PAGE_SIZE, nr_bytes - offset)
            self._system.write(to + offset, self._system.read(source + offset, length))

    def clear(self, address: int, nr_bytes: int) -> None:
        """``memset`` to 0, in pieces of a page."""
        for offset in range(0, nr_bytes, PAGE_SIZE):
            self._system.write(address + offset, bytes(min(PAGE_SIZE, nr_bytes - offset)))


def _drop(table: dict[int, Any], start: int, end: int) -> None:
    """Take the pages of a range out of *table*, each in one step."""
    first, last = start >> PAGE_SHIFT, end - 1 >> PAGE_SHIFT
    # No lock: pages that come meanwhile are not in the range, see the module.
    pages = range(first, last + 1) if last - first < len(table) else list(table)
    for page in pages:
        if first <= page <= last:
            table.pop(page, None)
