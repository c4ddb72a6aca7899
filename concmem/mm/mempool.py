"""
Memory pools: allocations that do not fail, because some elements are kept in reserve.

A pool of *min_nr* elements guarantees progress: as long as everybody who has an element gives it back
without waiting for another one, everybody who waits gets one.

The seed's order is the default: an element of the reserve first, then the allocator, then wait. Linux
asks the allocator first (``allocator_first=True``) and so keeps the reserve for when it is needed.

No wake-up is lost. A waiter looks at `curr_nr` and goes to sleep under `lock`, in one step; whoever puts an
element into the reserve does so under `lock` too, and wakes everybody there. So an element is put there
either before the waiter looks, and it finds it, or after it sleeps, and it is woken. What is left is the
test in `free` that takes no lock: see there.

Lock: ``pool->lock`` (irqsave, a leaf): `elements`, `curr_nr`, `min_nr`, and the queue `wait`. It is not
held while elements are allocated or freed.

Follows ``mm/mempool.c`` of Linux 6.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from concmem.errors import BadArgument, BadArgumentType, BadFree, PoolBusy, SleepInAtomic
from concmem.mm import gfp as gfp_flags
from concmem.mm.gfp import GFP_KERNEL, check_gfp
from concmem.runtime.api import lockless_reads

if TYPE_CHECKING:
    from concmem.mm.vmstat import VmEvents
    from concmem.runtime.api import Runtime

AllocFn = Callable[[int], Any]
"""``mempool_alloc_t``: an element for these GFP flags, or ``None``; may sleep if they say so."""
FreeFn = Callable[[Any], None]
"""``mempool_free_t``: takes what `AllocFn` gave. Never sleeps."""

RETRY_SECONDS: Final = 5.0
"""A waiter asks the allocator again after so long: memory may have been freed past the pool."""


class Mempool:
    """
    ``mempool_t``. Made by ``machine.mempool_create`` and its relatives.

    Args:
        min_nr: elements kept in reserve. With 0 nothing is, but one that comes back is handed to who waits.
        alloc_fn: allocates an element.
        free_fn: frees one.
        pool_data: what the elements come from; for people, and for who made the pool.
        allocator_first: Linux's order instead of the seed's.

    `curr_nr` elements are in reserve from the start: less than *min_nr* when there was no memory for more.
    """

    # Read without the lock by `_needs_elements`, which says why that is enough.
    __guarded_by__: Final = {
        "elements": "lock",
        **dict.fromkeys(("curr_nr", "min_nr"), lockless_reads("lock")),
    }

    def __init__(
        self,
        rt: Runtime,
        events: VmEvents,
        min_nr: int,
        alloc_fn: AllocFn,
        free_fn: FreeFn,
        pool_data: object = None,
        allocator_first: bool = False,
    ) -> None:
        self._rt = rt
        self._events = events
        self.alloc_fn = alloc_fn
        self.free_fn = free_fn
        self.pool_data = pool_data
        attempts = self._from_reserve, self._from_allocator
        self._attempts = attempts[::-1] if allocator_first else attempts
        self.lock = rt.spinlock("pool->lock", irqsave=True)
        self.wait = rt.waitqueue(self.lock, "pool->wait")
        # lock
        self.min_nr = _check_min_nr(min_nr, 0)
        self.elements: list[Any] = []
        self.curr_nr = 0
        self.destroyed = False
        # Who has what is known by entries that come and go in one step each, as `Page.owners`.
        self._out: dict[object, Any] = {}
        events.count("mempool_create")
        events.count("mempool_prealloc", self._fill())
        events.count("mempool_created" if self.curr_nr == min_nr else "mempool_prealloc_short")

    def _fill(self) -> int:
        """Allocate elements until the reserve is full or memory is short; how many. May sleep."""
        added = 0
        # No lock: `_add` looks again.
        while self.curr_nr < self.min_nr and (element := self.alloc_fn(GFP_KERNEL)) is not None:
            if not self._add(element):  # others have filled it meanwhile
                self.free_fn(element)
                break
            added += 1
        return added

    # -- allocate

    def alloc(self, gfp: int = GFP_KERNEL, timeout: float | None = None) -> Any:
        """
        An element (``mempool_alloc``). On a CPU.

        Sleeps until there is one, if *gfp* has ``DIRECT_RECLAIM``.

        Args:
            gfp: as for the allocator; without ``DIRECT_RECLAIM`` nothing here sleeps.
            timeout: seconds to wait at most; ``None``: as long as it takes.

        Returns:
            The element; ``None`` only if *gfp* forbids to sleep, or after *timeout*.
        """
        check_gfp(gfp)
        self._check_alive()
        may_sleep = bool(gfp & gfp_flags.DIRECT_RECLAIM)
        if may_sleep and self._rt.in_interrupt():
            raise SleepInAtomic("mempool_alloc: gfp has DIRECT_RECLAIM in an interrupt handler")
        # The pool is the reserve: the allocator must not use up its own, nor try hard or complain.
        gfp |= gfp_flags.NOMEMALLOC | gfp_flags.NORETRY | gfp_flags.NOWARN
        deadline = None if timeout is None else self._rt.clock_ns() + _check_timeout(timeout)
        element = self._try_alloc(gfp & ~(gfp_flags.DIRECT_RECLAIM | gfp_flags.IO))
        while element is None and may_sleep:
            element = self._from_allocator(gfp)
            if element is None:
                element = self._wait_for_element(deadline)
                if element is None and self._has_passed(deadline):
                    break
        if element is None:
            self._events.count("mempool_alloc_failed")
            return None
        self._out[_key(element)] = element
        return element

    def _try_alloc(self, gfp: int) -> Any:
        """One attempt at the reserve and the allocator, in the pool's order."""
        first, second = self._attempts
        element = first(gfp)
        if element is None:
            element = second(gfp)
            if element is None:
                self._events.count("mempool_alloc_empty")
        return element

    def _from_reserve(self, _gfp: int) -> Any:
        with self.lock:
            return self._take()

    def _take(self) -> Any:
        """The last element of the reserve, if any. Caller holds lock."""
        if not self.curr_nr:
            return None
        self.curr_nr -= 1
        self._events.count("mempool_alloc_reserved")
        return self.elements.pop()

    def _from_allocator(self, gfp: int) -> Any:
        element = self.alloc_fn(gfp)
        if element is not None:
            self._events.count("mempool_alloc_allocator")
        return element

    def _wait_for_element(self, deadline: int | None) -> Any:
        """Sleep until there may be an element in reserve, and take it; ``None``: look again."""
        with self.lock:
            if not self.curr_nr:
                seconds = self._seconds_to_sleep(deadline)
                if seconds is None or seconds > 0:
                    self._events.count("mempool_alloc_waited")
                    self.wait.wait(seconds, lambda: self.curr_nr > 0)
            return self._take()

    def _seconds_to_sleep(self, deadline: int | None) -> float | None:
        """Until the allocator is asked again; ``None``: never."""
        if deadline is None:
            return RETRY_SECONDS
        return min(RETRY_SECONDS, (deadline - self._rt.clock_ns()) / 1e9)

    def _has_passed(self, deadline: int | None) -> bool:
        return deadline is not None and self._rt.clock_ns() >= deadline

    # -- free

    def free(self, element: Any) -> None:
        """
        Give an element back (``mempool_free``). Never sleeps; from interrupts, too.

        Raises:
            BadFree: *element* is not one that this pool has handed out, or it has it already.
        """
        if element is None:
            return
        if self._out.pop(_key(element), None) is None:
            raise BadFree(
                f"element: cpu{self._rt.smp_processor_id()} frees {_show(element)} to a pool of "
                f"{self.pool_data!r} that has not handed it out, or has it already"
            )
        if self._needs_elements() and self._add(element):
            self._events.count("mempool_free_reserved")
        else:
            self.free_fn(element)
            self._events.count("mempool_free_allocator")

    def _needs_elements(self) -> bool:
        """
        Whether the reserve is not full, by a look without the lock.

        That is enough, since a wrong "full" harms nobody. There are waiters only while `curr_nr` is 0.
        Suppose this element came from the reserve; then its own allocation made `curr_nr` less than
        `_nr_slots`, before this look. If the look finds it full nevertheless, others have filled it since.
        Whoever waits after that has seen it empty again, so other elements were taken out since, and
        *their* frees look later than this one. The last of them finds it not full. And if the element
        came from the allocator, the reserve does not depend on it at all.
        """
        return self.curr_nr < self._nr_slots()

    def _nr_slots(self) -> int:
        """
        How many elements there is room for.

        Since Linux kernel commit a2152fef2902 ("mm: mempool: fix crash in mempool_free() for zero-minimum
        pools") (in v6.17) there is room for one also in a pool that keeps none: who waits is told of it.
        """
        return self.min_nr or 1

    def _add(self, element: Any) -> bool:
        """Put *element* into the reserve and wake waiters; false when there is no room any more."""
        with self.lock:
            if self.curr_nr >= self._nr_slots():
                return False
            self.elements.append(element)
            self.curr_nr += 1
            self._wake_waiters()
            return True

    def _wake_waiters(self) -> None:
        """Caller holds lock. Everybody, as Linux does: each looks again."""
        self.wait.wake_up_all()

    # -- resize and destroy

    def resize(self, new_min_nr: int) -> None:
        """
        Keep *new_min_nr* elements, at least 1, in reserve from now on (``mempool_resize``). May sleep.

        May run while others allocate and free, but not while the pool is destroyed. When memory is
        short the reserve is filled up by later frees.
        """
        new_min_nr = _check_min_nr(new_min_nr, 1)
        self._check_alive()
        self._rt.smp_processor_id()  # elements are allocated and freed here: only on a CPU
        surplus = []
        with self.lock:
            self.min_nr = new_min_nr
            while self.curr_nr > new_min_nr:
                self.curr_nr -= 1
                surplus.append(self.elements.pop())
        for element in surplus:
            self.free_fn(element)
        self._fill()

    def destroy(self) -> None:
        """
        Free the reserve (``mempool_destroy``). On a CPU.

        Raises:
            PoolBusy: elements have not come back; the pool stays as it is.
        """
        self._rt.smp_processor_id()
        self._check_alive()
        with self.lock:
            if self._out:
                raise PoolBusy(
                    f"pool of {self.pool_data!r}: {len(self._out)} elements are missing, "
                    f"{self.curr_nr} of {self.min_nr} are in reserve"
                )
            self.destroyed = True
            elements, self.elements = self.elements, []
            self.curr_nr = 0
        for element in elements:
            self.free_fn(element)

    def _check_alive(self) -> None:
        if self.destroyed:
            raise PoolBusy(f"pool of {self.pool_data!r}: it has been destroyed")

    @property
    def nr_out(self) -> int:
        """Elements that are handed out. No lock: for people."""
        return len(self._out)

    def __repr__(self) -> str:
        return f"<mempool of {self.pool_data!r} {self.curr_nr}/{self.min_nr} out:{self.nr_out}>"


def _check_min_nr(min_nr: object, low: int) -> int:
    if isinstance(min_nr, bool) or not isinstance(min_nr, int):
        raise BadArgumentType(f"min_nr: expected a whole number, got {min_nr!r}")
    if min_nr < low:
        raise BadArgument(f"min_nr: must be at least {low}, got {min_nr}")
    return min_nr


def _check_timeout(timeout: object) -> int:
    """Nanoseconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise BadArgumentType(f"timeout: expected seconds, got {timeout!r}")
    if not 0 <= timeout < 1 << 32:
        raise BadArgument(f"timeout: must be 0 to {1 << 32} seconds, got {timeout}")
    return int(timeout * 1e9)


def _key(element: object) -> object:
    """What tells elements apart: addresses by value, objects by identity."""
    return element if isinstance(element, int) else id(element)


def _show(element: object) -> str:
    return hex(element) if isinstance(element, int) else repr(element)
