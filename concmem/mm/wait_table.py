"""
Waiting for pages: a hashed table of wait queues for each zone (``zone->wait_table``).

Locks: a bucket's lock protects ``page->flags`` of every page that hashes to it, and its queue. It is
a leaf: no other lock is taken inside. Interrupt handlers take it, too: I/O ends in an unlock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from concmem.errors import LockMisuse
from concmem.mm.page import PG_LOCKED, PG_WAITERS, Page

if TYPE_CHECKING:
    from concmem.runtime.api import Lock, Runtime, WaitQueue

PAGES_PER_WAITQUEUE: Final = 256
GOLDEN_RATIO_64: Final = 0x61C8864680B583EB


def wait_table_hash_nr_entries(pages: int) -> int:
    """Buckets for a zone of *pages*: one per 256, a power of two, 4 to 4096."""
    entries = 1 << max(0, (pages // PAGES_PER_WAITQUEUE - 1).bit_length())
    return max(4, min(entries, 4096))


class Bucket(NamedTuple):
    lock: Lock
    queue: WaitQueue


class WaitTable:
    """The wait queues of one zone's pages. Buckets are made when first used."""

    def __init__(self, rt: Runtime, nr_pages: int) -> None:
        self.nr_entries = wait_table_hash_nr_entries(nr_pages)
        self._bits = self.nr_entries.bit_length() - 1
        self._buckets: dict[int, Bucket] = {}
        self._rt = rt

    def bucket(self, page: Page) -> Bucket:
        """The bucket of *page* (``page_waitqueue``)."""
        index = (page.pfn * GOLDEN_RATIO_64 & 0xFFFF_FFFF_FFFF_FFFF) >> (64 - self._bits)
        bucket = self._buckets.get(index)
        if bucket is None:
            lock = self._rt.spinlock("zone->wait_table[].lock", irqsave=True)
            bucket = Bucket(lock, self._rt.waitqueue(lock, "zone->wait_table[]"))
            bucket = self._buckets.setdefault(index, bucket)
        return bucket

    def _bucket_of(self, page: Page) -> Bucket:
        """The same, for who changes ``page->flags``, which several CPUs do from now on."""
        return self.bucket(self._rt.watch(page))

    def trylock_page(self, page: Page) -> bool:
        """Set PG_locked if it is clear; never waits."""
        with self._bucket_of(page).lock:
            if page.flags & PG_LOCKED:
                return False
            page.flags |= PG_LOCKED
            return True

    def lock_page(self, page: Page) -> None:
        """Set PG_locked, sleeping until whoever has it clears it."""
        lock, queue = self._bucket_of(page)
        with lock:
            while page.flags & PG_LOCKED:
                page.flags |= PG_WAITERS
                queue.wait()
            page.flags |= PG_LOCKED

    def unlock_page(self, page: Page) -> None:
        """
        Clear PG_locked and wake those who wait for it.

        Raises:
            LockMisuse: the page is not locked.
        """
        bucket = self._bucket_of(page)
        with bucket.lock:
            if not page.flags & PG_LOCKED:
                raise LockMisuse(f"unlock_page: {page!r} is not locked")
            if page.flags & PG_WAITERS:
                self._wake_waiters(bucket)
            page.flags &= ~(PG_LOCKED | PG_WAITERS)

    def _wake_waiters(self, bucket: Bucket) -> None:
        """All of them: some only look, and pages share buckets, so one wake-up might be wasted."""
        bucket.queue.wake_up_all()

    def wait_on_page_locked(self, page: Page, timeout: float | None = None) -> bool:
        """
        Sleep until PG_locked is clear, without setting it; false on a time-out (seconds).

        Another CPU may lock the page again before the caller looks.
        """
        lock, queue = self._bucket_of(page)

        def unlocked() -> bool:
            if not page.flags & PG_LOCKED:
                return True
            page.flags |= PG_WAITERS
            return False

        with lock:
            return queue.wait_for(unlocked, timeout)
